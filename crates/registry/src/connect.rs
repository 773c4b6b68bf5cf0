//! Connections: resolve, connect to the fastest address, through a proxy where one is set, with TLS.
//!
//! A connector with a [`Guard`] is for addresses that a registry named (redirects, token servers, foreign layers): it does
//! not reach link-local and loopback addresses, so that nobody can make the engine ask a cloud's metadata service or the
//! host's own services.

use crate::config::{RegistryConfig, is_loopback_name};
use crate::error::{Error, TransportError};
use crate::resolve::Resolver;
use crate::tls::{TlsConfigs, handshake_error};
use crate::url::{Url, unescape};
use ::http::Uri;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// After this the next address is tried, too (RFC 8305).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
const MAX_PROXY_HEAD: usize = 16 << 10;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub config: Arc<RegistryConfig>,
    pub resolver: Resolver,
    pub tls: TlsConfigs,
}

/// A connector for hyper's client.
#[derive(Clone)]
pub(crate) struct Connector {
    pub dialer: Arc<Dialer>,
    pub guard: Guard,
}

/// What a connector keeps away from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Nothing: the user named the address.
    Open,
    /// Link-local addresses: a registry on this host may name this host, but not who is asked from here only.
    LinkLocal,
    /// Those, and this host.
    ThisHost,
}

impl Guard {
    /// For addresses that the registry with this name or address gives out.
    pub fn of(registry: &str) -> Guard {
        match registry.trim_matches(['[', ']']).parse() {
            Ok(address) if is_this_host(address) => Guard::LinkLocal,
            Ok(address) if is_forbidden(address) => Guard::Open,
            _ if is_loopback_name(registry) => Guard::LinkLocal,
            _ => Guard::ThisHost,
        }
    }

    fn forbids(self, address: IpAddr) -> bool {
        match self {
            Guard::Open => false,
            Guard::LinkLocal => is_forbidden(address) && !is_this_host(address),
            Guard::ThisHost => is_forbidden(address),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, plain or not.
pub(crate) struct Stream {
    inner: Box<dyn Duplex>,
    /// A proxy wants whole addresses in requests.
    through_http_proxy: bool,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.through_http_proxy)
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, TransportError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let url = Url::parse(&uri.to_string()).map_err(|e| TransportError::Broken(e.to_string()))?;
            connector.connect(&url).await.map(TokioIo::new)
        })
    }
}

impl Connector {
    async fn connect(&self, url: &Url) -> Result<Stream, TransportError> {
        let text = |error: Error| TransportError::Broken(error.to_string());
        let Some(proxy) = self.dialer.config.proxies.for_url(url).map_err(text)? else {
            let tcp = self.dial(url, self.guard).await?;
            let inner = if url.is_https() { self.secure(url, Box::new(tcp)).await? } else { Box::new(tcp) };
            return Ok(Stream { inner, through_http_proxy: false });
        };
        // The proxy resolves the name; only an address written out can be judged here.
        if let Some(address) = url.host.trim_matches(['[', ']']).parse().ok().filter(|address| self.guard.forbids(*address)) {
            return Err(TransportError::ForbiddenAddress { host: url.host.clone(), address: address.to_string() });
        }
        let tcp: Box<dyn Duplex> = Box::new(self.dial(&proxy, Guard::Open).await?);
        let mut to_proxy = if proxy.is_https() { self.secure(&proxy, tcp).await? } else { tcp };
        if !url.is_https() {
            return Ok(Stream { inner: to_proxy, through_http_proxy: true });
        }
        let tunnel = tokio::time::timeout(HANDSHAKE_TIMEOUT, open_tunnel(&mut to_proxy, url, &proxy)).await;
        tunnel.map_err(|_| TransportError::Proxy("the proxy does not answer".into()))??;
        Ok(Stream { inner: self.secure(url, to_proxy).await?, through_http_proxy: false })
    }

    async fn dial(&self, url: &Url, guard: Guard) -> Result<TcpStream, TransportError> {
        let addresses = self.dialer.resolver.resolve(&url.host).await?;
        if let Some(address) = addresses.iter().find(|address| guard.forbids(**address)) {
            return Err(TransportError::ForbiddenAddress { host: url.host.clone(), address: address.to_string() });
        }
        let addresses: Vec<SocketAddr> = addresses.into_iter().map(|address| SocketAddr::new(address, url.port())).collect();
        let first = addresses.first().map(ToString::to_string).unwrap_or_default();
        let tcp = tokio::time::timeout(CONNECT_TIMEOUT, fastest(addresses)).await;
        let tcp = tcp.map_err(|_| TransportError::Connect { address: first, reason: "i/o timeout".into() })??;
        // Heads of requests are small and written at once; what is left unset costs speed only.
        tcp.set_nodelay(true).ok();
        Ok(tcp)
    }

    async fn secure(&self, url: &Url, stream: Box<dyn Duplex>) -> Result<Box<dyn Duplex>, TransportError> {
        let authority = url.authority();
        let config = self.dialer.tls.for_host(&self.dialer.config, &authority).map_err(|e| TransportError::Tls(e.to_string()))?;
        let name = url.host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(name).map_err(|e| TransportError::Tls(e.to_string()))?;
        let handshake = tokio_rustls::TlsConnector::from(config).connect(name, stream);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(handshake_error(&authority, &error)),
            Err(_) => Err(TransportError::Broken("net/http: TLS handshake timeout".into())),
        }
    }
}

