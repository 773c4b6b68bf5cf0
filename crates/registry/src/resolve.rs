//! Names of hosts to addresses without the C library: a static glibc has no name service switch.
//!
//! `localhost` is loopback, then the hosts file is asked, then the DNS servers of `resolv.conf` (which are read again when
//! they change): both families at once, over UDP, over TCP when an answer is cut. Answers are kept for as long as they
//! say, one minute at most.

use crate::config::is_loopback_name;
use crate::error::TransportError;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const MAX_KEPT: usize = 256;
const LONGEST_KEPT: Duration = Duration::from_secs(60);
/// The largest configuration file that is read.
const MAX_FILE: u64 = 4 << 20;

/// The resolver; one per client.
#[derive(Debug)]
pub(crate) struct Resolver {
    hosts: PathBuf,
    resolv: PathBuf,
    kept: Mutex<HashMap<String, (Instant, Vec<IpAddr>)>>,
}

/// What `resolv.conf` says.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: usize,
}

impl Settings {
    fn parse(text: &str) -> Settings {
        let mut settings = Settings { servers: Vec::new(), search: Vec::new(), ndots: 1, timeout: Duration::from_secs(5), attempts: 2 };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
                    settings.servers.extend(address.filter(|_| settings.servers.len() < 3).map(|address| SocketAddr::new(address, 53)));
                }
                Some("search" | "domain") => settings.search = words.take(6).map(|word| word.trim_matches('.').to_owned()).collect(),
                Some("options") => {
                    for option in words {
                        let (name, value) = option.split_once(':').unwrap_or((option, ""));
                        match (name, value.parse::<u64>()) {
                            ("ndots", Ok(value)) => settings.ndots = value.min(15) as usize,
                            ("timeout", Ok(value)) => settings.timeout = Duration::from_secs(value.clamp(1, 30)),
                            ("attempts", Ok(value)) => settings.attempts = value.clamp(1, 5) as usize,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if settings.servers.is_empty() {
            settings.servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
        }
        settings
    }

    /// The names to ask for, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let searched = self.search.iter().filter(|domain| !domain.is_empty()).map(|domain| format!("{name}.{domain}"));
        if name.matches('.').count() >= self.ndots {
            std::iter::once(name.to_owned()).chain(searched).collect()
        } else {
            searched.chain(std::iter::once(name.to_owned())).collect()
        }
    }
}

/// Addresses that a hosts file has for `name`.
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.trim_end_matches('.');
    let mut found: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// An answer that was understood.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Addresses(Vec<IpAddr>, Duration),
    NoSuchName,
    /// Ask over TCP.
    Cut,
    /// The server cannot tell.
    Failed,
}

/// Reads an answer to the question `name`; one to another question is `None`.
fn read_answer(bytes: &[u8], id: u16, name: &str, kind: TYPE) -> Option<Answer> {
    let packet = Packet::parse(bytes).ok()?;
    let asked = packet.questions.first()?;
    let same = packet.id() == id
        && packet.has_flags(PacketFlag::RESPONSE)
        && asked.qname.to_string().trim_end_matches('.').eq_ignore_ascii_case(name)
        && asked.qtype == QTYPE::TYPE(kind);
    if !same {
        return None;
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Some(Answer::Cut);
    }
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Some(Answer::NoSuchName),
        _ => return Some(Answer::Failed),
    }
    let mut owner = name.to_ascii_lowercase();
    let mut addresses = Vec::new();
    let mut seconds = LONGEST_KEPT.as_secs();
    // Aliases come before what they stand for; a few rounds follow them in any order.
    for _ in 0..8 {
        let mut next = None;
        for record in &packet.answers {
            if record.class != CLASS::IN || !record.name.to_string().trim_end_matches('.').eq_ignore_ascii_case(&owner) {
                continue;
            }
            seconds = seconds.min(record.ttl.into());
            match &record.rdata {
                RData::A(a) => addresses.push(IpAddr::V4(Ipv4Addr::from(a.address))),
                RData::AAAA(aaaa) => addresses.push(IpAddr::V6(Ipv6Addr::from(aaaa.address))),
                RData::CNAME(alias) => next = Some(alias.0.to_string().trim_end_matches('.').to_ascii_lowercase()),
                _ => {}
            }
        }
        match next {
            Some(next) if addresses.is_empty() => owner = next,
            _ => break,
        }
    }
    addresses.truncate(32);
    Some(Answer::Addresses(addresses, Duration::from_secs(seconds)))
}

fn question(id: u16, name: &str, kind: TYPE) -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(Name::new(name).ok()?, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().ok()
}

