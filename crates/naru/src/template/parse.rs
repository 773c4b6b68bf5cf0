//! From text to a tree: Go's text/template syntax without `define`, `block` and `template`.

use super::TemplateError;
use super::value::Value;

/// A piece of a template.
#[derive(Debug, Clone)]
pub enum Node {
    Text(String),
    Action(Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
    Break,
    Continue,
}

/// Commands joined by `|`, with the variables they are assigned to.
#[derive(Debug, Clone, Default)]
pub struct Pipeline {
    pub variables: Vec<String>,
    pub declares: bool,
    pub commands: Vec<Command>,
}

/// A function or value with its arguments.
#[derive(Debug, Clone)]
pub struct Command {
    pub arguments: Vec<Operand>,
}

/// One operand: where it begins, its text, what it starts with, and the fields that follow.
#[derive(Debug, Clone)]
pub struct Operand {
    pub position: usize,
    pub source: String,
    pub base: Base,
    pub fields: Vec<String>,
}

/// What an operand starts with.
#[derive(Debug, Clone)]
pub enum Base {
    Dot,
    Variable(String),
    Literal(Value),
    Nil,
    Function(String),
    Group(Box<Pipeline>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Field(String),
    Dot,
    Variable(String),
    Word(String),
    Literal(Value),
    Pipe,
    Open,
    Close,
    Comma,
    Declare,
    Assign,
}

#[derive(Debug, Clone)]
struct Lexeme {
    token: Token,
    start: usize,
    end: usize,
    /// Whether a blank stands before it: `.a .b` are two operands, `.a.b` one.
    spaced: bool,
}

enum Piece {
    Text(String),
    Action { offset: usize, body: String },
}

fn broken(text: impl Into<String>) -> TemplateError {
    TemplateError::Parse(text.into())
}

/// Cuts the text at its actions; `{{-` and `-}}` trim blanks, comments vanish.
fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut out = Vec::new();
    let mut at = 0;
    let mut trim_next = false;
    while at <= text.len() {
        let open = text[at..].find("{{").map(|i| at + i);
        let mut literal = &text[at..open.unwrap_or(text.len())];
        if trim_next {
            literal = literal.trim_start_matches([' ', '\t', '\r', '\n']);
        }
        let Some(open) = open else {
            if !literal.is_empty() {
                out.push(Piece::Text(literal.to_owned()));
            }
            break;
        };
        let mut start = open + 2;
        let trims_before = text[start..].starts_with('-') && text[start + 1..].starts_with([' ', '\t', '\r', '\n']);
        if trims_before {
            literal = literal.trim_end_matches([' ', '\t', '\r', '\n']);
            start += 1;
        }
        if !literal.is_empty() {
            out.push(Piece::Text(literal.to_owned()));
        }
        let close = action_end(text, start)?;
        let mut body = &text[start..close];
        trim_next = body.ends_with('-') && body[..body.len() - 1].ends_with([' ', '\t', '\r', '\n']);
        if trim_next {
            body = &body[..body.len() - 1];
        }
        let trimmed = body.trim();
        if !(trimmed.starts_with("/*") && trimmed.ends_with("*/")) {
            out.push(Piece::Action { offset: start, body: body.to_owned() });
        }
        at = close + 2;
    }
    Ok(out)
}

fn action_end(text: &str, start: usize) -> Result<usize, TemplateError> {
    let bytes = text.as_bytes();
    let mut at = start;
    if text[start..].trim_start().starts_with("/*") {
        let end = text[start..].find("*/").ok_or_else(|| broken("template: :1: unclosed comment"))?;
        at = start + end + 2;
    }
    while at < bytes.len() {
        match bytes[at] {
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Ok(at),
            quote @ (b'"' | b'`' | b'\'') => {
                at += 1;
                while bytes.get(at).is_some_and(|&b| b != quote) {
                    if bytes[at] == b'\\' && quote != b'`' {
                        at += 1;
                    }
                    at += 1;
                }
                if at >= bytes.len() {
                    let kind = if quote == b'`' { "unterminated raw quoted string" } else { "unterminated quoted string" };
                    return Err(broken(format!("template: :1: {kind}")));
                }
                at += 1;
            }
            _ => at += 1,
        }
    }
    Err(broken("template: :1: unclosed action"))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn lex(body: &str) -> Result<Vec<Lexeme>, TemplateError> {
    let mut out = Vec::new();
    let mut at = 0;
    let mut spaced = false;
    while let Some(c) = body[at..].chars().next() {
        if c.is_whitespace() {
            at += c.len_utf8();
            spaced = true;
            continue;
        }
        let word_end = |from: usize| from + body[from..].find(|c| !is_word(c)).unwrap_or(body.len() - from);
        let rest = &body[at..];
        let (token, end) = match c {
            '.' => match word_end(at + 1) {
                end if end == at + 1 => (Token::Dot, at + 1),
                end if body[at + 1..].starts_with(|c: char| c.is_ascii_digit()) => (number(&body[at..end])?, end),
                end => (Token::Field(body[at + 1..end].to_owned()), end),
            },
            '$' => {
                let end = word_end(at + 1);
                (Token::Variable(body[at..end].to_owned()), end)
            }
            '"' | '`' | '\'' => string(rest, at)?,
            '|' => (Token::Pipe, at + 1),
            '(' => (Token::Open, at + 1),
            ')' => (Token::Close, at + 1),
            ',' => (Token::Comma, at + 1),
            ':' if rest.starts_with(":=") => (Token::Declare, at + 2),
            '=' => (Token::Assign, at + 1),
            c if c.is_ascii_digit() || ((c == '-' || c == '+') && rest[1..].starts_with(|c: char| c.is_ascii_digit())) => {
                let length = rest[1..].find(|c: char| !is_word(c) && c != '.').map_or(rest.len(), |i| i + 1);
                (number(&rest[..length])?, at + length)
            }
            c if is_word(c) => {
                let end = word_end(at);
                (Token::Word(body[at..end].to_owned()), end)
            }
            c => return Err(broken(format!("template: :1: unexpected {c:?} in command"))),
        };
        out.push(Lexeme { token, start: at, end, spaced });
        spaced = false;
        at = end;
    }
    Ok(out)
}

fn number(text: &str) -> Result<Token, TemplateError> {
    let bad = || broken(format!("template: :1: bad number syntax: {text:?}"));
    if let Some(hex) = text.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16).map(|value| Token::Literal(Value::Int(value))).map_err(|_| bad());
    }
    match text.parse::<i64>() {
        Ok(value) => Ok(Token::Literal(Value::Int(value))),
        Err(_) => text.parse().map(|value| Token::Literal(Value::Float(value))).map_err(|_| bad()),
    }
}

