//! Signals by name or number, as `docker kill --signal` takes them (signal(7); numbers of x86-64 and arm64).

use crate::{ParseError, serde_as_text};
use std::fmt;
use std::str::FromStr;

/// A signal number, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(i32);

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD",
    "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// glibc keeps 32 and 33 for itself, so that SIGRTMIN is 34.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

impl Signal {
    /// SIGKILL.
    pub const KILL: Signal = Signal(9);
    /// SIGTERM.
    pub const TERM: Signal = Signal(15);

    /// The number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// The name without `SIG`, e.g. `TERM`, `RTMIN+3`, or the bare number for 32 and 33.
    pub fn name(self) -> String {
        match self.0 {
            n @ 1..=31 => NAMES[(n - 1) as usize].to_owned(),
            RTMIN => "RTMIN".to_owned(),
            RTMAX => "RTMAX".to_owned(),
            n @ 35..=49 => format!("RTMIN+{}", n - RTMIN),
            n @ 50..=63 => format!("RTMAX-{}", RTMAX - n),
            n => n.to_string(),
        }
    }
}

impl TryFrom<i32> for Signal {
    type Error = ParseError;

    fn try_from(number: i32) -> Result<Self, ParseError> {
        if (1..=RTMAX).contains(&number) {
            Ok(Signal(number))
        } else {
            Err(ParseError::new("signal", &number.to_string(), "expected 1 to 64"))
        }
    }
}

impl FromStr for Signal {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::new("signal", text, "no such signal");
        if let Ok(number) = text.parse::<i32>() {
            return Signal::try_from(number).map_err(|_| bad());
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = match name {
            "IOT" => 6,
            "CLD" => 17,
            "POLL" => 29,
            "RTMIN" => RTMIN,
            "RTMAX" => RTMAX,
            _ => {
                if let Some(offset) = name.strip_prefix("RTMIN+") {
                    RTMIN + offset.parse::<u8>().map(i32::from).map_err(|_| bad())?
                } else if let Some(offset) = name.strip_prefix("RTMAX-") {
                    RTMAX - offset.parse::<u8>().map(i32::from).map_err(|_| bad())?
                } else {
                    let index = NAMES.iter().position(|known| *known == name).ok_or_else(bad)?;
                    index as i32 + 1
                }
            }
        };
        let real_time = name.starts_with("RT");
        if number > RTMAX || (real_time && number < RTMIN) { Err(bad()) } else { Ok(Signal(number)) }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            32 | 33 => write!(f, "{}", self.0),
            _ => write!(f, "SIG{}", self.name()),
        }
    }
}

serde_as_text!(Signal);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in
            [("TERM", 15), ("SIGTERM", 15), ("sigkill", 9), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("WINCH", 28), ("SIGSYS", 31)]
        {
            assert_eq!(text.parse::<Signal>().map(Signal::number), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "-1", "FOO", "SIGRTMIN+31", "RTMAX-99", "SIGSIGTERM"] {
            assert!(bad.parse::<Signal>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_number_has_a_text_that_parses_back() {
        for number in 1..=64 {
            let signal = Signal::try_from(number).unwrap();
            assert_eq!(signal.to_string().parse::<Signal>(), Ok(signal));
        }
    }
}
