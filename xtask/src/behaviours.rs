//! Holds `docs/behaviours.md` to its word: each test it names is a function of the file it names.

use anyhow::{Context, Result};
use std::path::Path;

/// What the last column begins with where no test is named.
const REASONS: [&str; 4] = ["not built: ", "newer API: ", "on purpose: ", "untested: "];

/// Adds what is wrong with the list.
pub fn check(root: &Path, faults: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(root.join("docs/behaviours.md")).context("read docs/behaviours.md")?;
    let read = |file: &str| std::fs::read_to_string(root.join(file)).ok();
    faults.extend(check_table(&text, read).into_iter().map(|fault| format!("docs/behaviours.md: {fault}")));
    Ok(())
}

fn check_table(text: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| topic "));
    for row in rows {
        // A bar inside a cell has a backslash before it.
        let marked = row.replace("\\|", "\u{0}");
        let cells: Vec<&str> = marked.trim_matches('|').split('|').map(str::trim).collect();
        let [_, behaviour, test] = cells[..] else {
            faults.push(format!("a row has not three cells: {row}"));
            continue;
        };
        let named: Vec<(&str, &str)> = test.split('`').filter_map(|word| word.split_once(".rs::")).collect();
        if named.is_empty() && !REASONS.iter().any(|reason| test.starts_with(reason)) {
            faults.push(format!("{behaviour:?} has neither a test nor a reason"));
        }
        for (file, function) in named {
            let file = format!("{file}.rs");
            match read(&file) {
                None => faults.push(format!("{file} is not there")),
                Some(source) if !source.contains(&format!("fn {function}(")) => faults.push(format!("{file} has no {function}")),
                Some(_) => {}
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_must_be_there() {
        let read = |file: &str| (file == "a/b.rs").then(|| "#[test]\nfn it_works() {}\n".to_owned());
        let faults = |test: &str| check_table(&format!("| topic | behaviour | test |\n|---|---|---|\n| t | x \\| y | {test} |\n"), read);
        for good in ["`a/b.rs::it_works`", "`a/b.rs::it_works` (in part)", "not built: swarm", "on purpose: see there"] {
            assert_eq!(faults(good), [] as [String; 0], "{good}");
        }
        for (bad, words) in [
            ("`a/b.rs::it_work`", "a/b.rs has no it_work"),
            ("`a/b.rs::it_works`, `a/c.rs::it_works`", "a/c.rs is not there"),
            ("", "neither a test nor a reason"),
            ("some day", "neither a test nor a reason"),
            ("not built: x | more", "has not three cells"),
        ] {
            let found = faults(bad);
            assert!(found.len() == 1 && found[0].contains(words), "{bad}: {found:?}");
        }
    }
}
