//! What lies between an engine and a registry: a wire that counts bytes and can be slow, and a server of few words.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Passes connections on and counts what comes back.
pub struct Wire {
    /// `127.0.0.1:PORT`.
    pub address: String,
    came: Arc<AtomicU64>,
    pause: Arc<AtomicU64>,
}

impl Wire {
    /// A wire to `upstream`.
    pub fn start(upstream: &str) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let wire = Wire { address: listener.local_addr().expect("it is bound").to_string(), came: Arc::default(), pause: Arc::default() };
        let (upstream, came, pause) = (upstream.to_owned(), wire.came.clone(), wire.pause.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&upstream) else { continue };
                let (client2, server2) = (client.try_clone().expect("a descriptor"), server.try_clone().expect("a descriptor"));
                std::thread::spawn(move || pass(client2, server2, &AtomicU64::new(0), &AtomicU64::new(0)));
                let (came, pause) = (came.clone(), pause.clone());
                std::thread::spawn(move || pass(server, client, &came, &pause));
            }
        });
        wire
    }

    /// Bytes that came from the other end so far, heads of answers included.
    pub fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// Waits so long after every 64 KiB.
    pub fn slow_down(&self, pause: Duration) {
        self.pause.store(u64::try_from(pause.as_micros()).expect("no year"), Ordering::Relaxed);
    }
}

/// One direction; either end may go at any time.
fn pass(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64, pause: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(got @ 1..) = from.read(&mut buffer) {
        // Before they go on: who has got them may look.
        count.fetch_add(got as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..got]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_micros(pause.load(Ordering::Relaxed)));
    }
    to.shutdown(Shutdown::Write).ok();
    from.shutdown(Shutdown::Read).ok();
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET`.
    pub method: String,
    /// With its query.
    pub path: String,
    /// `Authorization`, or nothing.
    pub authorization: String,
    /// The body.
    pub body: String,
}

/// Status, further header lines (each ended by CRLF), body.
pub type Answer = (u16, String, String);

/// A server that answers as a function says.
pub struct Server {
    /// `127.0.0.1:PORT`.
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Starts it; the function gets the request and the server's own address.
    pub fn start(answer: impl Fn(&Asked, &str) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let server = Server { address: listener.local_addr().expect("it is bound").to_string(), asked: Arc::default() };
        let (address, all, answer) = (server.address.clone(), server.asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (address, all, answer) = (address.clone(), all.clone(), answer.clone());
                std::thread::spawn(move || {
                    let Some(asked) = read(&stream) else { return };
                    all.lock().expect("nothing panics with it").push(asked.clone());
                    let (status, headers, body) = answer(&asked, &address);
                    let length = body.len();
                    let body = if asked.method == "HEAD" { "" } else { &body };
                    let head = format!("HTTP/1.1 {status} X\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n");
                    // Who has heard enough goes.
                    (&stream).write_all(format!("{head}{body}").as_bytes()).ok();
                });
            }
        });
        server
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("nothing panics with it").clone()
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line).ok()?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut asked = Asked { method, path, authorization: String::new(), body: String::new() };
    let mut length = 0;
    loop {
        line.clear();
        lines.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => asked.authorization = value.to_owned(),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).ok()?;
    asked.body = String::from_utf8_lossy(&body).into_owned();
    Some(asked)
}