/// Loopback, unspecified and link-local addresses, also as IPv4 within IPv6.
pub(crate) fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => match v6.to_ipv4() {
            // `::` and `::1` are IPv4-compatible addresses, too.
            Some(v4) if v6.to_ipv4_mapped().is_some() => is_forbidden(v4.into()),
            _ => v6.is_loopback() || v6.is_unspecified() || (v6.segments()[0] & 0xffc0) == 0xfe80,
        },
    }
}

fn is_this_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| v6.is_loopback() || v6.is_unspecified(), |v4| is_this_host(v4.into())),
    }
}

/// Connects to the first address that answers; each next one is tried when the one before has not answered for a moment.
async fn fastest(addresses: Vec<SocketAddr>) -> Result<TcpStream, TransportError> {
    let mut waiting = alternate(addresses).into_iter();
    let mut attempts = JoinSet::new();
    let mut failure = TransportError::Broken("the name has no address".into());
    let dial = |attempts: &mut JoinSet<_>, address: SocketAddr| {
        attempts.spawn(async move { (address, TcpStream::connect(address).await) });
    };
    if let Some(address) = waiting.next() {
        dial(&mut attempts, address);
    }
    loop {
        let finished = tokio::time::timeout(NEXT_ADDRESS_AFTER, attempts.join_next()).await;
        match finished {
            Ok(Some(Ok((_, Ok(stream))))) => return Ok(stream),
            Ok(Some(Ok((address, Err(error))))) => {
                failure = match error.kind() {
                    io::ErrorKind::ConnectionRefused => TransportError::ConnectionRefused { address: address.to_string() },
                    _ => TransportError::Connect { address: address.to_string(), reason: error.to_string() },
                };
            }
            Ok(Some(Err(_)) | None) if waiting.len() == 0 => return Err(failure),
            Ok(Some(Err(_)) | None) | Err(_) => {}
        }
        if let Some(address) = waiting.next() {
            dial(&mut attempts, address);
        } else if attempts.is_empty() {
            return Err(failure);
        }
    }
}

/// Families in turn, beginning with that of the first address.
fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (a, b): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = (a.next(), b.next());
        if pair == (None, None) {
            return ordered;
        }
        ordered.extend(pair.0);
        ordered.extend(pair.1);
    }
}

/// `Proxy-Authorization` for a proxy with a user part.
pub(crate) fn proxy_authorization(proxy: &Url) -> Option<String> {
    proxy.userinfo.as_ref().map(|userinfo| {
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", unescape(user), unescape(password))))
    })
}

async fn open_tunnel(stream: &mut Box<dyn Duplex>, url: &Url, proxy: &Url) -> Result<(), TransportError> {
    let broken = |error: io::Error| TransportError::Proxy(error.to_string());
    let target = format!("{}:{}", url.host, url.port());
    let authorization = proxy_authorization(proxy).map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut head = Vec::new();
    // Byte by byte: what follows the head belongs to TLS.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_PROXY_HEAD {
            return Err(TransportError::Proxy("the proxy's answer is too large".into()));
        }
        head.push(stream.read_u8().await.map_err(broken)?);
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.lines().next().unwrap_or_default().splitn(3, ' ');
    let (version, status, text) = (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !version.starts_with("HTTP/1.") || !status.starts_with('2') {
        return Err(TransportError::Proxy(crate::error::printable(&format!("{status} {text}"), 100)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_a_registry_must_not_name() {
        for (address, forbidden) in [
            ("127.0.0.1", true),
            ("169.254.169.254", true),
            ("0.0.0.0", true),
            ("::1", true),
            ("::", true),
            ("fe80::1", true),
            ("::ffff:169.254.169.254", true),
            ("10.0.0.1", false),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_forbidden(address.parse().unwrap()), forbidden, "{address}");
        }
    }

    #[tokio::test]
    async fn an_address_that_refuses_does_not_hide_one_that_answers() {
        // At an address of its own, where nobody gets the port meanwhile.
        let closed = std::net::TcpListener::bind("127.0.0.9:0").unwrap().local_addr().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(fastest(vec![closed, listener.local_addr().unwrap()]).await.is_ok());
        assert!(matches!(fastest(vec![closed]).await, Err(TransportError::ConnectionRefused { .. })));
        assert!(fastest(vec![]).await.is_err());
    }

    #[test]
    fn families_take_turns() {
        let text = ["[::1]:1", "[::2]:1", "127.0.0.1:1", "127.0.0.2:1", "127.0.0.3:1"];
        let ordered = alternate(text.iter().map(|text| text.parse().unwrap()).collect());
        let ordered: Vec<String> = ordered.iter().map(ToString::to_string).collect();
        assert_eq!(ordered, ["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "127.0.0.3:1"]);
    }

    #[tokio::test]
    async fn a_guarded_connector_does_not_reach_this_host() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::new(false, &listener.local_addr().unwrap().to_string(), "/").unwrap();
        let config = Arc::new(RegistryConfig::default());
        let resolver = Resolver::new("/etc/hosts".into(), "/etc/resolv.conf".into());
        let dialer = Arc::new(Dialer { config, resolver, tls: TlsConfigs::default() });
        let guarded = Connector { dialer: dialer.clone(), guard: Guard::ThisHost };
        assert!(matches!(guarded.connect(&url).await, Err(TransportError::ForbiddenAddress { .. })));
        assert!(Connector { dialer, guard: Guard::LinkLocal }.connect(&url).await.is_ok());
    }
}
