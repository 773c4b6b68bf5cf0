//! `cargo xtask floor SOCKET`: an engine that answers `run`, `exec` and `ps` of the Docker client at once and does nothing. What they
//! take then is the client's own time, below which no engine can get with that client.

use anyhow::{Context, Result};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// More than a client's request has.
const LONGEST: usize = 1 << 20;
const ID: &str = "4f1c5b3a2d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708";
const HEADERS: &str = "Api-Version: 1.51\r\nDocker-Experimental: false\r\nOstype: linux\r\nServer: floor\r\n";
const UPGRADED: &str = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
                        Content-Type: application/vnd.docker.multiplexed-stream\r\n\r\n";

/// How many containers have been started; each ends at once.
#[derive(Default)]
struct Ended {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Ended {
    fn one_more(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    fn count(&self) -> u64 {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, since: u64) {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(count, |count| *count == since));
    }
}

/// Serves until it is stopped.
pub fn serve(path: &str) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context(format!("cannot remove {path}")),
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {path}"))?;
    let ended = Arc::new(Ended::default());
    for client in listener.incoming() {
        let (client, ended) = (client?, Arc::clone(&ended));
        // A client that goes away is none of its business.
        std::thread::spawn(move || converse(client, &ended).ok());
    }
    Ok(())
}

fn converse(mut client: UnixStream, ended: &Ended) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(head) = request(&mut client, &mut buffer)? {
        let is = |part: &str| head.lines().next().is_some_and(|line| line.contains(part));
        let answer = |code: &str, body: &str| {
            let length = body.len();
            format!("HTTP/1.1 {code}\r\n{HEADERS}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        let since = ended.count();
        let text = match () {
            () if is("/_ping") => format!("HTTP/1.1 200 OK\r\n{HEADERS}Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n"),
            () if is("/containers/create") => answer("201 Created", &format!("{{\"Id\":\"{ID}\",\"Warnings\":[]}}")),
            () if is("/attach") => {
                client.write_all(UPGRADED.as_bytes())?;
                ended.wait(since);
                return Ok(());
            }
            () if is("/wait") => {
                let head = format!("HTTP/1.1 200 OK\r\n{HEADERS}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
                client.write_all(head.as_bytes())?;
                ended.wait(since);
                "10\r\n{\"StatusCode\":0}\r\n0\r\n\r\n".to_owned()
            }
            () if is("/start") && is("/exec/") => {
                client.write_all(UPGRADED.as_bytes())?;
                return Ok(());
            }
            () if is("/start") => {
                client.write_all(format!("HTTP/1.1 204 No Content\r\n{HEADERS}\r\n").as_bytes())?;
                ended.one_more();
                continue;
            }
            () if is("/exec/") => {
                answer("200 OK", &format!("{{\"ID\":\"{ID}\",\"Running\":false,\"ExitCode\":0,\"ContainerID\":\"{ID}\"}}"))
            }
            () if is("/exec") => answer("201 Created", &format!("{{\"Id\":\"{ID}\"}}")),
            () if is("/containers/json") => answer("200 OK", "[]"),
            () => answer("200 OK", &format!("{{\"Id\":\"{ID}\",\"State\":{{\"Running\":true}},\"Config\":{{}}}}")),
        };
        client.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// The head of the next request, its body passed over; none at the end.
fn request(client: &mut UnixStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<String>> {
    let mut block = [0; 16 << 10];
    loop {
        let end = buffer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        let head = end.map(|end| String::from_utf8_lossy(&buffer[..end]).into_owned());
        let length = |head: &String| {
            let header = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
            header.and_then(|length| length.trim().parse::<usize>().ok()).unwrap_or_default()
        };
        let whole = end.zip(head.as_ref()).map(|(end, head)| end.saturating_add(length(head)));
        if let Some(whole) = whole.filter(|whole| *whole <= buffer.len()) {
            buffer.drain(..whole);
            return Ok(head);
        }
        match client.read(&mut block)? {
            0 => return Ok(None),
            got if buffer.len() + got <= LONGEST => buffer.extend_from_slice(&block[..got]),
            _ => return Err(std::io::Error::new(ErrorKind::InvalidData, "a long request")),
        }
    }
}
