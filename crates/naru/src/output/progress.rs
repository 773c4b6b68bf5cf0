//! Progress streams of `pull`, `push`, `load` and `import`: lines that are redrawn on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;

use naru_api::client::JsonLines;
use naru_api::models::ProgressMessage;

use super::units::human_size;
use crate::cli::error::{Failure, Result};

/// Where progress goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Stdout,
    Stderr,
}

impl Target {
    fn is_terminal(self) -> bool {
        use std::io::IsTerminal as _;
        match self {
            Self::Stdout => std::io::stdout().is_terminal(),
            Self::Stderr => std::io::stderr().is_terminal(),
        }
    }

    fn write(self, text: &str) -> Result<()> {
        match self {
            Self::Stdout => super::write(text.as_bytes()),
            Self::Stderr => {
                super::error_write(text.as_bytes());
                Ok(())
            }
        }
    }
}

/// Shows a stream to its end; an error in it is the answer. `aux` sees the auxiliary values.
pub async fn show(mut lines: JsonLines<ProgressMessage>, target: Target, mut aux: impl FnMut(serde_json::Value)) -> Result<()> {
    let terminal = target.is_terminal();
    let width = if terminal { usize::from(crate::stream::terminal::size().1).max(40) } else { 0 };
    let mut rows: BTreeMap<String, usize> = BTreeMap::new();
    let mut totals: Option<Totals> = None;
    while let Some(message) = lines.next().await? {
        if let Some(value) = message.aux {
            totals = Totals::of(&value);
            match &totals {
                Some(totals) if terminal => target.write(&redraw(&totals.message(), &mut rows, width))?,
                Some(_) => {}
                None => aux(value),
            }
            continue;
        }
        if let Some(error) = message.error_detail {
            let code = if error.code == 401 { "authentication is required".to_owned() } else { error.message };
            return Err(Failure::message(code));
        }
        if !message.error.is_empty() {
            return Err(Failure::message(message.error));
        }
        if !message.stream.is_empty() {
            target.write(&message.stream)?;
            continue;
        }
        let moving = message.progress_detail.as_ref().is_some_and(|detail| detail.current > 0 || detail.total > 0);
        if !terminal {
            // Bars would fill logs; only what changes state is said.
            if !moving {
                let prefix = if message.id.is_empty() { String::new() } else { format!("{}: ", message.id) };
                target.write(&format!("{prefix}{}\n", message.status))?;
            }
            continue;
        }
        target.write(&redraw(&message, &mut rows, width))?;
        if let Some(totals) = &mut totals
            && totals.moved(&message)
        {
            target.write(&redraw(&totals.message(), &mut rows, width))?;
        }
    }
    Ok(())
}

/// What a pull fetches in all: a row below those of the layers.
struct Totals {
    /// Bytes of the layers that were here.
    present: i64,
    /// Bytes of the others, by layer, and of these how many have come.
    missing: BTreeMap<String, (i64, i64)>,
}

impl Totals {
    fn of(aux: &serde_json::Value) -> Option<Totals> {
        let present = aux.get("Present")?.as_i64()?;
        let missing = aux.get("Missing")?.as_object()?.iter();
        let missing = missing.map(|(id, size)| Some((id.clone(), (size.as_i64()?, 0)))).collect::<Option<_>>()?;
        Some(Totals { present, missing })
    }

    /// Takes note of a layer; true when there is something to show.
    fn moved(&mut self, message: &ProgressMessage) -> bool {
        let Some((size, come)) = self.missing.get_mut(&message.id) else { return false };
        let before = *come;
        match message.status.as_str() {
            "Downloading" => *come = message.progress_detail.as_ref().map_or(0, |detail| detail.current).clamp(0, *size),
            // The last news of what comes may be of a little less than all.
            "Verifying Checksum" | "Download complete" | "Pull complete" => *come = *size,
            // Another pull has brought it meanwhile.
            "Already exists" => {
                self.present = self.present.saturating_add(*size);
                self.missing.remove(&message.id);
                return true;
            }
            _ => {}
        }
        *come != before
    }

    fn message(&self) -> ProgressMessage {
        let add = |(size, come): (i64, i64), (more, came): &(i64, i64)| (size.saturating_add(*more), come.saturating_add(*came));
        let (total, current) = self.missing.values().fold((0, 0), add);
        #[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
        let human = |bytes: i64| human_size(bytes as f64);
        let status = match self.present {
            0 => "Fetching".to_owned(),
            present => format!("Fetching ({} of {} saved)", human(present), human(present.saturating_add(total))),
        };
        let detail = naru_api::models::ProgressDetail { current, total, ..Default::default() };
        ProgressMessage { id: "Total".into(), status, progress_detail: Some(detail), ..ProgressMessage::default() }
    }
}

