//! Debian's docker-registry, the counterpart of pulls and pushes.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// `naru:secret`.
const HTPASSWD: &str = "naru:$2y$05$CBtMr8a5mOt5wYyHAxe0y.rEq2J9kBZlXEH3u09G8auzclq2tHNWC\n";

/// A registry without TLS on a port of its own.
pub struct Registry {
    process: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    directory: tempfile::TempDir,
}

impl Registry {
    /// Starts it, with a login (`naru`, `secret`) or without.
    pub fn start(with_login: bool) -> Registry {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  delete:\n    enabled: true\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n  secret: x\n",
            root.join("data").display()
        );
        if with_login {
            std::fs::write(root.join("htpasswd"), HTPASSWD).expect("it is written");
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", root.join("htpasswd").display()));
        }
        std::fs::write(root.join("config.yml"), config).expect("it is written");
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(root.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("these tests need Debian's package docker-registry");
        let mut lines = BufReader::new(process.stderr.take().expect("it was asked for"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(lines.read_line(&mut line).expect("it logs text") > 0, "docker-registry ended");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).next().expect("an address").to_owned();
            }
        };
        // It must never block on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Registry { process, address, directory }
    }

    /// Bytes of all its blobs.
    pub fn size(&self) -> u64 {
        fn below(path: PathBuf) -> u64 {
            std::fs::read_dir(path).map_or(0, |entries| {
                entries
                    .flatten()
                    .map(|entry| if entry.path().is_dir() { below(entry.path()) } else { entry.metadata().map_or(0, |meta| meta.len()) })
                    .sum()
            })
        }
        below(self.directory.path().join("data"))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
