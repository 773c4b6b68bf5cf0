//! Options as Go's command line libraries take them: `--name value`, `--name=value`, `-n value`; the first word that is no
//! option ends them.

use crate::error::{Error, Result};
use std::ffi::OsString;

/// An option.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag {
    name: &'static str,
    short: &'static str,
    value: bool,
}

impl Flag {
    pub(super) const fn value(name: &'static str, short: &'static str) -> Flag {
        Flag { name, short, value: true }
    }

    pub(super) const fn switch(name: &'static str, short: &'static str) -> Flag {
        Flag { name, short, value: false }
    }
}

/// What was given.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    given: Vec<(&'static str, String)>,
    pub rest: Vec<OsString>,
}

impl Arguments {
    pub(super) fn parse(args: &[OsString], flags: &[Flag]) -> Result<Arguments> {
        let mut parsed = Arguments::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let text = arg.to_string_lossy();
            if text == "--" {
                break;
            }
            let Some(option) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')).filter(|option| !option.is_empty()) else {
                parsed.rest.push(arg.clone());
                break;
            };
            let (name, inline) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (option, None),
            };
            let flag = flags.iter().find(|flag| flag.name == name || (!flag.short.is_empty() && flag.short == name));
            let flag = flag.ok_or_else(|| Error::Invalid(format!("unknown option {text}")))?;
            let value = match (flag.value, inline) {
                (_, Some(value)) => value,
                (false, None) => "true".to_owned(),
                (true, None) => match args.next() {
                    Some(value) => value.to_string_lossy().into_owned(),
                    None => return Err(Error::Invalid(format!("the option {text} needs a value"))),
                },
            };
            parsed.given.push((flag.name, value));
        }
        parsed.rest.extend(args.cloned());
        Ok(parsed)
    }

    /// The last value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.given.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.given.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "false" | "0"))
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        self.get(name).map(|text| text.parse().map_err(|_| Error::Invalid(format!("invalid value {text:?} of --{name}")))).transpose()
    }

    /// The container's id: the first word.
    pub(super) fn id(&self) -> Result<String> {
        let id = self.rest.first().ok_or_else(|| Error::Invalid("a container id is needed".into()))?;
        Ok(id.to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_takes_them() {
        let flags = [Flag::value("bundle", "b"), Flag::switch("detach", "d")];
        let parse = |args: &[&str]| Arguments::parse(&args.iter().map(OsString::from).collect::<Vec<_>>(), &flags);
        let parsed = parse(&["--bundle=/x", "-d", "id", "--other", "-d"]).unwrap();
        assert_eq!((parsed.get("bundle"), parsed.has("detach"), parsed.id().unwrap().as_str()), (Some("/x"), true, "id"));
        assert_eq!(parsed.rest.len(), 3);
        assert_eq!(parse(&["-b", "y", "--", "-d"]).unwrap().rest, ["-d"]);
        assert!(!parse(&["--detach=false", "x"]).unwrap().has("detach"));
        assert!(parse(&["--nope"]).is_err());
        assert!(parse(&["--bundle"]).is_err());
        assert!(parse(&[]).unwrap().id().is_err());
    }
}
