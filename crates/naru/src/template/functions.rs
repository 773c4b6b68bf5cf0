//! Functions of templates: Go's built-in ones and those that Docker adds.

use std::cmp::Ordering;

use super::value::Value;

/// Names that a template may call.
const KNOWN: &[&str] = &[
    "and", "or", "not", "len", "index", "slice", "print", "printf", "println", "html", "js", "urlquery", "eq", "ne", "lt", "le", "gt",
    "ge", "json", "join", "split", "lower", "upper", "title", "pad", "truncate",
];

pub fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// Whether a function leaves the titles of a table alone.
pub fn keeps_titles(name: &str) -> bool {
    matches!(name, "json" | "lower" | "upper" | "title" | "truncate" | "pad" | "split")
}

/// Calls a function; `and` and `or` are not here because they do not evaluate all their arguments.
pub fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let text = |i: usize| arguments.get(i).map(Value::text).unwrap_or_default();
    let wants = |count: usize| {
        if arguments.len() == count {
            Ok(())
        } else {
            Err(format!("wrong number of args for {name}: want {count} got {}", arguments.len()))
        }
    };
    Ok(match name {
        "not" => {
            wants(1)?;
            Value::Bool(!arguments[0].truth())
        }
        "len" => {
            wants(1)?;
            length(&arguments[0])?
        }
        "index" => index(arguments)?,
        "slice" => slice(arguments)?,
        "print" => Value::String(print(arguments)),
        "println" => {
            let parts: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            Value::String(parts.join(" ") + "\n")
        }
        "printf" => Value::String(printf(text(0), arguments.get(1..).unwrap_or_default())),
        "html" => Value::String(
            print(arguments).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;"),
        ),
        "js" => Value::String(print(arguments).replace('\\', "\\\\").replace('\'', "\\'").replace('"', "\\\"").replace('\n', "\\u000A")),
        "urlquery" => Value::String(naru_api::query::encode(&print(arguments)).replace("%20", "+")),
        "eq" => {
            let [first, rest @ ..] = arguments else { return Err("missing argument for comparison".to_owned()) };
            if rest.is_empty() {
                return Err("missing argument for comparison".to_owned());
            }
            let mut equal = false;
            for other in rest {
                equal = equal || compare(first, other)? == Ordering::Equal;
            }
            Value::Bool(equal)
        }
        "ne" | "lt" | "le" | "gt" | "ge" => {
            wants(2)?;
            let order = compare(&arguments[0], &arguments[1])?;
            Value::Bool(match name {
                "ne" => order.is_ne(),
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            })
        }
        "json" => {
            wants(1)?;
            // Docker's `json` does not escape HTML.
            Value::String(arguments[0].to_json(false))
        }
        "join" => {
            wants(2)?;
            let Value::List(items) = &arguments[0] else { return Err("join wants a list".to_owned()) };
            Value::String(items.iter().map(ToString::to_string).collect::<Vec<_>>().join(text(1)))
        }
        "split" => {
            wants(2)?;
            match text(1) {
                "" => Value::List(text(0).chars().map(|c| Value::String(c.to_string())).collect()),
                separator => Value::List(text(0).split(separator).map(Value::from).collect()),
            }
        }
        "lower" => Value::String(text(0).to_lowercase()),
        "upper" => Value::String(text(0).to_uppercase()),
        "title" => Value::String(title(text(0))),
        "pad" => {
            wants(3)?;
            let blanks = |i: usize| match arguments[i] {
                Value::Int(count) => " ".repeat(usize::try_from(count).unwrap_or(0).min(1000)),
                _ => String::new(),
            };
            if text(0).is_empty() { Value::from("") } else { Value::String(format!("{}{}{}", blanks(1), text(0), blanks(2))) }
        }
        "truncate" => {
            wants(2)?;
            match arguments[1] {
                Value::Int(length) => Value::String(text(0).chars().take(usize::try_from(length).unwrap_or(0)).collect()),
                _ => return Err("truncate wants a number".to_owned()),
            }
        }
        other => return Err(format!("function {other:?} not defined")),
    })
}

fn length(value: &Value) -> Result<Value, String> {
    let length = match value {
        Value::String(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Map(entries) => entries.len(),
        Value::Null => return Err("len of nil pointer".to_owned()),
        other => return Err(format!("len of type {}", kind(other))),
    };
    Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Map(_) => "map[string]interface {}",
    }
}

fn position(value: &Value, length: usize) -> Result<usize, String> {
    match value {
        Value::Int(i) => match usize::try_from(*i) {
            Ok(at) if at < length => Ok(at),
            _ => Err(format!("index out of range: {i}")),
        },
        other => Err(format!("cannot index slice/array with type {}", kind(other))),
    }
}

fn index(arguments: &[Value]) -> Result<Value, String> {
    let [first, keys @ ..] = arguments else { return Err("index of untyped nil".to_owned()) };
    let mut value = first.clone();
    for key in keys {
        value = match &value {
            Value::List(items) => items[position(key, items.len())?].clone(),
            Value::String(text) => Value::Int(i64::from(text.as_bytes()[position(key, text.len())?])),
            // A key that is not there is the zero value, which prints as nothing.
            Value::Map(_) => value.get(key.text()).cloned().unwrap_or(Value::String(String::new())),
            Value::Null => return Err("index of untyped nil".to_owned()),
            other => return Err(format!("can't index item of type {}", kind(other))),
        };
    }
    Ok(value)
}

