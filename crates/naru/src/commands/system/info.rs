//! `info`

use naru_api::models::SystemInfo;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::output::format::render_object;
use crate::output::units::bytes_size;
use crate::template::Value;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// 'json', or a Go template
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["system info", "info"],
    "[OPTIONS]",
    "Display system-wide information",
    Arguments::None,
    "{} info --format '{{.ServerVersion}}'"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let raw = match cx.client() {
        Ok(client) => client.info_raw().await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    let text = match options.format.as_deref().filter(|format| !format.is_empty()) {
        Some(format) => {
            let mut fields = match &raw {
                Ok(bytes) => match serde_json::from_slice(bytes).map_err(|error| Failure::message(error.to_string()))? {
                    Value::Map(fields) => fields,
                    _ => Vec::new(),
                },
                Err(failure) => vec![("ServerErrors".to_owned(), Value::List(vec![failure.text().into()]))],
            };
            fields.push(("ClientInfo".to_owned(), client_value(cx)));
            let text = render_object(format, &Value::Map(fields))? + "\n";
            crate::output::write(text.as_bytes())?;
            return raw.map(|_| 0);
        }
        None => client_text(cx),
    };
    crate::output::write(text.as_bytes())?;
    match raw {
        Ok(bytes) => {
            let info: SystemInfo = naru_api::json::from_slice(&bytes).map_err(|error| Failure::message(error.to_string()))?;
            crate::output::write(server_text(&info).as_bytes())?;
            for warning in info.warnings.iter().flatten() {
                crate::output::error_line(warning);
            }
            Ok(0)
        }
        Err(failure) => {
            crate::output::line("\nServer:")?;
            crate::output::error_line(failure.text());
            Err(Failure::message("errors pretty printing info"))
        }
    }
}

fn client_value(cx: Cx) -> Value {
    let map = |entries: Vec<(&str, Value)>| Value::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
    let plugins = crate::plugin::list(cx)
        .into_iter()
        .map(|plugin| {
            map(vec![
                ("Name", plugin.name.into()),
                ("Path", plugin.path.display().to_string().into()),
                ("ShortDescription", plugin.about.into()),
                ("Vendor", plugin.vendor.into()),
                ("Version", plugin.version.into()),
            ])
        })
        .collect();
    map(vec![
        ("Debug", Value::Bool(cx.globals.debug)),
        ("Version", env!("CARGO_PKG_VERSION").into()),
        ("Context", cx.context_name().into()),
        ("Plugins", Value::List(plugins)),
        ("Warnings", Value::Null),
    ])
}

fn client_text(cx: Cx) -> String {
    let mut out = format!(
        "Client:\n Version:    {}\n Context:    {}\n Debug Mode: {}\n",
        env!("CARGO_PKG_VERSION"),
        cx.context_name(),
        cx.globals.debug
    );
    let plugins = crate::plugin::list(cx);
    if !plugins.is_empty() {
        out.push_str(" Plugins:\n");
    }
    for plugin in plugins {
        out.push_str(&format!("  {}: {} ({})\n", plugin.name, plugin.about, plugin.vendor));
        if !plugin.version.is_empty() {
            out.push_str(&format!("    Version:  {}\n", plugin.version));
        }
        out.push_str(&format!("    Path:     {}\n", plugin.path.display()));
    }
    out
}

/// Writes `name: value` lines, leaving out empty values where Docker does.
struct Lines(String);

impl Lines {
    fn put(&mut self, name: &str, value: impl std::fmt::Display) {
        self.0.push_str(&format!(" {name}: {value}\n"));
    }

    fn some(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.put(name, value);
        }
    }

    fn list(&mut self, title: &str, items: &[String]) {
        if !items.is_empty() {
            self.0.push_str(&format!(" {title}:\n"));
            for item in items {
                self.0.push_str(&format!("  {item}\n"));
            }
        }
    }
}

