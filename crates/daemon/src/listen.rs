//! Sockets: where clients come in, and how a connection is served.

use crate::config::{Address, Config};
use crate::lenient::{self, End, Lenient};
use crate::{App, DaemonError, docker};
use http::{Method, Request, Uri};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::AddressFamily;
use std::convert::Infallible;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;

/// A client that has sent half a header for this long is sent away.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may take, or go on, after its client has closed its sending direction.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// A bound socket.
pub enum Listener {
    /// A unix socket.
    Unix(UnixListener),
    /// A TCP socket, without TLS.
    Tcp(TcpListener),
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DaemonError {
    let path = path.display().to_string();
    move |source| DaemonError::Io { what, path, source }
}

/// A pid file that is locked while the daemon lives: a stale pid that somebody else has now is no obstacle.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    _file: std::fs::File,
}

impl PidFile {
    /// Claims the file, or says who has it.
    pub fn claim(path: &Path) -> Result<PidFile, DaemonError> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(io("make", parent))?;
        }
        let mut file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .map_err(io("open", path))?;
        if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            let pid = std::fs::read_to_string(path).unwrap_or_default();
            return Err(DaemonError::Taken(format!(
                "another daemon (pid {}) holds {}; stop it or use other --pidfile, --data-root, --exec-root and --host",
                pid.trim(),
                path.display()
            )));
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(io("write", path))?;
        Ok(PidFile { path: path.to_owned(), _file: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Still locked: nobody else can have claimed it.
        std::fs::remove_file(&self.path).ok();
    }
}

/// Binds all addresses.
pub fn bind(config: &Config) -> Result<Vec<Listener>, DaemonError> {
    let mut listeners = Vec::new();
    for address in &config.hosts {
        match address {
            Address::Unix(path) => listeners.push(Listener::Unix(bind_unix(path, &config.group)?)),
            Address::Tcp(address) => {
                let refused =
                    |error: std::io::Error| DaemonError::Listen { address: format!("tcp://{address}"), reason: error.to_string() };
                let socket = std::net::TcpListener::bind(address).map_err(refused)?;
                socket.set_nonblocking(true).map_err(refused)?;
                listeners.push(Listener::Tcp(TcpListener::from_std(socket).map_err(refused)?));
                tracing::warn!(%address, "listening without TLS: whoever reaches this address is root on this host");
            }
            Address::Inherited => listeners.extend(inherited()?),
        }
    }
    Ok(listeners)
}

fn bind_unix(path: &Path, group: &str) -> Result<UnixListener, DaemonError> {
    let refused = |reason: String| DaemonError::Listen { address: format!("unix://{}", path.display()), reason };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(io("make", parent))?;
    }
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err(refused("there is a file that is no socket".into()));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(refused("another daemon answers there".into()));
        }
        std::fs::remove_file(path).map_err(io("delete the stale socket", path))?;
    }
    // Bound under another name and renamed once its mode is set: nobody connects before, and the name never fails.
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::remove_file(&fresh).ok();
    let listener = UnixListener::bind(&fresh).map_err(|error| refused(error.to_string()))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o660)).map_err(io("set the mode of", &fresh))?;
    if let Some(gid) = group_id(group) {
        std::os::unix::fs::chown(&fresh, None, Some(gid)).map_err(io("set the group of", &fresh))?;
    } else if group != "docker" {
        std::fs::remove_file(&fresh).ok();
        return Err(refused(format!("group {group} not found")));
    }
    std::fs::rename(&fresh, path).map_err(io("rename the socket to", path))?;
    Ok(listener)
}

/// A group's number, from its number or /etc/group.
fn group_id(group: &str) -> Option<u32> {
    if let Ok(gid) = group.parse() {
        return Some(gid);
    }
    let text = std::fs::read_to_string("/etc/group").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != group {
            return None;
        }
        fields.nth(1)?.parse().ok()
    })
}

