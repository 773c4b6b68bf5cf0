//! The system bus, as far as calls of methods with texts for arguments and a text for an answer need it.
//!
//! One connection is one short exchange: who we are (`EXTERNAL`, the kernel vouches for the user), `Hello`, the calls one
//! after the other. Nothing waits longer than the deadline, also for a bus that takes the connection and says no more, and no
//! message is read that is longer than an answer of this kind can be. Nothing is subscribed to: what is to be heard of
//! firewalld, nftables tells.

pub mod message;

use crate::error::{Error, Result};
use message::{HEADER, LONGEST, decode, length};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Where the bus is unless `DBUS_SYSTEM_BUS_ADDRESS` says otherwise, as the specification has it.
const SOCKET: &str = "/var/run/dbus/system_bus_socket";
/// Signals that everybody gets may come before an answer; a bus that sends more than these does not answer.
const MOST: usize = 100;

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const REFUSAL: u8 = 3;
/// A service that does not run is not started for being asked.
const NO_AUTO_START: u8 = 2;

/// What the bus says of a name that nobody has.
const ABSENT: [&str; 2] = ["org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner"];

/// An object of a service, and the interface by which it is spoken to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object {
    pub service: &'static str,
    pub path: &'static str,
    pub interface: &'static str,
}

const BUS: Object = Object { service: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };

/// A connection to the bus.
#[derive(Debug)]
pub(super) struct Bus {
    socket: OwnedFd,
    serial: u32,
    deadline: Instant,
    /// What came and is not read.
    input: Vec<u8>,
}

impl Bus {
    pub fn connect(deadline: Instant) -> Result<Bus> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed("make a socket for"))?;
        let given = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok();
        let address = match &given {
            Some(text) => address(text).ok_or_else(|| failed("find")(Errno::INVAL))?,
            None => SocketAddrUnix::new(SOCKET).map_err(failed("find"))?,
        };
        // A bus that takes no more connections lets this fail with AGAIN.
        rustix::net::connect(&socket, &address).map_err(failed("connect to"))?;
        let mut bus = Bus { socket, serial: 0, deadline, input: Vec::new() };
        bus.authenticate()?;
        bus.call(BUS, "Hello", &[])?;
        Ok(bus)
    }

    fn authenticate(&mut self) -> Result<()> {
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        let line = loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                break self.input.drain(..end + 2).collect::<Vec<u8>>();
            }
            self.receive()?;
        };
        if !line.starts_with(b"OK ") {
            return Err(failed("authenticate with")(Errno::ACCESS));
        }
        self.send(b"BEGIN\r\n")
    }

    /// Calls a method; the text it answers with, empty when it has none.
    pub fn call(&mut self, object: Object, method: &'static str, arguments: &[&str]) -> Result<String> {
        self.serial += 1;
        self.send(&encode(self.serial, object, method, arguments))?;
        for _ in 0..MOST {
            let bytes = self.message(method)?;
            let answer = decode(&bytes).ok_or(Error::BusAnswer { method })?;
            match answer.kind {
                _ if answer.to != Some(self.serial) => {}
                ANSWER => return Ok(answer.text.unwrap_or_default()),
                REFUSAL => {
                    let service = object.service;
                    let is_absent = answer.error.as_deref().is_some_and(|name| ABSENT.contains(&name));
                    let reason = answer.text.or(answer.error).unwrap_or_default();
                    return Err(if is_absent { Error::NoService { service } } else { Error::Refused { method, service, reason } });
                }
                _ => {}
            }
        }
        Err(Error::BusAnswer { method })
    }

    /// The bytes of the next message.
    fn message(&mut self, method: &'static str) -> Result<Vec<u8>> {
        loop {
            if let Some(header) = self.input.first_chunk::<HEADER>() {
                let length = length(header).ok_or(Error::BusAnswer { method })?;
                if self.input.len() >= length {
                    return Ok(self.input.drain(..length).collect());
                }
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Result<()> {
        if self.input.len() > LONGEST {
            return Err(failed("listen to")(Errno::MSGSIZE));
        }
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&self.socket, &mut buffer) {
                Ok(0) => return Err(failed("listen to")(Errno::CONNRESET)),
                Ok(got) => {
                    self.input.extend_from_slice(&buffer[..got]);
                    return Ok(());
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, "listen to")?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("listen to")(errno)),
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, "speak to")?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("speak to")(errno)),
            }
        }
        Ok(())
    }

    fn wait(&self, for_what: PollFlags, action: &'static str) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| failed(action)(Errno::INVAL))?;
        match poll(&mut [PollFd::new(&self.socket, for_what)], Some(&left)) {
            Ok(0) => Err(failed(action)(Errno::TIMEDOUT)),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(failed(action)(errno)),
        }
    }
}

