//! Help in the layout of Docker's clients.

use clap::Command;

use super::flags::BOOL;
use super::verb::Verb;

/// Text is wrapped to this many columns.
const WIDTH: usize = 79;

/// The usage line of a command.
pub fn usage(program: &str, name: &str, verb: &Verb) -> String {
    format!("Usage:  {program} {name} {}", verb.usage.replace("{}", program)).trim_end().to_owned()
}

/// The whole help of a command.
pub fn verb(program: &str, name: &str, verb: &Verb, command: &Command) -> String {
    let mut out = format!("{}\n\n{}\n", usage(program, name, verb), verb.about);
    if verb.names.len() > 1 {
        let names: Vec<String> = verb.names.iter().map(|name| format!("{program} {name}")).collect();
        out.push_str(&format!("\nAliases:\n  {}\n", names.join(", ")));
    }
    let options = options(command);
    if !options.is_empty() {
        out.push_str(&format!("\nOptions:\n{options}"));
    }
    if !verb.examples.is_empty() {
        let examples: Vec<String> = verb.examples.lines().map(|line| format!("  {}", line.replace("{}", program))).collect();
        out.push_str(&format!("\nExamples:\n{}\n", examples.join("\n")));
    }
    out
}

/// The table of flags, by name.
pub fn options(command: &Command) -> String {
    let mut rows: Vec<(String, String, String)> = Vec::new();
    for arg in command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set()) {
        let Some(long) = arg.get_long() else { continue };
        let short = arg.get_short().map_or("    ".to_owned(), |short| format!("-{short}, "));
        let kind = match arg.get_value_names() {
            Some([name, ..]) if name == BOOL => String::new(),
            Some([name, ..]) => {
                format!(" {}", if name.chars().all(|c| c.is_ascii_uppercase() || c == '_') { "string" } else { name.as_str() })
            }
            _ => String::new(),
        };
        let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
        rows.push((long.to_owned(), format!("  {short}--{long}{kind}"), about));
    }
    rows.sort();
    let indent = rows.iter().map(|row| row.1.chars().count()).max().unwrap_or(0) + 3;
    let mut out = String::new();
    for (_, flag, about) in rows {
        let mut column = flag.chars().count();
        out.push_str(&flag);
        out.extend(std::iter::repeat_n(' ', indent - column));
        column = indent;
        let mut first = true;
        for word in about.split_whitespace() {
            let length = word.chars().count();
            if !first && column + 1 + length > WIDTH {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent));
                column = indent;
                first = true;
            }
            if !first {
                out.push(' ');
                column += 1;
            }
            out.push_str(word);
            column += length;
            first = false;
        }
        out.push('\n');
    }
    out
}

/// Rows of `name  about`, with names padded to the widest (at least ten).
pub fn commands(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|row| row.0.len()).max().unwrap_or(0).max(10) + 2;
    rows.iter().map(|(name, about)| format!("  {name:<width$}{about}\n")).collect()
}
