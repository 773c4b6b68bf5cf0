//! `port`

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Names, Verb, verb};

pub const VERB: Verb = verb!(
    Names,
    run,
    ["container port", "port"],
    "CONTAINER [PRIVATE_PORT[/PROTO]]",
    "List port mappings or a specific mapping for the container",
    Arguments::Between(1, 2),
    "{} port web\n{} port web 80/tcp"
);

async fn run(cx: Cx, options: Names) -> Result<i32> {
    let name = &options.args[0];
    let container = cx.client()?.container_inspect(name).await?;
    let ports = &container.network_settings.ports;
    let address = |ip: &str, port: &str| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
    let mut lines = Vec::new();
    if let Some(wanted) = options.args.get(1) {
        let (port, protocol) =
            wanted.split_once('/').filter(|(_, protocol)| !protocol.is_empty()).unwrap_or((wanted.trim_end_matches('/'), "tcp"));
        if port.parse::<u16>().is_err() {
            return Err(Failure::message(format!("Error: invalid port ({port}): strconv.ParseUint: parsing {port:?}: invalid syntax")));
        }
        let bindings = ports.get(&format!("{port}/{protocol}")).and_then(Option::as_deref).unwrap_or_default();
        if bindings.is_empty() {
            return Err(Failure::message(format!("Error: No public port '{wanted}' published for {name}")));
        }
        lines.extend(bindings.iter().map(|binding| address(&binding.host_ip, &binding.host_port)));
    } else {
        for (port, bindings) in ports {
            for binding in bindings.as_deref().unwrap_or_default() {
                lines.push(format!("{port} -> {}", address(&binding.host_ip, &binding.host_port)));
            }
        }
    }
    lines.sort_by(|a, b| crate::commands::natural(a, b));
    crate::output::write(lines.iter().map(|line| format!("{line}\n")).collect::<String>().as_bytes())?;
    Ok(0)
}
