//! What a command is: its names, usage, flags and function.

use std::future::Future;
use std::pin::Pin;

use clap::{ArgMatches, Command};

use super::context::Cx;
use super::error::Result;

/// A running command; it ends with an exit status.
pub type Running = Pin<Box<dyn Future<Output = Result<i32>>>>;

/// How many arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arguments {
    None,
    Exactly(usize),
    AtLeast(usize),
    AtMost(usize),
    Between(usize, usize),
}

/// One command.
pub struct Verb {
    /// Every way to write it; the first is the one under its group.
    pub names: &'static [&'static str],
    /// What follows the name in the usage line.
    pub usage: &'static str,
    pub about: &'static str,
    pub arguments: Arguments,
    /// Shown under `--help`; `{}` stands for the program.
    pub examples: &'static str,
    pub command: fn(Command) -> Command,
    pub run: fn(Cx, ArgMatches) -> Running,
}

/// Declares a command from its options struct and async function.
macro_rules! verb {
    ($options:ty, $run:path, [$($name:literal),+], $usage:literal, $about:literal, $arguments:expr, $examples:literal) => {
        $crate::cli::verb::Verb {
            names: &[$($name),+],
            usage: $usage,
            about: $about,
            arguments: $arguments,
            examples: $examples,
            command: |command| <$options as clap::Args>::augment_args(command),
            run: |cx, matches| {
                Box::pin(async move {
                    let options = <$options as clap::FromArgMatches>::from_arg_matches(&matches)
                        .map_err(|error| $crate::cli::error::Failure::status(125, error.to_string()))?;
                    $run(cx, options).await
                })
            },
        }
    };
}
pub(crate) use verb;

/// Flags that are there on a command with arguments only.
#[derive(Debug, clap::Args)]
pub struct Names {
    pub args: Vec<String>,
}

impl Verb {
    /// The first line of the description.
    pub fn title(&self) -> &'static str {
        self.about.lines().next().unwrap_or_default()
    }
}

impl Arguments {
    /// Checks a number of arguments; the error is Docker's sentence.
    pub fn check(self, command: &str, given: usize) -> std::result::Result<(), String> {
        let plural = |count: usize| if count == 1 { "argument" } else { "arguments" };
        let refused = match self {
            Self::None if given > 0 => "accepts no arguments".to_owned(),
            Self::Exactly(count) if given != count => format!("requires {count} {}", plural(count)),
            Self::AtLeast(count) if given < count => format!("requires at least {count} {}", plural(count)),
            Self::AtMost(count) if given > count => format!("requires at most {count} {}", plural(count)),
            Self::Between(least, most) if given < least || given > most => {
                format!("requires at least {least} and at most {most} {}", plural(most))
            }
            _ => return Ok(()),
        };
        Err(format!("'{command}' {refused}"))
    }
}