fn failed(action: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Bus { action, source: io::Error::from(errno) }
}

/// The first address of a list, `unix:path=…,guid=…;…`, that is a socket of this machine.
fn address(text: &str) -> Option<SocketAddrUnix> {
    text.split(';').find_map(|one| {
        let mut keys = one.strip_prefix("unix:")?.split(',').filter_map(|pair| pair.split_once('='));
        let (key, value) = keys.find(|(key, _)| matches!(*key, "path" | "abstract"))?;
        let value = unescape(value)?;
        if key == "path" { SocketAddrUnix::new(value.as_slice()).ok() } else { SocketAddrUnix::new_abstract_name(&value).ok() }
    })
}

/// Bytes that an address may not hold as they are stand there as `%` and two digits.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        plain.push(match byte {
            b'%' => u8::try_from(digit(bytes.next()?)? << 4 | digit(bytes.next()?)?).ok()?,
            byte => byte,
        });
    }
    Some(plain)
}

/// A call, in the byte order of this message: little.
fn encode(serial: u32, object: Object, method: &str, arguments: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for argument in arguments {
        put_text(&mut body, argument);
    }
    let mut fields = Vec::new();
    let named = [(1, b'o', object.path), (2, b's', object.interface), (3, b's', method), (6, b's', object.service)];
    for (code, kind, value) in named {
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend_from_slice(&[code, 1, kind, 0]);
        put_text(&mut fields, value);
    }
    if !arguments.is_empty() {
        fields.resize(fields.len().next_multiple_of(8), 0);
        let count = u8::try_from(arguments.len()).expect("a call has a few arguments");
        fields.extend_from_slice(&[8, 1, b'g', 0, count]);
        fields.resize(fields.len() + arguments.len(), b's');
        fields.push(0);
    }
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).expect("names are short").to_le_bytes();
    let start = [b'l', CALL, NO_AUTO_START, 1];
    let mut message = [start, size(&body), serial.to_le_bytes(), size(&fields)].concat();
    message.extend_from_slice(&fields);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend_from_slice(&body);
    message
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend_from_slice(&u32::try_from(text.len()).expect("names are short").to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
}

#[cfg(test)]
mod tests {
    use super::message::Message;
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::Duration;

    const ZONE: Object = Object { service: "a.b", path: "/a/b", interface: "a.b.zone" };

    /// As a bus writes it; taken from dbus-daemon 1.14, big-endian where `is_little` is false.
    fn answer(is_little: bool, to: u32, text: &str) -> Vec<u8> {
        let number = |number: usize| {
            let number = u32::try_from(number).unwrap();
            if is_little { number.to_le_bytes() } else { number.to_be_bytes() }
        };
        let mut fields = Vec::new();
        for (code, name) in [(6, ":1.2"), (7, ":1.1")] {
            fields.resize(fields.len().next_multiple_of(8), 0);
            fields.extend([code, 1, b's', 0]);
            fields.extend(number(name.len()));
            fields.extend(name.as_bytes());
            fields.push(0);
        }
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([8, 1, b'g', 0, 1, b's', 0]);
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([5, 1, b'u', 0]);
        fields.extend(number(to.try_into().unwrap()));
        let mut message = vec![if is_little { b'l' } else { b'B' }, ANSWER, 1, 1];
        message.extend([number(text.len() + 5), number(7), number(fields.len())].concat());
        message.extend(fields);
        message.resize(message.len().next_multiple_of(8), 0);
        message.extend(number(text.len()));
        message.extend(text.as_bytes());
        message.push(0);
        message
    }