/// Sockets of a service manager (sd_listen_fds(3)).
fn inherited() -> Result<Vec<Listener>, DaemonError> {
    let refused = |reason: &str| DaemonError::Listen { address: "fd://".into(), reason: reason.into() };
    let ours = std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok()) == Some(std::process::id());
    let count: i32 = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).filter(|_| ours).unwrap_or(0);
    if count == 0 {
        return Err(refused("no sockets were passed by a service manager"));
    }
    (3..3 + count)
        .map(|number| {
            let socket = naru_sys::process::claim_fd(number).ok_or_else(|| refused("a passed descriptor is not open"))?;
            let failed = |error: std::io::Error| refused(&error.to_string());
            rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| failed(errno.into()))?;
            match rustix::net::sockopt::socket_domain(&socket) {
                Ok(AddressFamily::UNIX) => UnixListener::from_std(socket.into()).map(Listener::Unix).map_err(failed),
                Ok(AddressFamily::INET | AddressFamily::INET6) => TcpListener::from_std(socket.into()).map(Listener::Tcp).map_err(failed),
                _ => Err(refused("a passed descriptor is no socket of a known kind")),
            }
        })
        .collect()
}

/// Tells a waiting parent that requests are answered: one byte on the descriptor that `NARU_READY_FD` names.
pub fn announce_ready() {
    let Some(number) = std::env::var("NARU_READY_FD").ok().and_then(|text| text.parse::<i32>().ok()) else { return };
    if let Some(pipe) = naru_sys::process::claim_fd(number) {
        // The starter may have given up.
        rustix::io::write(&pipe, b"1").ok();
    }
}

/// Accepts for ever.
pub async fn serve(app: Arc<App>, listeners: Vec<Listener>) {
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners {
        tasks.spawn(accept(Arc::clone(&app), listener));
    }
    while tasks.join_next().await.is_some() {}
}

async fn accept(app: Arc<App>, listener: Listener) {
    loop {
        let accepted = match &listener {
            Listener::Unix(socket) => socket.accept().await.map(|(stream, _)| {
                tokio::spawn(connection(Arc::clone(&app), stream));
            }),
            Listener::Tcp(socket) => socket.accept().await.map(|(stream, _)| {
                stream.set_nodelay(true).ok();
                tokio::spawn(connection(Arc::clone(&app), stream));
            }),
        };
        if let Err(error) = accepted {
            // Out of descriptors: those that end free some; accepting again at once would only spin.
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A request that is worked on.
struct Asked {
    socket: Arc<OwnedFd>,
    method: Method,
    uri: Uri,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if lenient::has_gone(self.socket.as_fd()) {
            // Docker's status for it, which nobody is there to get.
            tracing::debug!(method = %self.method, path = self.uri.path(), status = 499, "the client went before its answer");
        }
    }
}

async fn connection(app: Arc<App>, stream: impl AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static) {
    // Only who debugs is told of clients that do not wait.
    let watched = tracing::enabled!(tracing::Level::DEBUG).then(|| stream.as_fd().try_clone_to_owned().ok()).flatten().map(Arc::new);
    let service = service_fn(move |request: Request<Incoming>| {
        let app = Arc::clone(&app);
        let asked = watched.clone().map(|socket| Asked { socket, method: request.method().clone(), uri: request.uri().clone() });
        async move {
            let _asked = asked;
            Ok::<_, Infallible>(docker::answer(app, request).await)
        }
    });
    let (end, ended) = oneshot::channel();
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // As Docker writes them: scripts look for `Api-Version:`.
        .title_case_headers(true)
        .header_read_timeout(HEADER_PATIENCE)
        // Who only sends no more, as socat and `docker system dial-stdio` at the end of their input, gets its answer.
        .half_close(true)
        .serve_connection(TokioIo::new(Lenient::new(stream, end)), service)
        .with_upgrades();
    tokio::pin!(served);
    let result = tokio::select! {
        result = &mut served => result,
        // Whoever has gone is not waited for, and of one that has closed one direction nobody knows whether it still reads.
        Ok(end) = ended => match end {
            End::All => return,
            End::Sending => match tokio::time::timeout(ANSWER_PATIENCE, served).await {
                Ok(result) => result,
                Err(_) => return,
            },
        },
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}