/// The bytes that bring one message to its place on the terminal.
fn redraw(message: &ProgressMessage, rows: &mut BTreeMap<String, usize>, width: usize) -> String {
    let bar = message.progress_detail.as_ref().map(|detail| bar(detail, width)).unwrap_or_default();
    if message.id.is_empty() || message.progress_detail.is_none() {
        let prefix = if message.id.is_empty() { String::new() } else { format!("{}: ", message.id) };
        if bar.is_empty() {
            // A plain line ends the block of rows: what is above it is not redrawn.
            rows.clear();
        }
        return format!("{prefix}{}{bar}\n", message.status);
    }
    let text = format!("{}: {} {bar}", message.id, message.status);
    let text = text.trim_end();
    match rows.get(&message.id) {
        None => {
            rows.insert(message.id.clone(), rows.len());
            format!("{text}\n")
        }
        Some(row) => {
            let up = rows.len() - row;
            format!("\x1b[{up}A\x1b[2K\r{text}\r\x1b[{up}B")
        }
    }
}

/// `[====>     ]  1.2MB/3.4MB`
fn bar(detail: &naru_api::models::ProgressDetail, width: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
    let (current, total) = (detail.current as f64, detail.total as f64);
    if detail.current <= 0 && detail.total <= 0 {
        return String::new();
    }
    let amount = |value: f64| if detail.units.is_empty() { human_size(value) } else { value.to_string() };
    let units = if detail.units.is_empty() { String::new() } else { format!(" {}", detail.units) };
    if total <= 0.0 {
        return format!("{:>8}{units}", amount(current));
    }
    let share = (current / total).clamp(0.0, 1.0);
    let numbers = if detail.hidecounts { String::new() } else { format!("{:>8}/{}{units}", amount(current.min(total)), amount(total)) };
    if width <= 110 {
        return numbers.trim_start().to_owned();
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 50")]
    let full = (share * 50.0) as usize;
    let head = if full < 50 { ">" } else { "" };
    format!("[{}{head}{}] {numbers}", "=".repeat(full), " ".repeat(50usize.saturating_sub(full + head.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use naru_api::models::ProgressDetail;

    #[test]
    fn bars() {
        let detail = |current, total| ProgressDetail { current, total, ..ProgressDetail::default() };
        assert_eq!(bar(&detail(0, 0), 200), "");
        assert_eq!(bar(&detail(5, 0), 200), "      5B");
        assert_eq!(bar(&detail(50, 100), 80), "50B/100B");
        let half = bar(&detail(50, 100), 200);
        assert!(half.starts_with(&format!("[{}>", "=".repeat(25))) && half.ends_with("]      50B/100B"), "{half}");
    }

    #[test]
    fn totals_follow_the_layers() {
        assert!(Totals::of(&serde_json::json!({"Tag": "1", "Size": 5})).is_none(), "that is of a push");
        let aux = serde_json::json!({"Present": 4000, "Missing": {"a": 1000, "b": 5000, "c": 2000}});
        let mut totals = Totals::of(&aux).expect("all is there");
        let message = |id: &str, status: &str, current| ProgressMessage {
            id: id.to_owned(),
            status: status.to_owned(),
            progress_detail: Some(ProgressDetail { current, total: 5000, ..ProgressDetail::default() }),
            ..ProgressMessage::default()
        };
        assert!(!totals.moved(&message("a", "Waiting", 0)) && !totals.moved(&message("other", "Downloading", 5)));
        assert!(totals.moved(&message("a", "Downloading", 900)) && totals.moved(&message("b", "Downloading", 2500)));
        assert!(!totals.moved(&message("b", "Downloading", 2500)), "nothing is new");
        let mut rows = BTreeMap::new();
        assert_eq!(redraw(&totals.message(), &mut rows, 80), "Total: Fetching (4kB of 12kB saved) 3.4kB/8kB\n");
        assert!(totals.moved(&message("a", "Verifying Checksum", 0)) && !totals.moved(&message("a", "Extracting", 5)));
        assert!(redraw(&totals.message(), &mut rows, 80).contains("Total: Fetching (4kB of 12kB saved) 3.5kB/8kB"));
        // Another pull brought the third.
        assert!(totals.moved(&message("c", "Already exists", 0)) && totals.moved(&message("b", "Pull complete", 0)));
        assert!(redraw(&totals.message(), &mut rows, 80).contains("Total: Fetching (6kB of 12kB saved) 6kB/6kB"));
    }

    #[test]
    fn rows_are_redrawn_in_place() {
        let mut rows = BTreeMap::new();
        let message = |id: &str, status: &str| ProgressMessage {
            id: id.to_owned(),
            status: status.to_owned(),
            progress_detail: Some(ProgressDetail::default()),
            ..ProgressMessage::default()
        };
        assert_eq!(redraw(&message("a", "Waiting"), &mut rows, 80), "a: Waiting\n");
        assert_eq!(redraw(&message("b", "Waiting"), &mut rows, 80), "b: Waiting\n");
        assert_eq!(redraw(&message("a", "Done"), &mut rows, 80), "\x1b[2A\x1b[2K\ra: Done\r\x1b[2B");
    }
}
