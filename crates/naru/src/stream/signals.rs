//! Signals: forwarded to a container, or the end of the program with the terminal restored.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::context::Cx;

const SIGKILL: i32 = 9;
const SIGPIPE: i32 = 13;
const SIGCHLD: i32 = 17;
const SIGSTOP: i32 = 19;
const SIGURG: i32 = 23;
const SIGWINCH: i32 = 28;
/// Those that the kernel sends for faults of our own.
const FAULTS: [i32; 4] = [4, 7, 8, 11];

/// Sends every signal that can be caught to the container, from now until the program ends.
pub fn forward(cx: Cx, id: String) {
    for number in (1..32).chain(34..65) {
        if [SIGKILL, SIGPIPE, SIGCHLD, SIGSTOP, SIGURG, SIGWINCH].contains(&number) || FAULTS.contains(&number) {
            continue;
        }
        let Ok(mut stream) = signal(SignalKind::from_raw(number)) else { continue };
        let id = id.clone();
        tokio::task::spawn_local(async move {
            while stream.recv().await.is_some() {
                let name = naru_types::Signal::try_from(number).map_or_else(|_| number.to_string(), naru_types::Signal::name);
                let name = name.strip_prefix("SIG").unwrap_or(&name).to_owned();
                if let Ok(client) = cx.client()
                    && let Err(error) = client.container_kill(&id, &name).await
                    && cx.globals.debug
                {
                    crate::output::error_line(&format!("Error sending signal: {error}"));
                }
            }
        });
    }
}

/// Ends the program as a signal would have, after the terminal is restored. For streams in raw mode without proxy.
pub fn end_on_signal() {
    for number in [1, 2, 3, 15] {
        let Ok(mut stream) = signal(SignalKind::from_raw(number)) else { continue };
        tokio::task::spawn_local(async move {
            if stream.recv().await.is_some() {
                super::terminal::restore();
                std::process::exit(128 + number);
            }
        });
    }
}

/// Changes of the window's size.
pub fn window_changes() -> Option<Signal> {
    signal(SignalKind::window_change()).ok()
}
