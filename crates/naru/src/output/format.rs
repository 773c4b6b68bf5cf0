//! `--format` of lists: `table`, `table TEMPLATE`, `json`, or a template run for each row.

use super::table;
use crate::cli::error::{Failure, Result};
use crate::template::{Missing, Scope, Template, Value};

/// A row: its fields by name (sorted in JSON), and methods with arguments.
pub struct Row {
    pub fields: Value,
    pub labels: Option<std::collections::BTreeMap<String, String>>,
    /// Fields that JSON has another word for.
    json: Vec<(&'static str, Value)>,
}

impl Row {
    /// A row of text fields.
    pub fn new(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let mut fields: Vec<(String, Value)> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Self { fields: Value::Map(fields), labels: None, json: Vec::new() }
    }

    /// Gives a field another value in JSON.
    pub fn with_json(mut self, field: &'static str, value: impl Into<Value>) -> Self {
        self.json.push((field, value.into()));
        self
    }

    /// The row as JSON; unlike the template function's own, Go's encoder escapes HTML here.
    fn to_json(&self) -> String {
        let mut fields = self.fields.clone();
        if let Value::Map(entries) = &mut fields {
            for (field, value) in &self.json {
                entries.iter_mut().filter(|(name, _)| name == field).for_each(|entry| entry.1 = value.clone());
            }
        }
        fields.to_json(true)
    }

    /// Offers `.Label "key"`.
    pub fn with_labels(mut self, labels: std::collections::BTreeMap<String, String>) -> Self {
        self.labels = Some(labels);
        self
    }
}

/// A list to be printed.
pub struct Listing<'a> {
    /// The type named in errors, as Docker calls it.
    pub kind: &'a str,
    /// Titles by field.
    pub headers: &'a [(&'a str, &'a str)],
    /// The template behind `table`.
    pub default: &'a str,
    /// The template behind `raw`, if there is one.
    pub raw: Option<&'a str>,
}

/// What `--format` asks for.
enum Style {
    Table(String),
    Template(String),
    Json,
}

impl Listing<'_> {
    /// Renders all rows.
    pub fn render(&self, format: &str, rows: &[Row]) -> Result<String> {
        let style = match format {
            "" | "table" => Style::Table(self.default.to_owned()),
            "json" => Style::Json,
            "raw" if self.raw.is_some() => Style::Template(self.raw.unwrap_or_default().to_owned()),
            _ => match format.strip_prefix("table ") {
                Some(template) => Style::Table(unescape(template.trim())),
                None => Style::Template(unescape(format)),
            },
        };
        match style {
            Style::Json => Ok(rows.iter().map(|row| row.to_json() + "\n").collect()),
            Style::Template(text) => {
                let template = parse(&text)?;
                let mut out = String::new();
                for row in rows {
                    out.push_str(&self.execute(&template, row)?);
                    out.push('\n');
                }
                Ok(out)
            }
            Style::Table(text) => {
                let template = parse(&text)?;
                let mut lines = String::new();
                for row in rows {
                    lines.push_str(&self.execute(&template, row)?);
                    lines.push('\n');
                }
                let header = self.header(&text)?;
                Ok(table::align(&format!("{header}\n{lines}")))
            }
        }
    }

    fn execute(&self, template: &Template, row: &Row) -> Result<String> {
        let methods = |name: &str, arguments: &[Value]| match (name, arguments) {
            ("Label", [Value::String(key)]) => Some(Value::String(row.labels.as_ref()?.get(key).cloned().unwrap_or_default())),
            ("json", [dot]) if *dot == row.fields => Some(Value::String(row.to_json())),
            _ => None,
        };
        let scope = Scope { data: &row.fields, methods: &methods, missing: Missing::FieldError(self.kind), titles: false };
        template.execute(&scope).map_err(|error| Failure::message(format!("template parsing error: {error}")))
    }

    /// The titles: the template run over the header names, where functions that change values leave titles alone.
    fn header(&self, template: &str) -> Result<String> {
        let names = Value::Map(self.headers.iter().map(|(field, title)| ((*field).to_owned(), Value::from(*title))).collect());
        let methods = |name: &str, arguments: &[Value]| match (name, arguments) {
            ("Label", [Value::String(key)]) => {
                let last = key.rsplit(['-', '.']).next().unwrap_or(key);
                Some(Value::String(if key.contains('.') { last.to_owned() } else { key.replace(['-', '_'], " ") }))
            }
            _ => None,
        };
        let scope = Scope { data: &names, methods: &methods, missing: Missing::NoValue, titles: true };
        parse(template)?.execute(&scope).map_err(|error| Failure::message(format!("template parsing error: {error}")))
    }
}

fn parse(text: &str) -> Result<Template> {
    Template::parse(text).map_err(|error| Failure::message(format!("template parsing error: {error}")))
}

/// `\t` and `\n` typed in a shell mean the characters.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// Go's `%q` for short text.
pub fn quoted(text: &str) -> Value {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    Value::String(out)
}

/// `--format` of one object (`info`, `version`): `json` or a template.
pub fn render_object(format: &str, object: &Value) -> Result<String> {
    let text = if format == "json" { "{{json .}}".to_owned() } else { unescape(format) };
    let template = Template::parse(&text).map_err(|error| Failure::status(64, format!("template parsing error: {error}")))?;
    let scope = Scope { data: object, methods: &crate::template::no_methods, missing: Missing::MapError, titles: false };
    template.execute(&scope).map_err(|error| Failure::message(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: Listing<'_> = Listing {
        kind: "*formatter.volumeContext",
        headers: &[("Name", "VOLUME NAME"), ("Driver", "DRIVER")],
        default: "table {{.Driver}}\t{{.Name}}",
        raw: None,
    };

    #[test]
    fn styles() {
        let rows = || vec![Row::new([("Name", "v1".into()), ("Driver", "local".into())])];
        let listing = Listing { default: "{{.Driver}}\t{{.Name}}", ..LISTING };
        let render = |format: &str| listing.render(format, &rows()).expect(format);
        assert_eq!(render(""), "DRIVER    VOLUME NAME\nlocal     v1\n");
        assert_eq!(render("table {{.Name}}"), "VOLUME NAME\nv1\n");
        assert_eq!(render("{{.Name}}\\t{{upper .Driver}}"), "v1\tLOCAL\n");
        assert_eq!(render("json"), "{\"Driver\":\"local\",\"Name\":\"v1\"}\n");
        let row = || vec![Row::new([("Name", "<v>".into()), ("Official", "[OK]".into())]).with_json("Official", "true")];
        let words = r#"{"Name":"\u003cv\u003e","Official":"true"} "<v>" [OK]"#.to_owned() + "\n";
        assert_eq!(listing.render("{{json .}} {{json .Name}} {{.Official}}", &row()).expect("format"), words);
        assert_eq!(listing.render("table {{upper .Name}}", &rows()).expect("format"), "VOLUME NAME\nV1\n");
        assert_eq!(listing.render("{{.X", &[]).expect_err("unclosed").code(), 1);
        assert_eq!(listing.render("table {{truncate .Name 3}}|{{.Name | upper}}", &[]).expect("titles"), "VOLUME NAME|VOLUME NAME\n");
    }
}