fn string(rest: &str, at: usize) -> Result<(Token, usize), TemplateError> {
    let quote = rest.chars().next().unwrap_or('"');
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            c if c == quote && quote == '\'' => {
                let code = text.chars().next().map_or(0, u32::from);
                return Ok((Token::Literal(Value::Int(i64::from(code))), at + i + 1));
            }
            c if c == quote => return Ok((Token::Literal(Value::String(text)), at + i + 1)),
            '\\' if quote != '`' => match chars.next().map(|(_, c)| c) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
                Some('x') => text.push(hex_escape(&mut chars, 2)?),
                Some('u') => text.push(hex_escape(&mut chars, 4)?),
                Some(c @ ('\\' | '"' | '\'')) => text.push(c),
                Some(c) => return Err(broken(format!("template: :1: invalid syntax: unknown escape \\{c}"))),
                None => break,
            },
            c => text.push(c),
        }
    }
    Err(broken("template: :1: unterminated quoted string"))
}

fn hex_escape(chars: &mut impl Iterator<Item = (usize, char)>, digits: usize) -> Result<char, TemplateError> {
    let text: String = chars.take(digits).map(|(_, c)| c).collect();
    u32::from_str_radix(&text, 16).ok().and_then(char::from_u32).ok_or_else(|| broken("template: :1: invalid syntax"))
}

/// Nested blocks deeper than this are refused rather than followed.
const MAX_DEPTH: usize = 100;

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    depth: usize,
}

/// What ended a list of nodes: the text itself, `{{end}}`, or `{{else}}`.
enum End {
    Text,
    Block,
    Else(Option<Piece>),
}

/// Parses a whole template.
pub fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { pieces: pieces(text)?.into_iter(), depth: 0 };
    match parser.list()? {
        (nodes, End::Text) => Ok(nodes),
        (_, End::Block) => Err(broken("template: :1: unexpected {{end}}")),
        (_, End::Else(_)) => Err(broken("template: :1: unexpected {{else}}")),
    }
}

impl Parser {
    fn list(&mut self) -> Result<(Vec<Node>, End), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (offset, body) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action { offset, body } => (offset, body),
            };
            let word_at = body.len() - body.trim_start().len();
            let word: String = body[word_at..].chars().take_while(|&c| is_word(c)).collect();
            let after = word_at + word.len();
            let rest = Piece::Action { offset: offset + after, body: body[after..].to_owned() };
            match word.as_str() {
                "if" | "with" | "range" => nodes.push(self.block(&word, rest)?),
                "end" => return Ok((nodes, End::Block)),
                "else" if body[after..].trim().is_empty() => return Ok((nodes, End::Else(None))),
                "else" => return Ok((nodes, End::Else(Some(rest)))),
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" | "block" | "template" => {
                    return Err(broken(format!("template: :1: {{{{{word}}}}} is not supported in a format")));
                }
                _ => nodes.push(Node::Action(pipeline(offset, &body)?)),
            }
        }
        Ok((nodes, End::Text))
    }

    fn block(&mut self, word: &str, rest: Piece) -> Result<Node, TemplateError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(broken("template: :1: blocks are nested too deeply"));
        }
        let Piece::Action { offset, body } = rest else { return Err(broken("template: :1: missing value")) };
        if body.trim().is_empty() {
            return Err(broken(format!("template: :1: missing value for {word}")));
        }
        let head = pipeline(offset, &body)?;
        let (then, end) = self.list()?;
        let otherwise = match end {
            End::Block => Vec::new(),
            End::Else(None) => match self.list()? {
                (nodes, End::Block) => nodes,
                _ => return Err(broken("template: :1: unexpected EOF")),
            },
            // `{{else if …}}` shares the {{end}} of its parent.
            End::Else(Some(Piece::Action { offset, body })) => {
                let trimmed = body.trim_start();
                let Some(next) = ["if", "with"].into_iter().find(|word| trimmed.starts_with(word)) else {
                    return Err(broken("template: :1: unexpected token in {{else}}"));
                };
                let skip = body.len() - trimmed.len() + next.len();
                vec![self.block(next, Piece::Action { offset: offset + skip, body: body[skip..].to_owned() })?]
            }
            End::Text | End::Else(Some(Piece::Text(_))) => return Err(broken("template: :1: unexpected EOF")),
        };
        self.depth -= 1;
        Ok(match word {
            "if" => Node::If(head, then, otherwise),
            "with" => Node::With(head, then, otherwise),
            _ => Node::Range(head, then, otherwise),
        })
    }
}