fn random_id() -> u16 {
    let mut id = [0; 2];
    getrandom::fill(&mut id).expect("the kernel's random source cannot fail after boot");
    u16::from_ne_bytes(id)
}

/// One question to one server: UDP from a port of its own, then TCP if the answer is cut.
async fn ask(server: SocketAddr, name: &str, kind: TYPE) -> std::io::Result<Answer> {
    let id = random_id();
    let Some(query) = question(id, name, kind) else { return Ok(Answer::NoSuchName) };
    let local: SocketAddr = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(&query).await?;
    let mut buffer = vec![0; 4096];
    let answer = loop {
        let size = socket.recv(&mut buffer).await?;
        // What does not fit the question was not sent by the server: the true answer may still come.
        if let Some(answer) = read_answer(&buffer[..size], id, name, kind) {
            break answer;
        }
    };
    if answer != Answer::Cut {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await?;
    let size = stream.read_u16().await?;
    let mut bytes = vec![0; size.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(read_answer(&bytes, id, name, kind).unwrap_or(Answer::Failed))
}

impl Resolver {
    pub fn new(hosts: PathBuf, resolv: PathBuf) -> Self {
        Resolver { hosts, resolv, kept: Mutex::new(HashMap::new()) }
    }

    /// The addresses of a host, in the order in which they should be tried.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, TransportError> {
        let host = host.trim_matches(['[', ']']);
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if is_loopback_name(host) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let listed = in_hosts(&read_small(&self.hosts).await, host);
        if !listed.is_empty() {
            return Ok(listed);
        }
        let kept = {
            let kept = self.kept.lock().expect("nothing panics while it is held");
            kept.get(host).filter(|(until, _)| *until > Instant::now()).map(|(_, addresses)| addresses.clone())
        };
        if let Some(addresses) = kept {
            return Ok(addresses);
        }
        let settings = Settings::parse(&read_small(&self.resolv).await);
        let (addresses, valid) = look_up(&settings, host).await?;
        let mut kept = self.kept.lock().expect("nothing panics while it is held");
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(host.to_owned(), (Instant::now() + valid, addresses.clone()));
        Ok(addresses)
    }
}

/// Asks the servers for each candidate in turn; the first that has addresses is taken.
async fn look_up(settings: &Settings, host: &str) -> Result<(Vec<IpAddr>, Duration), TransportError> {
    let mut failure = None;
    for name in settings.candidates(host) {
        let (v4, v6) = tokio::join!(look_up_kind(settings, &name, TYPE::A), look_up_kind(settings, &name, TYPE::AAAA));
        let mut addresses = Vec::new();
        let mut valid = LONGEST_KEPT;
        for answer in [v6, v4] {
            match answer {
                Ok(Answer::Addresses(found, seconds)) => {
                    addresses.extend(found);
                    valid = valid.min(seconds);
                }
                Ok(Answer::NoSuchName) => {}
                Ok(Answer::Failed | Answer::Cut) => failure = Some("the DNS server cannot answer (SERVFAIL)".to_owned()),
                Err(reason) => failure = Some(reason),
            }
        }
        if !addresses.is_empty() {
            return Ok((addresses, valid));
        }
    }
    Err(match failure {
        Some(reason) => TransportError::Lookup { host: host.to_owned(), reason },
        None => TransportError::NoSuchHost { host: host.to_owned() },
    })
}

async fn look_up_kind(settings: &Settings, name: &str, kind: TYPE) -> Result<Answer, String> {
    let mut failure = Ok(Answer::Failed);
    for _ in 0..settings.attempts {
        for server in &settings.servers {
            match tokio::time::timeout(settings.timeout, ask(*server, name, kind)).await {
                Ok(Ok(answer @ (Answer::Addresses(..) | Answer::NoSuchName))) => return Ok(answer),
                Ok(Ok(answer)) => failure = Ok(answer),
                Ok(Err(error)) => failure = Err(format!("DNS server {server}: {error}")),
                Err(_) => failure = Err(format!("DNS server {server} does not answer")),
            }
        }
    }
    failure
}

/// A configuration file; one that is absent, unreadable or huge is as good as empty.
async fn read_small(path: &std::path::Path) -> String {
    match tokio::fs::metadata(path).await {
        Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_FILE => {
            tokio::fs::read(path).await.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, CNAME};

    #[test]
    fn settings() {
        let settings = Settings::parse(
            "# x\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nsearch a.example b.example\noptions ndots:2 timeout:1 attempts:9 rotate\n",
        );
        assert_eq!(settings.servers, ["10.0.0.1:53".parse().unwrap(), "[fe80::1]:53".parse().unwrap()]);
        assert_eq!((settings.ndots, settings.attempts, settings.timeout.as_secs()), (2, 5, 1));
        assert_eq!(settings.candidates("x"), ["x.a.example", "x.b.example", "x"]);
        assert_eq!(settings.candidates("x.y.z"), ["x.y.z", "x.y.z.a.example", "x.y.z.b.example"]);
        assert_eq!(settings.candidates("x."), ["x"]);
        assert_eq!(Settings::parse("").servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn hosts() {
        let text = "127.0.0.1 localhost\n10.0.0.5 Reg.Example reg # comment other\nbad line\n::5 reg.example\n";
        assert_eq!(in_hosts(text, "reg.example"), ["10.0.0.5".parse::<IpAddr>().unwrap(), "::5".parse().unwrap()]);
        assert!(in_hosts(text, "other").is_empty());
    }

    fn answer(id: u16, records: Vec<ResourceRecord<'static>>, flags: PacketFlag) -> Vec<u8> {
        let mut packet = Packet::new_reply(id);
        packet.set_flags(flags);
        packet.questions.push(Question::new(Name::new("a.example").unwrap(), QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN), false));
        packet.answers = records;
        packet.build_bytes_vec().unwrap()
    }

    fn record(name: &'static str, data: RData<'static>) -> ResourceRecord<'static> {
        ResourceRecord::new(Name::new(name).unwrap(), CLASS::IN, 30, data)
    }

    #[test]
    fn answers() {
        let address = || record("b.example", RData::A(A { address: 0x0a00_0001 }));
        let alias = || record("A.example", RData::CNAME(CNAME(Name::new("b.example").unwrap())));
        let found = Answer::Addresses(vec!["10.0.0.1".parse().unwrap()], Duration::from_secs(30));
        let none = PacketFlag::empty();
        for records in [vec![alias(), address()], vec![address(), alias()]] {
            assert_eq!(read_answer(&answer(7, records, none), 7, "a.example", TYPE::A), Some(found_again(&found)));
        }
        assert_eq!(read_answer(&answer(7, vec![address()], none), 7, "a.example", TYPE::A), Some(Answer::Addresses(vec![], LONGEST_KEPT)));
        assert_eq!(read_answer(&answer(8, vec![], none), 7, "a.example", TYPE::A), None);
        assert_eq!(read_answer(&answer(7, vec![], none), 7, "c.example", TYPE::A), None);
        assert_eq!(read_answer(&answer(7, vec![], none), 7, "a.example", TYPE::AAAA), None);
        assert_eq!(read_answer(&answer(7, vec![], PacketFlag::TRUNCATION), 7, "a.example", TYPE::A), Some(Answer::Cut));
        assert_eq!(read_answer(b"garbage", 7, "a.example", TYPE::A), None);
    }

    fn found_again(answer: &Answer) -> Answer {
        match answer {
            Answer::Addresses(addresses, valid) => Answer::Addresses(addresses.clone(), *valid),
            _ => Answer::Failed,
        }
    }

    #[tokio::test]
    async fn a_name_that_dns_knows() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((size, peer)) = server.recv_from(&mut buffer).await {
                let query = Packet::parse(&buffer[..size]).unwrap();
                let name = query.questions[0].qname.to_string();
                let mut reply = Packet::new_reply(query.id());
                reply.questions = query.questions.clone();
                if name == "a.example" && query.questions[0].qtype == QTYPE::TYPE(TYPE::A) {
                    reply.answers.push(ResourceRecord::new(
                        Name::new_unchecked(&name),
                        CLASS::IN,
                        30,
                        RData::A(A { address: 0x0a00_0002 }),
                    ));
                } else if name != "a.example" {
                    *reply.rcode_mut() = RCODE::NameError;
                }
                // First a forged answer with another id: it must not be taken.
                server.send_to(&answer(query.id().wrapping_add(1), vec![], PacketFlag::empty()), peer).await.unwrap();
                server.send_to(&reply.build_bytes_vec().unwrap(), peer).await.unwrap();
            }
        });
        let settings =
            Settings { servers: vec![address], search: vec!["example".into()], ndots: 1, timeout: Duration::from_secs(60), attempts: 1 };
        assert_eq!(look_up(&settings, "a").await.unwrap().0, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert!(matches!(look_up(&settings, "nope.test").await, Err(TransportError::NoSuchHost { .. })));
    }

    #[tokio::test]
    async fn localhost_needs_no_file() {
        let resolver = Resolver::new("/nonexistent".into(), "/nonexistent".into());
        for name in ["localhost", "x.localhost", "LOCALHOST."] {
            assert!(resolver.resolve(name).await.unwrap().iter().all(|address| address.is_loopback()));
        }
        assert_eq!(resolver.resolve("[::1]").await.unwrap(), [IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    }
}
