//! A registry's evil twin: passes requests on to a true registry and spoils what a rule says.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

/// What happens to a request.
#[derive(Clone)]
pub enum Act {
    Pass,
    /// An answer of our own.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The answer breaks off after so many bytes.
    Cut(usize),
    /// The answer ends after so many bytes, as if that were all (chunked).
    EndAfter(usize),
    /// The answer stops moving after so many bytes.
    Stall(usize),
    /// The registry never sees the `Range`.
    IgnoreRange,
    /// A header of the answer is another.
    Header(&'static str, String),
    /// The middle byte of the answer is another.
    Flip,
    /// A byte now and then.
    Trickle,
    /// Half of the bytes come, as if they were all.
    Half,
    /// The request's body is taken up to so many bytes, then the connection breaks.
    CutRequest(usize),
    /// Bytes without end.
    Endless,
}

/// One request, as it was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

type Rule = Arc<dyn Fn(&Seen, usize) -> Act + Send + Sync>;

#[derive(Clone)]
pub struct Proxy {
    pub address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

impl Proxy {
    /// `rule` gets the request and how many requests with the same method and path came before.
    pub async fn start(upstream: &str, rule: impl Fn(&Seen, usize) -> Act + Send + Sync + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy { address: listener.local_addr().unwrap().to_string(), seen: Arc::default() };
        let (upstream, rule, shared) = (upstream.to_owned(), Arc::new(rule) as Rule, proxy.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (upstream, rule, shared) = (upstream.clone(), rule.clone(), shared.clone());
                tokio::spawn(async move {
                    // A TLS greeting is answered as Go's server does.
                    let mut first = [0];
                    if stream.peek(&mut first).await.is_ok_and(|count| count == 1 && first[0] == 0x16) {
                        use tokio::io::AsyncWriteExt;
                        let mut stream = stream;
                        stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n").await.ok();
                        return;
                    }
                    let service = service_fn(move |request| {
                        let (upstream, rule, shared) = (upstream.clone(), rule.clone(), shared.clone());
                        async move { shared.serve(&upstream, &rule, request).await }
                    });
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        proxy
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method == method && seen.path.contains(part)).count()
    }

    pub fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }

    async fn serve(&self, upstream: &str, rule: &Rule, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        let seen = Seen { method: parts.method.to_string(), path, headers: parts.headers.clone() };
        let before = {
            let mut all = self.seen.lock().unwrap();
            all.push(seen.clone());
            all.iter().filter(|other| other.method == seen.method && other.path == seen.path).count() - 1
        };
        let act = rule(&seen, before);
        if let Act::Answer(status, headers, bytes) = act {
            let mut answer = Response::builder().status(status);
            for (name, value) in headers {
                answer = answer.header(name, value);
            }
            // As web servers do before they close: a client that is still sending would not see the answer.
            body.collect().await.ok();
            return Ok(answer.body(full(bytes)).unwrap());
        }
        if let Act::Endless = act {
            let piece = vec![b' '; 64 << 10];
            let pieces = futures_util::stream::repeat_with(move || Ok(Frame::data(Bytes::from(piece.clone()))));
            return Ok(Response::builder()
                .header("content-type", super::support::OCI_MANIFEST)
                .body(BodyExt::boxed_unsync(StreamBody::new(pieces)))
                .unwrap());
        }
        if let Act::CutRequest(limit) = act {
            return self.cut_request(upstream, &seen, body, limit).await;
        }
        let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in &parts.headers {
            let skipped = matches!(name.as_str(), "transfer-encoding" | "connection" | "content-length")
                || (name == "range" && matches!(act, Act::IgnoreRange));
            if !skipped {
                headers.push((name.to_string(), value.to_str().unwrap().to_owned()));
            }
        }
        let borrowed: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let url = format!("http://{upstream}{}", seen.path);
        let (status, answer_headers, bytes) = super::support::request(&seen.method, &url, &borrowed, bytes.to_vec()).await;
        let mut answer = Response::builder().status(status);
        for (name, value) in &answer_headers {
            let other_length = name == "content-length" && matches!(act, Act::EndAfter(_) | Act::Half);
            if !other_length && !matches!(name.as_str(), "transfer-encoding" | "connection") {
                answer = answer.header(name, value);
            }
        }
        if let Act::Header(name, value) = &act {
            answer.headers_mut().unwrap().insert(*name, value.parse().unwrap());
        }
        if seen.method == "HEAD" {
            return Ok(answer.body(full(vec![])).unwrap());
        }
        Ok(answer.body(spoil(&act, bytes)).unwrap())
    }

    /// Passes the start of the request's body on and breaks both connections.
    async fn cut_request(&self, upstream: &str, seen: &Seen, mut body: Incoming, limit: usize) -> Result<Response<Body>, io::Error> {
        use tokio::io::AsyncWriteExt;
        let length = seen.header("content-length").unwrap();
        let mut stream = tokio::net::TcpStream::connect(upstream).await?;
        let head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n",
            seen.method, seen.path, self.address
        );
        stream.write_all(head.as_bytes()).await?;
        let mut left = limit;
        while let Some(Ok(frame)) = body.frame().await {
            let data = frame.into_data().unwrap_or_default();
            let part = &data[..data.len().min(left)];
            stream.write_all(part).await?;
            left -= part.len();
            if left == 0 {
                break;
            }
        }
        stream.shutdown().await?;
        // The registry notices the end before it is asked how much it has.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.ok();
        Err(io::Error::other("cut"))
    }
}

fn full(bytes: Vec<u8>) -> Body {
    Full::from(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn spoil(act: &Act, bytes: Bytes) -> Body {
    let pieces = |bytes: Bytes, end: Option<io::Error>| {
        let first: Result<Frame<Bytes>, io::Error> = Ok(Frame::data(bytes));
        BodyExt::boxed_unsync(StreamBody::new(futures_util::stream::iter([Some(first), end.map(Err)].into_iter().flatten())))
    };
    match act {
        // The end comes a moment later, so that what was before it is sent.
        Act::Cut(limit) if bytes.len() > *limit => {
            use futures_util::StreamExt;
            let first = futures_util::stream::iter([Ok(Frame::data(bytes.slice(..*limit)))]);
            let end = futures_util::stream::once(async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                Err(io::Error::other("cut"))
            });
            BodyExt::boxed_unsync(StreamBody::new(first.chain(end.boxed())))
        }
        Act::Trickle => {
            let pieces = futures_util::stream::unfold((bytes, 0), |(bytes, at)| async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let piece: Result<Frame<Bytes>, io::Error> = Ok(Frame::data(bytes.slice(at..(at + 1).min(bytes.len()))));
                Some((piece, (bytes, at + 1)))
            });
            BodyExt::boxed_unsync(StreamBody::new(pieces))
        }
        Act::Half => full(bytes[..bytes.len() / 2].to_vec()),
        Act::EndAfter(limit) => pieces(bytes.slice(..bytes.len().min(*limit)), None),
        Act::Stall(limit) => {
            use futures_util::StreamExt;
            let first = futures_util::stream::iter([Ok(Frame::data(bytes.slice(..bytes.len().min(*limit))))]);
            BodyExt::boxed_unsync(StreamBody::new(first.chain(futures_util::stream::pending())))
        }
        Act::Flip if !bytes.is_empty() => {
            let mut bytes = bytes.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            full(bytes)
        }
        _ => full(bytes.to_vec()),
    }
}

/// A server that writes the same bytes to everyone.
pub async fn raw_server(bytes: Vec<u8>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let got = stream.read(&mut buffer).await.unwrap_or(0);
                if got > 0 && buffer[0] == 0x16 {
                    stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await.ok();
                    return;
                }
                stream.write_all(&bytes).await.ok();
                tokio::time::sleep(Duration::from_millis(200)).await;
            });
        }
    });
    address
}

pub fn json(status: StatusCode, text: &str) -> Act {
    Act::Answer(status.as_u16(), vec![("content-type", "application/json".into())], text.as_bytes().to_vec())
}