fn slice(arguments: &[Value]) -> Result<Value, String> {
    let [value, bounds @ ..] = arguments else { return Err("slice of untyped nil".to_owned()) };
    let bound = |i: usize, default: usize, length: usize| match bounds.get(i) {
        None => Ok(default),
        Some(value) => position(value, length + 1),
    };
    let cut = |length: usize| -> Result<(usize, usize), String> {
        let (from, to) = (bound(0, 0, length)?, bound(1, length, length)?);
        if from > to { Err(format!("invalid slice index: {from} > {to}")) } else { Ok((from, to)) }
    };
    match value {
        Value::String(text) => {
            let (from, to) = cut(text.len())?;
            text.get(from..to).map(Value::from).ok_or_else(|| "slice cuts a character".to_owned())
        }
        Value::List(items) => {
            let (from, to) = cut(items.len())?;
            Ok(Value::List(items[from..to].to_vec()))
        }
        other => Err(format!("can't slice item of type {}", kind(other))),
    }
}

fn compare(a: &Value, b: &Value) -> Result<Ordering, String> {
    let incompatible = || "incompatible types for comparison".to_owned();
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => float(a).partial_cmp(&float(b)).ok_or_else(incompatible),
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::Null, Value::Null) => Ok(Ordering::Equal),
        (Value::Null, _) | (_, Value::Null) => Ok(Ordering::Less),
        _ => Err(incompatible()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "comparisons with a float are done as floats, as Go's constants are")]
fn float(value: &Value) -> f64 {
    match value {
        Value::Int(value) => *value as f64,
        Value::Float(value) => *value,
        _ => 0.0,
    }
}

/// Go's Sprint: blanks between operands when neither is a string.
fn print(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (i, value) in arguments.iter().enumerate() {
        let strings = matches!(value, Value::String(_)) || i == 0 || matches!(arguments[i - 1], Value::String(_));
        if !strings {
            out.push(' ');
        }
        out.push_str(&value.to_string());
    }
    out
}

fn title(text: &str) -> String {
    let mut fresh = true;
    text.chars()
        .map(|c| {
            let out = if fresh { c.to_uppercase().next().unwrap_or(c) } else { c };
            fresh = !(c.is_alphanumeric() || c == '_' || c == '\'');
            out
        })
        .collect()
}

/// The verbs of fmt that formats use: v s d q t x X f c % with flags `-`, `0`, `+`, width and precision.
fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut next = arguments.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (mut left, mut zero, mut plus) = (false, false, false);
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
            match flag {
                '-' => left = true,
                '0' => zero = true,
                '+' => plus = true,
                _ => {}
            }
        }
        let mut digits = || {
            let mut text = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                text.push(digit);
            }
            text.parse::<usize>().ok().map(|width| width.min(1000))
        };
        let width = digits().unwrap_or(0);
        let precision = if chars.next_if_eq(&'.').is_some() {
            let mut text = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                text.push(digit);
            }
            Some(text.parse::<usize>().unwrap_or(0).min(1000))
        } else {
            None
        };
        let Some(verb) = chars.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = next.next() else {
            out.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        let mut text = formatted(verb, value, precision);
        if plus && matches!(value, Value::Int(0..) | Value::Float(_)) && !text.starts_with('-') {
            text.insert(0, '+');
        }
        let missing = width.saturating_sub(text.chars().count());
        match (left, zero && !matches!(value, Value::String(_))) {
            (true, _) => out.push_str(&(text + &" ".repeat(missing))),
            (false, true) => {
                let (sign, number) = text.strip_prefix('-').map_or(("", text.as_str()), |number| ("-", number));
                out.push_str(&format!("{sign}{}{number}", "0".repeat(missing)));
            }
            (false, false) => out.push_str(&(" ".repeat(missing) + &text)),
        }
    }
    let extra: Vec<String> = next.map(|value| format!("{}={value}", kind(value))).collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn formatted(verb: char, value: &Value, precision: Option<usize>) -> String {
    match (verb, value) {
        ('v' | 's', Value::String(text)) => match precision {
            Some(length) => text.chars().take(length).collect(),
            None => text.clone(),
        },
        ('v', value) => value.to_string(),
        ('s', Value::List(_) | Value::Map(_)) => value.to_string(),
        ('d', Value::Int(number)) => number.to_string(),
        ('t', Value::Bool(value)) => value.to_string(),
        ('q', Value::String(text)) => Value::String(text.clone()).to_json(false),
        ('x', Value::Int(number)) => format!("{number:x}"),
        ('X', Value::Int(number)) => format!("{number:X}"),
        ('x', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('c', Value::Int(number)) => u32::try_from(*number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').to_string(),
        ('f', Value::Float(number)) => format!("{number:.*}", precision.unwrap_or(6)),
        ('T', value) => kind(value).to_owned(),
        (verb, value) => format!("%!{verb}({}={value})", kind(value)),
    }
}
