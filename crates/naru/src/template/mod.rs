//! Go templates for `--format`: actions, pipelines, `if`, `with`, `range`, variables and Docker's functions, over JSON
//! values. Deliberately absent: `define`, `block`, `template` and calls of methods other than those a context offers.

mod functions;
mod parse;
pub mod value;

use parse::{Base, Command, Node, Operand, Pipeline};
pub use value::Value;

/// Output longer than this is a loop gone wild.
const MAX_OUTPUT: usize = 64 << 20;

/// A template that cannot be read or run; the texts are those of Go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("{0}")]
    Parse(String),
    #[error("{0}")]
    Execute(String),
}

/// What a template is run against.
pub struct Scope<'a> {
    /// The dot.
    pub data: &'a Value,
    /// Methods of the dot that take arguments, such as `.Label "key"`.
    pub methods: &'a dyn Fn(&str, &[Value]) -> Option<Value>,
    /// What a missing key is called, and whether it is an error at all.
    pub missing: Missing<'a>,
    /// The data are titles: functions that change values give back what they are given.
    pub titles: bool,
}

/// How a missing key is treated.
#[derive(Debug, Clone, Copy)]
pub enum Missing<'a> {
    /// Go's `missingkey=error` over maps.
    MapError,
    /// A row of a list: the type's name goes into the message.
    FieldError(&'a str),
    /// Prints `<no value>`.
    NoValue,
}

/// What a field means that the engine leaves out of its answers when it is empty; Docker's client has it in its types.
fn omitted(field: &str) -> Option<Value> {
    match field {
        "ContainerConfig" | "Health" | "Healthcheck" | "Init" | "SizeRootFs" | "SizeRw" | "StopTimeout" | "UsageData" => Some(Value::Null),
        "Driver" | "Gateway" | "IPRange" | "IPv4Address" | "IPv6Address" | "MacAddress" | "Name" | "OsVersion" | "StopSignal"
        | "Subnet" | "Variant" => Some(Value::String(String::new())),
        "Annotations" | "AuxiliaryAddresses" | "ExposedPorts" | "StorageOpt" | "Sysctls" | "Tmpfs" => Some(Value::Map(Default::default())),
        "LinkLocalIPs" | "Mounts" | "OnBuild" | "Shell" => Some(Value::List(Default::default())),
        "ArgsEscaped" | "NetworkDisabled" => Some(Value::Bool(false)),
        _ => None,
    }
}

/// How Go prints the nothing of a field: an empty list or map where the client's type is one.
fn nothing(pipeline: &Pipeline) -> &'static str {
    let field = match pipeline.commands.as_slice() {
        [command] => match command.arguments.as_slice() {
            [operand] => operand.fields.last().map_or("", String::as_str),
            _ => "",
        },
        _ => "",
    };
    match field {
        "Aliases"
        | "Binds"
        | "BlkioWeightDevice"
        | "CapAdd"
        | "CapDrop"
        | "Cmd"
        | "Config"
        | "DNSNames"
        | "DeviceCgroupRules"
        | "DeviceRequests"
        | "Devices"
        | "Dns"
        | "DnsOptions"
        | "DnsSearch"
        | "Entrypoint"
        | "Env"
        | "ExecIDs"
        | "ExtraHosts"
        | "GroupAdd"
        | "Layers"
        | "Links"
        | "MaskedPaths"
        | "OnBuild"
        | "ReadonlyPaths"
        | "RepoDigests"
        | "RepoTags"
        | "SecondaryIPAddresses"
        | "SecondaryIPv6Addresses"
        | "SecurityOpt"
        | "Ulimits"
        | "VolumesFrom" => "[]",
        "DriverOpts" | "ExposedPorts" | "Labels" | "Options" | "PortBindings" | "Ports" | "Volumes" => "map[]",
        _ => "<nil>",
    }
}

/// No methods.
pub fn no_methods(_: &str, _: &[Value]) -> Option<Value> {
    None
}

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template(Vec<Node>);

impl Template {
    /// Parses a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        parse::parse(text).map(Self)
    }

    /// Runs it.
    pub fn execute(&self, scope: &Scope<'_>) -> Result<String, TemplateError> {
        let mut run = Run { scope, variables: vec![("$".to_owned(), scope.data.clone())], out: String::new() };
        run.nodes(&self.0, scope.data)?;
        Ok(run.out)
    }
}

enum Flow {
    Next,
    Break,
    Continue,
}

