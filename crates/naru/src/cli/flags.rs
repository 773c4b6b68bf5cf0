//! Flags as Docker's clients parse them (pflag), on top of clap: booleans take `=false`, values may begin with a dash,
//! the last of repeated flags wins, and errors have pflag's words.

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

/// The value name that marks an optional boolean.
pub const BOOL: &str = "bool";

/// Go's strconv.ParseBool.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// Go's strconv.ParseInt with base 0.
pub fn parse_int(text: &str) -> Result<i64, String> {
    let (sign, digits) = match text.as_bytes() {
        [b'-', ..] => (-1, &text[1..]),
        [b'+', ..] => (1, &text[1..]),
        _ => (1, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, base) = match lower.get(..2) {
        Some("0x") => (&lower[2..], 16),
        Some("0b") => (&lower[2..], 2),
        Some("0o") => (&lower[2..], 8),
        Some(other) if other.starts_with('0') => (&lower[1..], 8),
        _ => (&lower[..], 10),
    };
    let refused = || format!("strconv.ParseInt: parsing {text:?}: invalid syntax");
    if digits.starts_with(['+', '-']) {
        return Err(refused());
    }
    i64::from_str_radix(digits, base).map(|value| sign * value).map_err(|error| match error.kind() {
        std::num::IntErrorKind::PosOverflow => format!("strconv.ParseInt: parsing {text:?}: value out of range"),
        _ => refused(),
    })
}

/// Go's strconv.ParseUint for 16 bits.
pub fn parse_u16(text: &str) -> Result<u16, String> {
    match parse_int(text) {
        Ok(value @ 0..) => u16::try_from(value).map_err(|_| format!("strconv.ParseUint: parsing {text:?}: value out of range")),
        _ => Err(format!("strconv.ParseUint: parsing {text:?}: invalid syntax")),
    }
}

/// A size in Docker's units (`512m`), as a number of bytes.
pub fn parse_bytes(text: &str) -> Result<i64, String> {
    let size: naru_types::ByteSize = text.parse().map_err(|_| size_error(text))?;
    i64::try_from(size.0).map_err(|_| format!("invalid size: '{text}'"))
}

/// What is wrong with a size, in the words of Docker's go-units.
fn size_error(text: &str) -> String {
    let Some(end) = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ') else { return format!("invalid size: '{text}'") };
    let (number, suffix) = (text[..=end].trim_end_matches(' '), &text[end + 1..]);
    match number.parse::<f64>() {
        Err(_) => format!("strconv.ParseFloat: parsing {number:?}: invalid syntax"),
        Ok(number) if number < 0.0 => format!("invalid size: '{text}'"),
        Ok(_) => format!("invalid suffix: '{suffix}'"),
    }
}

/// Like [`parse_bytes`], and -1 for unlimited swap.
pub fn parse_swap(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { parse_bytes(text) }
}

/// Gives every argument of a command pflag's manners.
pub fn with_manners(command: Command) -> Command {
    let takes_h = command.get_arguments().any(|arg| arg.get_short() == Some('h'));
    let mut help = Arg::new("help").long("help").action(ArgAction::SetTrue).hide(true);
    if !takes_h {
        help = help.short('h');
    }
    command.disable_help_flag(true).disable_version_flag(true).args_override_self(true).arg(help).mut_args(|arg| {
        if arg.is_positional() || arg.get_id() == "help" {
            return arg;
        }
        let named_bool = arg.get_value_names().is_some_and(|names| names.len() == 1 && names[0] == BOOL);
        if matches!(arg.get_action(), ArgAction::SetTrue) || named_bool {
            let plain = !named_bool;
            let arg = arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_name(BOOL)
                .value_parser(ValueParser::new(parse_bool));
            return if plain { arg.default_value("false") } else { arg };
        }
        arg.allow_hyphen_values(true)
    })
}

fn text(error: &clap::Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    }
}

/// `--memory <bytes>` or `-m` of clap becomes `-m, --memory`.
fn flag_name(command: &Command, shown: &str) -> String {
    let name = shown.split([' ', '=', '[']).next().unwrap_or(shown);
    let long = name.strip_prefix("--");
    let found = command.get_arguments().find(|arg| {
        long.is_some_and(|long| arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|all| all.contains(&long)))
            || (long.is_none() && name.chars().nth(1) == arg.get_short() && arg.get_short().is_some())
    });
    match found.map(|arg| (arg.get_short(), arg.get_long())) {
        Some((Some(short), Some(long))) => format!("-{short}, --{long}"),
        Some((None, Some(long))) => format!("--{long}"),
        _ => name.to_owned(),
    }
}

