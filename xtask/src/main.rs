//! Tasks of the project itself: `cargo xtask floor` shows what a client costs by itself ([`floor`]), `cargo xtask tidy` holds the
//! rules that no compiler knows:
//!
//! - the crate graph is exactly the table of ARCHITECTURE.md
//! - `unsafe` lives in `sys` only (and in tests that attack)
//! - every source file opens with a module comment and stays below its size limit
//! - no path of one developer's machine is in the tree
//! - `docs/behaviours.md` names tests that are there

mod behaviours;
mod floor;

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Which of our crates each crate may use.
const GRAPH: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("sys", &["types"]),
    ("runtime", &["types", "sys"]),
    ("store", &["types", "sys"]),
    ("net", &["types", "sys"]),
    ("api", &["types"]),
    ("registry", &["types", "store"]),
    ("engine", &["types", "runtime", "store", "net", "registry"]),
    ("daemon", &["types", "sys", "runtime", "store", "net", "registry", "api", "engine"]),
    ("naru", &["types", "sys", "runtime", "store", "net", "registry", "api", "engine", "daemon"]),
];

/// Crates that never link the async runtime.
const SYNC: &[&str] = &["types", "sys", "runtime", "store"];

/// Lines of a source file; data tables (named `table`) may be longer.
const LONGEST_FILE: usize = 900;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy(),
        ["floor", socket] => floor::serve(socket),
        _ => Err(anyhow::anyhow!("usage: cargo xtask tidy | floor SOCKET")),
    };
    if let Err(error) = outcome {
        // Nothing else can be done when standard error is closed.
        writeln!(std::io::stderr(), "{error:#}").ok();
        std::process::exit(1);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

fn tidy() -> Result<()> {
    let root = root();
    let mut faults = Vec::new();
    graph(&root, &mut faults)?;
    behaviours::check(&root, &mut faults)?;
    for file in sources(&root)? {
        source(&root, &file, &mut faults)?;
    }
    if faults.is_empty() {
        writeln!(std::io::stdout(), "tidy: ok")?;
        return Ok(());
    }
    bail!("tidy:\n  {}", faults.join("\n  "))
}

/// The `[dependencies]` of a manifest, by name.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && let Some(name) = line.split(['.', ' ', '=']).next().filter(|name| !name.is_empty()) {
            names.insert(name.to_owned());
        }
    }
    names
}

fn graph(root: &Path, faults: &mut Vec<String>) -> Result<()> {
    let allowed: BTreeMap<&str, &[&str]> = GRAPH.iter().copied().collect();
    for entry in std::fs::read_dir(root.join("crates"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let manifest = std::fs::read_to_string(path.join("Cargo.toml")).with_context(|| format!("read the manifest of {name}"))?;
        let Some(allowed) = allowed.get(name.as_str()) else {
            faults.push(format!("crate {name} is not in the graph of xtask and ARCHITECTURE.md"));
            continue;
        };
        for used in dependencies(&manifest) {
            if let Some(ours) = used.strip_prefix("naru-")
                && !allowed.contains(&ours)
            {
                faults.push(format!("crate {name} must not use {ours}"));
            }
            if matches!(used.as_str(), "tokio" | "hyper") && SYNC.contains(&name.as_str()) {
                faults.push(format!("crate {name} is synchronous and must not use {used}"));
            }
        }
    }
    Ok(())
}

fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("xtask"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn source(root: &Path, file: &Path, faults: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
    if !text.starts_with("//!") {
        faults.push(format!("{name}: does not open with what it is for (//!)"));
    }
    let lines = text.lines().count();
    if lines > LONGEST_FILE && !name.contains("table") {
        faults.push(format!("{name}: {lines} lines, more than {LONGEST_FILE}"));
    }
    let code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    let keyword = ["unsafe", "{"].join(" ");
    // Tests attack with raw system calls; that is their purpose.
    if !name.starts_with("crates/sys/") && !name.contains("/tests/") && code.clone().any(|line| line.contains(&keyword)) {
        faults.push(format!("{name}: unsafe outside sys"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        tidy().unwrap();
    }

    #[test]
    fn dependencies_are_read_from_one_section() {
        let manifest = "[package]\nname = \"x\"\n\n[dependencies]\nnaru-types.workspace = true\nserde = { version = \"1\" }\n\n[dev-dependencies]\ntokio = \"1\"\n";
        let names: Vec<String> = dependencies(manifest).into_iter().collect();
        assert_eq!(names, ["naru-types", "serde"]);
    }
}