struct Run<'a> {
    scope: &'a Scope<'a>,
    variables: Vec<(String, Value)>,
    out: String,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            if self.out.len() > MAX_OUTPUT {
                return Err(TemplateError::Execute("template: :1: output is too long".to_owned()));
            }
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        match value {
                            Some(Value::Null) => self.out.push_str(nothing(pipeline)),
                            None => self.out.push_str("<no value>"),
                            Some(value) => self.out.push_str(&value.to_string()),
                        }
                    }
                }
                Node::If(pipeline, then, otherwise) | Node::With(pipeline, then, otherwise) => {
                    let depth = self.variables.len();
                    let value = self.pipeline(pipeline, dot)?.unwrap_or_default();
                    let inner = if matches!(node, Node::With(..)) { &value } else { dot };
                    let flow = if value.truth() { self.nodes(then, inner) } else { self.nodes(otherwise, dot) }?;
                    self.variables.truncate(depth);
                    if !matches!(flow, Flow::Next) {
                        return Ok(flow);
                    }
                }
                Node::Range(pipeline, body, otherwise) => self.range(pipeline, body, otherwise, dot)?,
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
            }
        }
        Ok(Flow::Next)
    }

    fn range(&mut self, pipeline: &Pipeline, body: &[Node], otherwise: &[Node], dot: &Value) -> Result<(), TemplateError> {
        let depth = self.variables.len();
        let plain = Pipeline { variables: Vec::new(), declares: false, commands: pipeline.commands.clone() };
        let items: Vec<(Value, Value)> = match self.pipeline(&plain, dot)?.unwrap_or_default() {
            Value::List(items) => {
                items.into_iter().enumerate().map(|(i, item)| (Value::Int(i64::try_from(i).unwrap_or(0)), item)).collect()
            }
            Value::Map(mut entries) => {
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                entries.into_iter().map(|(key, value)| (Value::String(key), value)).collect()
            }
            Value::Int(count) => (0..count.min(1 << 20)).map(|i| (Value::Int(i), Value::Int(i))).collect(),
            Value::Null => Vec::new(),
            other => return Err(TemplateError::Execute(format!("template: :1: range can't iterate over {other}"))),
        };
        if items.is_empty() {
            self.nodes(otherwise, dot)?;
        }
        for (key, value) in items {
            match pipeline.variables.as_slice() {
                [one] => self.variables.push((one.clone(), value.clone())),
                [first, second] => {
                    self.variables.push((first.clone(), key));
                    self.variables.push((second.clone(), value.clone()));
                }
                _ => {}
            }
            let flow = self.nodes(body, &value)?;
            self.variables.truncate(depth);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        Ok(())
    }

    /// The value of a pipeline; `None` is Go's "no value".
    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Option<Value>, TemplateError> {
        let mut value = None;
        for (i, command) in pipeline.commands.iter().enumerate() {
            let piped = if i == 0 { None } else { Some(value.take().unwrap_or_default()) };
            value = self.command(command, dot, piped)?;
        }
        for name in &pipeline.variables {
            let new = value.clone().unwrap_or_default();
            let known = self.variables.iter_mut().rev().find(|(variable, _)| variable == name);
            match known {
                Some((_, slot)) if !pipeline.declares => *slot = new,
                _ => self.variables.push((name.clone(), new)),
            }
        }
        Ok(value)
    }

    fn command(&mut self, command: &Command, dot: &Value, piped: Option<Value>) -> Result<Option<Value>, TemplateError> {
        let [first, rest @ ..] = command.arguments.as_slice() else { return Ok(None) };
        if let Base::Function(name) = &first.base {
            if name == "and" || name == "or" {
                let mut value = Value::Null;
                for argument in rest {
                    value = self.operand(argument, dot)?.unwrap_or_default();
                    if value.truth() == (name == "or") {
                        return Ok(Some(value));
                    }
                }
                return Ok(Some(piped.unwrap_or(value)));
            }
            let mut arguments = self.operands(rest, dot)?;
            arguments.extend(piped);
            if self.scope.titles && functions::keeps_titles(name) {
                return Ok(Some(arguments.into_iter().find(|value| matches!(value, Value::String(_))).unwrap_or_default()));
            }
            // What the dot is as JSON is its own business.
            if let ("json", Some(text)) = (name.as_str(), (self.scope.methods)(name, &arguments)) {
                return Ok(Some(text));
            }
            let value = functions::call(name, &arguments).map_err(|text| {
                let at = first.position;
                let source = rest.iter().fold(name.clone(), |all, argument| all + " " + &argument.source);
                TemplateError::Execute(format!("template: :1:{at}: executing \"\" at <{source}>: error calling {name}: {text}"))
            })?;
            return Ok(Some(value));
        }
        if let (Base::Dot, [method]) = (&first.base, first.fields.as_slice())
            && (!rest.is_empty() || piped.is_some())
        {
            let mut arguments = self.operands(rest, dot)?;
            arguments.extend(piped);
            return match (self.scope.methods)(method, &arguments) {
                Some(value) => Ok(Some(value)),
                None => Err(TemplateError::Execute(format!(
                    "template: :1:{}: executing \"\" at <{}>: {method} is not a method but has arguments",
                    first.position, first.source
                ))),
            };
        }
        if !rest.is_empty() || piped.is_some() {
            return Err(TemplateError::Execute(format!("template: :1: can't give argument to non-function {}", first.source)));
        }
        self.operand(first, dot)
    }

    fn operands(&mut self, operands: &[Operand], dot: &Value) -> Result<Vec<Value>, TemplateError> {
        operands.iter().map(|operand| Ok(self.operand(operand, dot)?.unwrap_or_default())).collect()
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Option<Value>, TemplateError> {
        let base = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Variable(name) => match self.variables.iter().rev().find(|(variable, _)| variable == name) {
                Some((_, value)) => value.clone(),
                None => return Err(TemplateError::Parse(format!("template: :1: undefined variable {name:?}"))),
            },
            Base::Literal(value) => value.clone(),
            Base::Nil => Value::Null,
            Base::Function(name) => functions::call(name, &[]).map_err(TemplateError::Execute)?,
            Base::Group(pipeline) => self.pipeline(pipeline, dot)?.unwrap_or_default(),
        };
        let mut value = base;
        for field in &operand.fields {
            value = match self.field(&value, field, operand)? {
                Some(value) => value,
                None => return Ok(None),
            };
        }
        Ok(Some(value))
    }

    fn field(&self, value: &Value, field: &str, operand: &Operand) -> Result<Option<Value>, TemplateError> {
        if let Some(found) = value.get(field) {
            return Ok(Some(found.clone()));
        }
        let refused = |why: String| {
            Err(TemplateError::Execute(format!("template: :1:{}: executing \"\" at <{}>: {why}", operand.position, operand.source)))
        };
        match (value, self.scope.missing) {
            (Value::Map(entries), Missing::MapError) => {
                // Go's own field names differ from the JSON keys in case only (`.ID`, `.Id`).
                match entries.iter().find(|(key, _)| key.eq_ignore_ascii_case(field)) {
                    Some((_, found)) => Ok(Some(found.clone())),
                    None => match omitted(field) {
                        Some(zero) => Ok(Some(zero)),
                        None => refused(format!("map has no entry for key {field:?}")),
                    },
                }
            }
            (Value::Map(_), Missing::FieldError(kind)) => refused(format!("can't evaluate field {field} in type {kind}")),
            (Value::Map(_), Missing::NoValue) => Ok(None),
            (Value::Null, Missing::NoValue) => Ok(None),
            (Value::Null, _) => refused(format!("nil data; no entry for key {field:?}")),
            _ => refused(format!("can't evaluate field {field} in type interface {{}}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(template: &str, data: &str) -> Result<String, TemplateError> {
        let data: Value = serde_json::from_str(data).unwrap();
        Template::parse(template)?.execute(&Scope { data: &data, methods: &no_methods, missing: Missing::MapError, titles: false })
    }

    /// Expected values were printed by `docker inspect --format`.
    #[test]
    fn what_is_left_out_or_null_is_empty() {
        let data =
            r#"{"Config":{"Env":null,"Labels":null,"Cmd":["x"]},"State":{"Status":"created"},"Pid":null,"Mounts":[{"Type":"bind"}]}"#;
        for (format, expected) in [
            ("{{.Config.Env}}{{.Config.Labels}}{{json .Config.Env}}", "[]map[]null"),
            ("{{if .State.Health}}x{{else}}none{{end}} {{.State.Health}}", "none <nil>"),
            ("{{.Config.ExposedPorts}}{{.Pid}}", "map[]<nil>"),
            ("{{range .Mounts}}[{{.Name}}]{{end}}", "[]"),
        ] {
            assert_eq!(run(format, data).expect(format), expected, "{format}");
        }
        assert!(run("{{.State.Nope}}", data).is_err());
    }

    /// Expected values were printed by `docker inspect --format`.
    #[test]
    fn formats_give_what_docker_prints() {
        let data = r#"{"Id":"0210f438b87e","Name":"/c1","Args":["1000","x"],"State":{"Status":"running","Pid":17890,"Running":true,"ExitCode":0},
            "Config":{"Labels":{"b":"2","a":"1"},"Env":["A=b","PATH=/bin"],"Cmd":null},
            "NetworkSettings":{"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8099"}]},"Networks":{"bridge":{"IPAddress":"172.31.255.2"}}},
            "Empty":[],"Size":1.5}"#;
        for (template, expected) in [
            ("plain", "plain"),
            ("{{.Id}}", "0210f438b87e"),
            ("{{.ID}}", "0210f438b87e"),
            ("{{ .State.Pid }}", "17890"),
            ("{{.Args}}", "[1000 x]"),
            ("{{.Config.Labels}}", "map[a:1 b:2]"),
            ("{{json .Config.Labels}}", r#"{"b":"2","a":"1"}"#),
            ("{{json .Args}}", r#"["1000","x"]"#),
            ("{{.State | json}}", r#"{"Status":"running","Pid":17890,"Running":true,"ExitCode":0}"#),
            ("{{.Config.Cmd}}", "[]"),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=b\nPATH=/bin\n"),
            ("{{range $i, $e := .Args}}{{$i}}={{$e}};{{end}}", "0=1000;1=x;"),
            ("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}} {{end}}", "a:1 b:2 "),
            ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "172.31.255.2"),
            ("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "8099"),
            ("{{range $p, $c := .NetworkSettings.Ports}}{{$p}} -> {{(index $c 0).HostPort}}{{end}}", "80/tcp -> 8099"),
            ("{{index .Config.Labels \"a\"}}", "1"),
            ("{{index .Config.Labels \"none\"}}", ""),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if eq .State.ExitCode 1}}a{{else if eq .State.Status \"running\"}}b{{else}}c{{end}}", "b"),
            ("{{if and .State.Running (not .Empty)}}yes{{end}}", "yes"),
            ("{{with .State}}{{.Status}} {{$.Name}}{{end}}", "running /c1"),
            ("{{with .Empty}}x{{else}}none{{end}}", "none"),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{slice .Id 0 4}} {{len .Args}} {{upper .Name}} {{title \"ab cd\"}}", "0210 2 /C1 Ab Cd"),
            ("{{join .Args \",\"}} {{split \"a-b\" \"-\"}}", "1000,x [a b]"),
            ("{{printf \"%-5s|%5d|%q|%v|%05d\" \"ab\" 42 \"x\" .Args 7}}", "ab   |   42|\"x\"|[1000 x]|00007"),
            ("{{pad \"x\" 1 2}}| {{truncate \"abcdef\" 3}}", " x  | abc"),
            ("a {{- /* gone */ -}} b", "ab"),
            ("{{- .Name -}}  x", "/c1x"),
            ("{{$x := .Name}}{{$x}}{{$x = \"y\"}}{{$x}}", "/c1y"),
            ("{{range .Args}}{{if eq . \"x\"}}{{break}}{{end}}{{.}}{{end}}", "1000"),
            ("{{html \"<a>\"}} {{print 1 2 \"x\" 3}}", "&lt;a&gt; 1 2x3"),
            ("{{gt .State.Pid 5}} {{le 2 1}} {{ne \"a\" \"b\"}}", "true false true"),
            ("{{`raw \"string\"`}}", "raw \"string\""),
            ("{{.Size}}", "1.5"),
        ] {
            assert_eq!(run(template, data).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn errors_are_gos() {
        for (template, expected) in [
            ("{{.Foo}}", "template: :1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\""),
            ("{{.State.Foo}}", "template: :1:8: executing \"\" at <.State.Foo>: map has no entry for key \"Foo\""),
            ("{{.Foo", "template: :1: unclosed action"),
            ("{{foo}}", "template: :1: function \"foo\" not defined"),
            ("{{if .Id}}", "template: :1: unexpected EOF"),
            ("{{end}}", "template: :1: unexpected {{end}}"),
            ("{{}}", "template: :1: missing value for command"),
        ] {
            assert_eq!(run(template, r#"{"Id":"x","State":{}}"#).unwrap_err().to_string(), expected, "{template}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[{}.$a-z \"'`|()=:,0-9-]{0,40}") {
            let _ = run(&text, r#"{"a":{"b":[1,2]}}"#);
        }

        #[test]
        fn no_action_panics(text in "(\\{\\{(if|with|range|end|else|json|index|slice|printf)? ?[.$a-z\" |()0-9%-]{0,12}\\}\\}){0,4}") {
            let _ = run(&text, r#"{"a":{"b":[1,2]}}"#);
        }
    }
}
