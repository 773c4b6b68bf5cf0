//! Where an engine listens, as `DOCKER_HOST` writes it, and the connection to it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The port of `tcp://host` without one.
const DEFAULT_TCP_PORT: u16 = 2375;

/// The address of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `unix:///run/naru/naru.sock`
    Unix(PathBuf),
    /// `tcp://host:port`, without encryption; the path prefixes every request.
    Tcp { host: String, port: u16, path: String },
    /// `ssh://[user@]host[:port]`: `docker system dial-stdio` is run there.
    Ssh { destination: String, port: Option<u16>, text: String },
}

/// An address that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("unable to parse docker host `{0}`")]
    Malformed(String),
    #[error("protocol not available: {0}")]
    Unsupported(String),
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let malformed = || EndpointError::Malformed(text.to_owned());
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        match scheme {
            "unix" if rest.is_empty() => Ok(Self::Unix(PathBuf::from("/var/run/docker.sock"))),
            "unix" => Ok(Self::Unix(PathBuf::from(rest))),
            "tcp" | "http" => {
                let (address, path) = match rest.find('/') {
                    Some(at) => (&rest[..at], rest[at..].trim_end_matches('/')),
                    None => (rest, ""),
                };
                let (host, port) = match address.rsplit_once(':') {
                    Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| malformed())?),
                    _ => (address, DEFAULT_TCP_PORT),
                };
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let host = if host.is_empty() { "127.0.0.1" } else { host };
                Ok(Self::Tcp { host: host.to_owned(), port, path: path.to_owned() })
            }
            "ssh" => {
                let address = rest.trim_end_matches('/');
                if address.is_empty() || address.starts_with('-') {
                    return Err(malformed());
                }
                let (destination, port) = match address.rsplit_once(':') {
                    Some((host, port)) => (host, Some(port.parse().map_err(|_| malformed())?)),
                    None => (address, None),
                };
                Ok(Self::Ssh { destination: destination.to_owned(), port, text: text.to_owned() })
            }
            "npipe" | "fd" | "https" => Err(EndpointError::Unsupported(text.to_owned())),
            _ => Err(malformed()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port, path } if host.contains(':') => write!(f, "tcp://[{host}]:{port}{path}"),
            Self::Tcp { host, port, path } => write!(f, "tcp://{host}:{port}{path}"),
            Self::Ssh { text, .. } => f.write_str(text),
        }
    }
}

impl Endpoint {
    /// The `Host` header: a fixed name for local sockets.
    pub(super) fn host_header(&self) -> String {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
            Self::Unix(_) | Self::Ssh { .. } => "api.moby.localhost".to_owned(),
        }
    }

    /// What stands before every path.
    pub(super) fn prefix(&self) -> &str {
        match self {
            Self::Tcp { path, .. } => path,
            Self::Unix(_) | Self::Ssh { .. } => "",
        }
    }

    /// Opens one connection.
    pub async fn connect(&self) -> io::Result<Connection> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).await.map(Connection::Unix),
            Self::Tcp { host, port, .. } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Connection::Tcp(stream))
            }
            Self::Ssh { destination, port, .. } => {
                let mut command = Command::new("ssh");
                command.args(["-o", "ConnectTimeout=30", "-T"]);
                if let Some(port) = port {
                    command.args(["-p", &port.to_string()]);
                }
                command.args(["--", destination, "docker", "system", "dial-stdio"]);
                command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).kill_on_drop(true);
                let mut child = command.spawn()?;
                let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
                    return Err(io::Error::other("ssh was started without pipes"));
                };
                Ok(Connection::Ssh { input: Some(input), output, _child: Box::new(child) })
            }
        }
    }
}

/// A byte stream to an engine.
pub enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
    /// The child is killed when the connection is dropped.
    Ssh {
        input: Option<ChildStdin>,
        output: ChildStdout,
        _child: Box<Child>,
    },
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Ssh { output, .. } => Pin::new(output).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Ssh { input: Some(input), .. } => Pin::new(input).poll_write(cx, buf),
            Self::Ssh { input: None, .. } => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Ssh { input: Some(input), .. } => Pin::new(input).poll_flush(cx),
            Self::Ssh { input: None, .. } => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Ssh { input, .. } => {
                input.take();
                Poll::Ready(Ok(()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_docker_host_writes_them() {
        for (text, shown) in [
            ("unix:///run/x.sock", "unix:///run/x.sock"),
            ("unix://", "unix:///var/run/docker.sock"),
            ("tcp://example.org", "tcp://example.org:2375"),
            ("tcp://:2376", "tcp://127.0.0.1:2376"),
            ("127.0.0.1:99", "tcp://127.0.0.1:99"),
            ("tcp://[::1]:99/prefix/", "tcp://[::1]:99/prefix"),
            ("ssh://me@host:22", "ssh://me@host:22"),
        ] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), shown);
        }
        for bad in ["tcp://h:port", "tcp://h:99999", "npipe:////./pipe/x", "foo://x", "ssh://", "ssh://-oProxyCommand=x"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
