//! Pulls or pushes one image with nothing else around it, and tells how long it took:
//! `transfer pull|push STORE REFERENCE [INSECURE-REGISTRY]`. Needs root, as the store does.

use naru_registry::{Client, PullOptions, PushOptions, RegistryConfig};
use naru_store::{Store, StoreConfig};
use naru_types::ImageRef;
use std::error::Error;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Instant;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [action, root, reference, insecure @ ..] = arguments.as_slice() else {
        return Err("usage: transfer pull|push STORE REFERENCE [INSECURE-REGISTRY]".into());
    };
    let store = Arc::new(Store::open(&StoreConfig { root: root.into(), ..StoreConfig::default() })?);
    let client = Client::new(RegistryConfig { insecure: insecure.to_vec(), ..RegistryConfig::default() })?;
    let reference: ImageRef = reference.parse()?;
    let start = Instant::now();
    let stdout = Mutex::new(std::io::stdout());
    let tell = |line: naru_registry::Line| {
        // Progress is not shown: only where each layer is.
        if line.progress.is_none() {
            let id = line.id.map(|id| format!("{id}: ")).unwrap_or_default();
            let mut stdout = stdout.lock().expect("writing does not panic");
            writeln!(stdout, "{:8.3} {id}{}", start.elapsed().as_secs_f64(), line.status).ok();
        }
    };
    match action.as_str() {
        "pull" => client.pull(&store, &reference, PullOptions::default(), |event| tell(event.line())).await.map(|_| ())?,
        "push" => client.push(&store, &reference, PushOptions::default(), |event| tell(event.line())).await.map(|_| ())?,
        other => return Err(format!("unknown action {other}").into()),
    }
    writeln!(std::io::stdout(), "{:8.3} done", start.elapsed().as_secs_f64())?;
    Ok(())
}