fn server_text(info: &SystemInfo) -> String {
    let mut out = Lines("\nServer:\n".to_owned());
    out.put("Containers", info.containers);
    for (name, count) in [("Running", info.containers_running), ("Paused", info.containers_paused), ("Stopped", info.containers_stopped)] {
        out.0.push_str(&format!("  {name}: {count}\n"));
    }
    out.put("Images", info.images);
    out.some("Server Version", &info.server_version);
    out.some("Storage Driver", &info.driver);
    for [name, value] in &info.driver_status {
        out.0.push_str(&format!("  {name}: {value}\n"));
    }
    out.some("Logging Driver", &info.logging_driver);
    out.some("Cgroup Driver", &info.cgroup_driver);
    out.some("Cgroup Version", &info.cgroup_version);
    out.0.push_str(" Plugins:\n");
    let plugins = [
        ("Volume", &info.plugins.volume),
        ("Network", &info.plugins.network),
        ("Authorization", &info.plugins.authorization),
        ("Log", &info.plugins.log),
    ];
    for (kind, names) in plugins {
        let names = names.as_deref().unwrap_or_default();
        if !names.is_empty() || matches!(kind, "Volume" | "Network" | "Log") {
            out.0.push_str(&format!("  {kind}: {}\n", names.join(" ")));
        }
    }
    out.list("CDI spec directories", &info.cdi_spec_dirs);
    out.put("Swarm", &info.swarm.local_node_state);
    let runtimes: Vec<&str> = info.runtimes.keys().map(String::as_str).collect();
    if !runtimes.is_empty() {
        out.put("Runtimes", runtimes.join(" "));
        out.put("Default Runtime", &info.default_runtime);
    }
    out.put("Init Binary", &info.init_binary);
    out.put("containerd version", &info.containerd_commit.id);
    out.put("runc version", &info.runc_commit.id);
    out.put("init version", &info.init_commit.id);
    if !info.security_options.is_empty() {
        out.0.push_str(" Security Options:\n");
        for option in &info.security_options {
            let mut fields = option.split(',').filter_map(|field| field.split_once('='));
            let name = fields.clone().find(|(key, _)| *key == "name").map_or(option.as_str(), |(_, value)| value);
            out.0.push_str(&format!("  {name}\n"));
            for (key, value) in fields.by_ref().filter(|(key, _)| *key != "name") {
                let key = if key == "profile" { "Profile" } else { key };
                out.0.push_str(&format!("   {key}: {value}\n"));
            }
        }
    }
    out.put("Kernel Version", &info.kernel_version);
    out.put("Operating System", &info.operating_system);
    out.put("OSType", &info.os_type);
    out.put("Architecture", &info.architecture);
    out.put("CPUs", info.n_cpu);
    #[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
    out.put("Total Memory", bytes_size(info.mem_total as f64));
    out.put("Name", &info.name);
    out.put("ID", &info.id);
    out.put("Docker Root Dir", &info.docker_root_dir);
    out.put("Debug Mode", info.debug);
    if info.debug {
        out.0.push_str(&format!("  File Descriptors: {}\n  Goroutines: {}\n", info.n_fd, info.n_goroutines));
        out.0.push_str(&format!("  System Time: {}\n  EventsListeners: {}\n", info.system_time, info.n_events_listener));
    }
    out.some("HTTP Proxy", &info.http_proxy);
    out.some("HTTPS Proxy", &info.https_proxy);
    out.some("No Proxy", &info.no_proxy);
    out.list("Labels", &info.labels);
    out.put("Experimental", info.experimental_build);
    if let Some(registries) = &info.registry_config {
        let mut insecure: Vec<String> =
            registries.index_configs.values().filter(|index| !index.secure).map(|index| index.name.clone()).collect();
        insecure.extend(registries.insecure_registry_cidrs.iter().flatten().cloned());
        out.list("Insecure Registries", &insecure);
        out.list("Registry Mirrors", registries.mirrors.as_deref().unwrap_or_default());
    }
    out.put("Live Restore Enabled", info.live_restore_enabled);
    if let Some(pools) = info.default_address_pools.as_ref().filter(|pools| !pools.is_empty()) {
        out.0.push_str(" Default Address Pools:\n");
        for pool in pools {
            out.0.push_str(&format!("   Base: {}, Size: {}\n", pool.base, pool.size));
        }
    }
    if let Some(firewall) = info.firewall_backend.as_ref().filter(|firewall| firewall.driver != "iptables") {
        out.put("Firewall Backend", &firewall.driver);
        for [name, value] in firewall.info.iter().flatten() {
            out.0.push_str(&format!("  {name}: {value}\n"));
        }
    }
    out.0.push('\n');
    out.0
}