fn pipeline(offset: usize, body: &str) -> Result<Pipeline, TemplateError> {
    let lexemes = lex(body)?;
    let mut cursor = Cursor { lexemes: &lexemes, at: 0, offset, body, depth: 0 };
    let pipeline = cursor.pipeline()?;
    match cursor.peek() {
        None => Ok(pipeline),
        Some(lexeme) => Err(broken(format!("template: :1: unexpected {:?} in command", &body[lexeme.start..lexeme.end]))),
    }
}

struct Cursor<'a> {
    lexemes: &'a [Lexeme],
    at: usize,
    offset: usize,
    body: &'a str,
    depth: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<&Lexeme> {
        self.lexemes.get(self.at)
    }

    fn token(&self, ahead: usize) -> Option<&Token> {
        self.lexemes.get(self.at + ahead).map(|lexeme| &lexeme.token)
    }

    fn pipeline(&mut self) -> Result<Pipeline, TemplateError> {
        let mut out = Pipeline::default();
        if let Some(Token::Variable(first)) = self.token(0).cloned() {
            match (self.token(1), self.token(2).cloned(), self.token(3)) {
                (Some(Token::Declare), ..) => (out.variables, out.declares, self.at) = (vec![first], true, self.at + 2),
                (Some(Token::Assign), ..) => (out.variables, self.at) = (vec![first], self.at + 2),
                (Some(Token::Comma), Some(Token::Variable(second)), Some(Token::Declare | Token::Assign)) => {
                    out.declares = self.token(3) == Some(&Token::Declare);
                    out.variables = vec![first, second];
                    self.at += 4;
                }
                _ => {}
            }
        }
        loop {
            let mut arguments = Vec::new();
            while let Some(lexeme) = self.peek() {
                if matches!(lexeme.token, Token::Pipe | Token::Close) {
                    break;
                }
                arguments.push(self.operand()?);
            }
            if arguments.is_empty() {
                return Err(broken("template: :1: missing value for command"));
            }
            out.commands.push(Command { arguments });
            if self.token(0) != Some(&Token::Pipe) {
                return Ok(out);
            }
            self.at += 1;
        }
    }

    fn operand(&mut self) -> Result<Operand, TemplateError> {
        let first = self.lexemes[self.at].clone();
        self.at += 1;
        let mut fields = Vec::new();
        let mut last = first.start;
        let mut end = first.end;
        let base = match first.token {
            Token::Dot => Base::Dot,
            Token::Field(name) => {
                fields.push(name);
                Base::Dot
            }
            Token::Variable(name) => Base::Variable(name),
            Token::Literal(value) => Base::Literal(value),
            Token::Word(word) => match word.as_str() {
                "true" => Base::Literal(Value::Bool(true)),
                "false" => Base::Literal(Value::Bool(false)),
                "nil" => Base::Nil,
                _ => {
                    if !super::functions::is_known(&word) {
                        return Err(broken(format!("template: :1: function {word:?} not defined")));
                    }
                    Base::Function(word)
                }
            },
            Token::Open => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(broken("template: :1: parentheses are nested too deeply"));
                }
                let inner = self.pipeline()?;
                self.depth -= 1;
                match self.peek() {
                    Some(lexeme) if lexeme.token == Token::Close => {
                        end = lexeme.end;
                        self.at += 1;
                    }
                    _ => return Err(broken("template: :1: unclosed left paren")),
                }
                Base::Group(Box::new(inner))
            }
            _ => return Err(broken(format!("template: :1: unexpected {:?} in operand", &self.body[first.start..first.end]))),
        };
        while let Some(Lexeme { token: Token::Field(name), start, end: to, spaced: false }) = self.peek().cloned() {
            fields.push(name);
            (last, end) = (start, to);
            self.at += 1;
        }
        let source = self.body[first.start..end].to_owned();
        Ok(Operand { position: self.offset + last, source, base, fields })
    }
}
