//! Keeps a container's terminal as large as ours.

use crate::cli::context::Cx;
use crate::stream::{signals, terminal};

/// Whose terminal it is.
#[derive(Debug, Clone)]
pub enum Target {
    Container(String),
    Exec(String),
}

/// Tells the size now and at every change, until the program ends. A container that is still starting refuses the first
/// one; it is told again a little later.
pub fn follow(cx: Cx, target: Target) {
    tokio::task::spawn_local(async move {
        let mut changes = signals::window_changes();
        for attempt in 0..10u64 {
            if tell(cx, &target).await {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10 * (attempt + 1))).await;
        }
        while let Some(stream) = &mut changes {
            if stream.recv().await.is_none() {
                return;
            }
            tell(cx, &target).await;
        }
    });
}

async fn tell(cx: Cx, target: &Target) -> bool {
    let (rows, columns) = terminal::size();
    if rows == 0 && columns == 0 {
        return true;
    }
    let Ok(client) = cx.client() else { return true };
    match target {
        Target::Container(id) => client.container_resize(id, rows, columns).await.is_ok(),
        Target::Exec(id) => client.exec_resize(id, rows, columns).await.is_ok(),
    }
}