    #[test]
    fn answers_of_either_byte_order_are_read() {
        for is_little in [true, false] {
            let bytes = answer(is_little, 3, "trusted");
            assert_eq!(length(bytes.first_chunk().unwrap()), Some(bytes.len()));
            let expected = Message { kind: ANSWER, to: Some(3), error: None, text: Some("trusted".into()) };
            assert_eq!(decode(&bytes), Some(expected));
        }
    }

    #[test]
    fn a_call_reads_as_it_was_written() {
        let bytes = encode(9, ZONE, "addInterface", &["trusted", "br0"]);
        assert_eq!(length(bytes.first_chunk().unwrap()), Some(bytes.len()));
        assert_eq!(decode(&bytes).unwrap(), Message { kind: CALL, text: Some("trusted".into()), ..Message::default() });
        assert!(bytes.ends_with(b"\x03\0\0\0br0\0"));
    }

    #[test]
    fn addresses_are_read() {
        let path = |path: &str| Some(SocketAddrUnix::new(path).unwrap());
        for (text, expected) in [
            ("unix:path=/run/bus", path("/run/bus")),
            ("unix:path=/run/a%20b,guid=00", path("/run/a b")),
            ("tcp:host=localhost,port=1;unix:guid=1,path=/x", path("/x")),
            ("unix:abstract=x", Some(SocketAddrUnix::new_abstract_name(b"x").unwrap())),
            ("unix:path=/run/%4", None),
            ("unix:tmpdir=/tmp", None),
            ("", None),
        ] {
            assert_eq!(address(text), expected, "{text}");
        }
    }

    /// A bus whose other end the test is.
    fn pair(patience: Duration) -> (Bus, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        (Bus { socket: near.into(), serial: 0, deadline: Instant::now() + patience, input: Vec::new() }, far)
    }

    #[test]
    fn nothing_waits_for_a_bus_that_is_silent_or_talks_of_other_things() {
        let start = Instant::now();
        let (mut bus, mut far) = pair(Duration::from_millis(50));
        assert!(matches!(bus.authenticate(), Err(Error::Bus { source, .. }) if source.kind() == io::ErrorKind::TimedOut));
        far.write_all(&answer(true, 77, "not for us").repeat(MOST + 1)).unwrap();
        assert!(matches!(bus.call(ZONE, "x", &[]), Err(Error::BusAnswer { .. })));
        drop(far);
        assert!(bus.authenticate().is_err());
        let (mut bus, mut far) = pair(Duration::from_secs(60));
        far.write_all(&[b'x'; 4096]).unwrap();
        assert!(matches!(bus.call(ZONE, "x", &[]), Err(Error::BusAnswer { .. })));
        assert!(start.elapsed() < Duration::from_secs(10));
        // One that nobody serves.
        let home = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(home.path().join("bus")).unwrap();
        far.read_exact(&mut [0; 16]).unwrap();
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), little: bool) {
            decode(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = if little { b'l' } else { b'B' };
            }
            decode(&bytes);
            bytes.first_chunk().map(length);
        }

        #[test]
        fn no_change_of_an_answer_panics(at in 0..100usize, byte: u8, end in 0..120usize) {
            let mut bytes = answer(true, 1, "public");
            let length = bytes.len();
            bytes[at % length] = byte;
            decode(&bytes);
            decode(&bytes[..end % length]);
        }

        #[test]
        fn no_address_panics(text in "(unix:)?(path|abstract)?=?.{0,120}") {
            address(&text);
        }
    }
}