/// A parse error in pflag's words.
/// `last` is the last word of the command line: a flag that lacks its value stands there.
pub fn describe(command: &Command, error: &clap::Error, last: &str) -> String {
    let argument = text(error, ContextKind::InvalidArg);
    let value = text(error, ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::UnknownArgument => match argument.strip_prefix("--") {
            Some(_) => format!("unknown flag: {}", argument.split('=').next().unwrap_or(&argument)),
            None => format!("unknown shorthand flag: '{}' in {argument}", argument.trim_start_matches('-')),
        },
        ErrorKind::InvalidValue if value.is_empty() => {
            let name = argument.split([' ', '=', '[']).next().unwrap_or(&argument);
            match last.strip_prefix('-').filter(|cluster| !cluster.starts_with('-')).and_then(|cluster| cluster.chars().last()) {
                Some(short) => format!("flag needs an argument: '{short}' in -{short}"),
                None => format!("flag needs an argument: {name}"),
            }
        }
        ErrorKind::ValueValidation => {
            let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            format!("invalid argument {value:?} for {:?} flag: {source}", flag_name(command, &argument))
        }
        _ => {
            let whole = error.to_string();
            whole.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Sample {
        #[arg(short = 'i', long)]
        interactive: bool,
        #[arg(short = 't', long)]
        tty: bool,
        #[arg(short = 'e', long)]
        env: Vec<String>,
        #[arg(short = 'm', long, value_parser = parse_bytes)]
        memory: Option<i64>,
        #[arg(long, value_name = BOOL)]
        init: Option<bool>,
        #[arg(long, alias = "net")]
        network: Option<String>,
        #[arg(trailing_var_arg = true)]
        args: Vec<String>,
    }

    fn parse(args: &[&str]) -> Result<Sample, String> {
        use clap::{CommandFactory, FromArgMatches};
        let mut command = with_manners(Sample::command()).no_binary_name(true);
        let matches =
            command.try_get_matches_from_mut(args).map_err(|error| describe(&command, &error, args.last().copied().unwrap_or_default()))?;
        Ok(Sample::from_arg_matches(&matches).expect("what clap parsed fits the struct"))
    }

    #[test]
    fn flags_parse_as_pflag_does() {
        let sample =
            parse(&["-it", "-eA=b", "-e", "-x", "--memory", "1k", "-m2k", "--init", "img", "-i", "--rm", "--", "x"]).expect("parses");
        assert!(sample.interactive && sample.tty);
        assert_eq!(sample.env, ["A=b", "-x"]);
        assert_eq!((sample.memory, sample.init), (Some(2048), Some(true)));
        assert_eq!(sample.args, ["img", "-i", "--rm", "--", "x"]);
        let sample = parse(&["--interactive=false", "-t=true", "--init=false", "--net", "host", "img"]).expect("parses");
        assert!(!sample.interactive && sample.tty);
        assert_eq!((sample.init, sample.network.as_deref()), (Some(false), Some("host")));
    }

    #[test]
    fn errors_have_pflags_words() {
        for (args, expected) in [
            (&["--foo"][..], "unknown flag: --foo"),
            (&["-z"], "unknown shorthand flag: 'z' in -z"),
            (&["-itz"], "unknown shorthand flag: 'z' in -z"),
            (&["--env"], "flag needs an argument: --env"),
            (&["-ite"], "flag needs an argument: 'e' in -e"),
            (&["-m", "x"], "invalid argument \"x\" for \"-m, --memory\" flag: invalid size: 'x'"),
            (&["--tty=x"], "invalid argument \"x\" for \"-t, --tty\" flag: strconv.ParseBool: parsing \"x\": invalid syntax"),
        ] {
            assert_eq!(parse(args).expect_err("must fail"), expected, "{args:?}");
        }
    }

    #[test]
    fn integers_are_gos() {
        for (text, value) in [("7", 7), ("-1", -1), ("0x10", 16), ("010", 8), ("0", 0), ("+5", 5)] {
            assert_eq!(parse_int(text), Ok(value), "{text}");
        }
        for text in ["", "x", "1.5", "--1", "99999999999999999999"] {
            assert!(parse_int(text).is_err(), "{text}");
        }
    }
}
