//! The daemon: reads its configuration, opens the engine, listens, and lets the fronts answer. It has no state of its own.
//!
//! - [`config`]: dockerd's flags and `daemon.json`
//! - [`listen`]: unix and TCP sockets, socket activation, the life of a connection
//! - [`lenient`]: request lines that hyper would refuse and Docker takes
//! - [`docker`]: the Docker Engine API

#![warn(missing_docs)]

pub mod config;
pub mod docker;
mod hello;
mod lenient;
mod listen;

use config::Config;
use naru_engine::Engine;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// One prune of a kind at a time; the kinds are Docker's.
#[derive(Default)]
pub struct Pruning {
    /// Of containers and networks.
    pub others: tokio::sync::Mutex<()>,
    /// Of images.
    pub images: tokio::sync::Mutex<()>,
    /// Of volumes.
    pub volumes: tokio::sync::Mutex<()>,
}

/// What the fronts work with.
pub struct App {
    /// The engine.
    pub engine: Engine,
    /// The configuration.
    pub config: Config,
    /// Prunes that run.
    pub pruning: Pruning,
    /// Read by each request while it is worked on, written by the end of the daemon: it waits for them.
    pub requests: tokio::sync::RwLock<()>,
    /// When the daemon started.
    pub started: jiff::Timestamp,
    /// Of this data root, for `info`.
    pub id: String,
}

/// Runs `naru daemon` with the arguments after the word `daemon`; returns the exit code.
pub fn main(args: Vec<OsString>) -> i32 {
    let config = match config::load(args) {
        Ok(config::Loaded::Run(config)) => *config,
        Ok(config::Loaded::Answer(text)) => {
            config::print(&text);
            return 0;
        }
        Err(error) => {
            config::complain(&error.to_string());
            return 1;
        }
    };
    start_logging(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // Idle threads go away, so that an idle engine weighs next to nothing.
        .thread_keep_alive(Duration::from_secs(2))
        .thread_stack_size(1 << 20)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the async runtime");
            return 1;
        }
    };
    match runtime.block_on(run(config)) {
        Ok(()) => 0,
        Err(error) => {
            config::complain(&naru_engine::chain(&error));
            1
        }
    }
}

fn start_logging(config: &Config) {
    let level = match config.log_level.as_str() {
        _ if config.debug => tracing::Level::DEBUG,
        "debug" | "trace" => tracing::Level::DEBUG,
        "warn" => tracing::Level::WARN,
        "error" | "fatal" | "panic" => tracing::Level::ERROR,
        _ => tracing::Level::INFO,
    };
    let ansi = rustix::termios::isatty(rustix::stdio::stderr()) && std::env::var_os("NO_COLOR").is_none();
    // A second start in one process (tests) keeps the first subscriber.
    tracing_subscriber::fmt().with_max_level(level).with_ansi(ansi).with_writer(std::io::stderr).with_target(false).try_init().ok();
}

/// Why a daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The engine does not open.
    #[error("cannot open the engine")]
    Engine(#[from] naru_engine::EngineError),
    /// A socket cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address as given.
        address: String,
        /// Why not.
        reason: String,
    },
    /// Another daemon has the pid file or the data root.
    #[error("{0}")]
    Taken(String),
    /// A system call failed.
    #[error("{what} {path}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
}

async fn run(mut config: Config) -> Result<(), DaemonError> {
    if config.selinux && !naru_runtime::selinux::enabled() {
        // Docker's way: one configuration for hosts with and without it.
        tracing::warn!("--selinux-enabled: the kernel has no SELinux, or no policy for it; containers get no labels");
        config.selinux = false;
    }
    let _pid_file = listen::PidFile::claim(&config.pid_file)?;
    // Sockets first: clients that come while the engine opens wait in the queue instead of being refused.
    let listeners = listen::bind(&config)?;
    let engine = Engine::open(config.engine()).await?;
    if let Err(error) = hello::ensure(&engine).await {
        // A disk that has not its reserve takes no image. Who is to make room on it needs the engine.
        tracing::warn!(error = naru_engine::chain(&error), "the image that ships inside cannot be loaded");
    }
    let app = Arc::new(App {
        engine,
        id: config::host_id(&config),
        config,
        pruning: Pruning::default(),
        requests: tokio::sync::RwLock::new(()),
        started: jiff::Timestamp::now(),
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), containers = app.engine.containers().len(), "ready");
    listen::announce_ready();
    // What only the start needed is given back; a failure costs some memory and nothing else.
    naru_sys::memory::release_code().ok();
    naru_sys::memory::trim();
    let server = listen::serve(Arc::clone(&app), listeners);
    tokio::select! {
        () = server => {}
        signal = termination() => {
            tracing::info!(signal, "leaving; containers go on");
            finish_requests(&app).await;
            app.engine.leave();
        }
    }
    Ok(())
}

/// Lets requests that are worked on come to their end, for as long as the configuration says.
async fn finish_requests(app: &App) {
    let idle = app.requests.write();
    match app.config.shutdown_timeout {
        None => drop(idle.await),
        Some(patience) => {
            if tokio::time::timeout(patience, idle).await.is_err() {
                tracing::warn!("requests are still running; they are given up");
            }
        }
    }
}

/// Waits for a signal that ends the daemon. SIGHUP is none.
async fn termination() -> &'static str {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => return "SIGTERM",
            _ = interrupt.recv() => return "SIGINT",
            _ = hangup.recv() => tracing::info!("configuration is read at start only; SIGHUP changes nothing"),
        }
    }
}
