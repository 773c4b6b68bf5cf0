//! The engine about itself: ping, version, info, disk use.

use super::body::{self, Response};
use super::error::Result;
use super::{Call, convert, list, volumes};
use crate::App;
use http::{HeaderValue, StatusCode, header};
use naru_api::models;
use naru_api::version::ApiVersion;
use naru_engine::phase::Phase;
use naru_net::ipam::SubnetPools;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `GET` and `HEAD /_ping`.
pub fn ping(_call: &Call, head: bool) -> Response {
    let mut response = body::text(StatusCode::OK, if head { "" } else { "OK" });
    let headers = response.headers_mut();
    if head {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    headers.insert("Builder-Version", HeaderValue::from_static("1"));
    headers.insert("Swarm", HeaderValue::from_static("inactive"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Go's name of this machine's architecture.
fn architecture() -> String {
    naru_types::Platform::host().architecture
}

/// `GET /version`.
pub fn version(_call: &Call) -> Response {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let details = BTreeMap::from([
        ("ApiVersion".to_owned(), ApiVersion::MAX.to_string()),
        ("MinAPIVersion".to_owned(), ApiVersion::FLOOR.to_string()),
        ("Arch".to_owned(), architecture()),
        ("Os".to_owned(), "linux".to_owned()),
        ("KernelVersion".to_owned(), kernel()),
        ("Experimental".to_owned(), "false".to_owned()),
        ("GitCommit".to_owned(), String::new()),
        ("GoVersion".to_owned(), String::new()),
        ("BuildTime".to_owned(), String::new()),
    ]);
    body::ok(&models::SystemVersion {
        platform: models::VersionPlatform { name: "Naru Engine".into() },
        components: vec![models::VersionComponent { name: "Engine".into(), version: version.clone(), details: Some(details) }],
        version,
        api_version: ApiVersion::MAX.to_string(),
        min_api_version: ApiVersion::FLOOR.to_string(),
        os: "linux".into(),
        arch: architecture(),
        kernel_version: kernel(),
        ..models::SystemVersion::default()
    })
}

/// What the data root lies on, by the names that Docker has for them.
fn backing_filesystem(path: &std::path::Path) -> String {
    let magic = rustix::fs::statfs(path).map_or(0, |stat| u64::try_from(stat.f_type).unwrap_or(0));
    let name = match magic {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0x0102_1994 => "tmpfs",
        0xf2f5_2010 => "f2fs",
        0x794c_7630 => "overlayfs",
        _ => "<unknown>",
    };
    name.to_owned()
}

/// `PRETTY_NAME` of os-release(5).
fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// `GET /info`.
pub async fn info(call: &Call) -> Result<Response> {
    let app = &call.app;
    let views = app.engine.containers();
    let count =
        |holds: &dyn Fn(&Phase) -> bool| i64::try_from(views.iter().filter(|view| holds(&view.state.phase)).count()).unwrap_or(i64::MAX);
    let images = app.engine.images();
    let config = app.engine.config();
    let v2 = naru_runtime::cgroup::layout().is_ok_and(|layout| layout == naru_runtime::cgroup::Layout::V2);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<i64>().ok()).unwrap_or(0);
    let mut runtimes: BTreeMap<String, models::RuntimeInfo> = config
        .runtimes
        .iter()
        .map(|(name, runtime)| {
            let info = models::RuntimeInfo {
                path: runtime.program.to_string_lossy().into_owned(),
                runtime_args: Some(runtime.args.clone()).filter(|args| !args.is_empty()),
                ..models::RuntimeInfo::default()
            };
            (name.clone(), info)
        })
        .collect();
    runtimes.insert("naru".into(), models::RuntimeInfo { path: "naru oci".into(), ..models::RuntimeInfo::default() });
    let names = |list: &[&str]| Some(list.iter().map(|name| (*name).to_owned()).collect());
    let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1");
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let engine = app.engine.clone();
    // A firewall of the host may be asked for it.
    let warnings = tokio::task::spawn_blocking(move || warnings(&engine)).await.unwrap_or_default();
    Ok(body::ok(&models::SystemInfo {
        id: app.id.clone(),
        containers: i64::try_from(views.len()).unwrap_or(i64::MAX),
        containers_running: count(&|phase| matches!(phase, Phase::Running { paused: false, .. })),
        containers_paused: count(&|phase| matches!(phase, Phase::Running { paused: true, .. })),
        containers_stopped: count(&|phase| !matches!(phase, Phase::Running { .. })),
        images: i64::try_from(images.len()).unwrap_or(i64::MAX),
        driver: app.engine.store().driver().name().into(),
        driver_status: vec![["Backing Filesystem".into(), backing_filesystem(&config.data_root)]],
        plugins: models::PluginsInfo {
            volume: names(&["local"]),
            network: names(&["bridge", "host", "ipvlan", "macvlan", "null"]),
            log: names(&["json-file", "none"]),
            ..models::PluginsInfo::default()
        },
        memory_limit: true,
        swap_limit: true,
        cpu_cfs_period: true,
        cpu_cfs_quota: true,
        cpu_shares: true,
        cpu_set: true,
        pids_limit: true,
        oom_kill_disable: !v2,
        ipv4_forwarding: forwarding,
        debug: app.config.debug,
        n_fd: i64::try_from(descriptors).unwrap_or(0),
        system_time: convert::time::rfc3339(jiff::Timestamp::now()),
        logging_driver: app.config.log.r#type.clone(),
        cgroup_driver: "cgroupfs".into(),
        cgroup_version: if v2 { "2".into() } else { "1".into() },
        n_events_listener: i64::try_from(app.engine.events().listeners()).unwrap_or(i64::MAX),
        kernel_version: kernel(),
        operating_system: operating_system(),
        os_type: "linux".into(),
        architecture: std::env::consts::ARCH.into(),
        index_server_address: "https://index.docker.io/v1/".into(),
        registry_config: Some(registry_config(app)),
        http_proxy: shown_proxy(app.config.registry.proxies.http.as_deref()),
        https_proxy: shown_proxy(app.config.registry.proxies.https.as_deref()),
        no_proxy: app.config.registry.proxies.none.clone(),
        n_cpu: std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(i64::MAX)),
        mem_total: kib * 1024,
        docker_root_dir: config.data_root.to_string_lossy().into_owned(),
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        server_version: env!("CARGO_PKG_VERSION").into(),
        runtimes,
        default_runtime: app.config.default_runtime.clone(),
        swarm: models::SwarmInfo { local_node_state: "inactive".into(), ..models::SwarmInfo::default() },
        // Containers never depend on the daemon's life.
        live_restore_enabled: true,
        init_binary: "naru".into(),
        security_options: security_options(app),
        default_address_pools: Some(address_pools(&app.engine.networks().config().pools)).filter(|list| !list.is_empty()),
        firewall_backend: (call.version >= ApiVersion::new(1, 49)).then(|| firewall(app)),
        warnings: Some(warnings).filter(|list| !list.is_empty()),
        ..models::SystemInfo::default()
    }))
}

/// The pools that the configuration names.
fn address_pools(pools: &SubnetPools) -> Vec<models::AddressPool> {
    let of = |(base, size): (naru_net::IpNet, u8)| models::AddressPool { base: base.to_string(), size: size.into() };
    if *pools == SubnetPools::default() { vec![] } else { pools.iter().map(of).collect() }
}

/// Whom the rules are told; words as dockerd's.
fn firewall(app: &App) -> models::FirewallInfo {
    let driver = if app.engine.networks().firewalld_decides() { "nftables+firewalld" } else { "nftables" };
    models::FirewallInfo { driver: driver.to_owned(), info: None }
}

/// What confines containers.
fn security_options(app: &App) -> Vec<String> {
    let apparmor = naru_runtime::apparmor::enabled().then(|| "name=apparmor".to_owned());
    let selinux = app.config.selinux.then(|| "name=selinux".to_owned());
    apparmor.into_iter().chain(["name=seccomp,profile=builtin".to_owned()]).chain(selinux).collect()
}

/// What the host does to containers that its operator should know.
fn warnings(engine: &naru_engine::Engine) -> Vec<String> {
    let obstacle = |chain: &String| {
        let mark = naru_engine::PACKET_MARK;
        let remedy = match chain.as_str() {
            naru_engine::FIREWALLD_CHAIN => "unless their bridges are in firewalld's zone trusted".to_owned(),
            _ => format!("unless it accepts the mark {mark:#x}/{mark:#x}"),
        };
        format!(
            "WARNING: {chain} of the host's firewall drops forwarded packets: containers may not reach the outside or each other, {remedy}"
        )
    };
    engine.networks().open_passages().iter().map(obstacle).collect()
}

/// A proxy without its password.
fn shown_proxy(proxy: Option<&str>) -> String {
    let proxy = proxy.unwrap_or_default();
    match (proxy.split_once("://"), proxy.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        (None, Some((_, host))) => format!("xxxxx:xxxxx@{host}"),
        _ => proxy.to_owned(),
    }
}

fn registry_config(app: &App) -> models::RegistryConfig {
    let config = &app.config.registry;
    let (blocks, names): (Vec<&String>, Vec<&String>) = config.insecure.iter().partition(|rule| rule.contains('/'));
    let index = |name: &str, secure: bool, mirrors: &[String]| models::IndexInfo {
        name: name.to_owned(),
        mirrors: mirrors.to_vec(),
        secure,
        official: name == "docker.io",
    };
    let hub = config.mirrors.get("docker.io").cloned().unwrap_or_default();
    let mut indexes = BTreeMap::from([("docker.io".to_owned(), index("docker.io", true, &hub))]);
    indexes.extend(names.into_iter().map(|name| (name.clone(), index(name, false, &[]))));
    models::RegistryConfig {
        insecure_registry_cidrs: Some(
            ["::1/128", "127.0.0.0/8"].into_iter().map(str::to_owned).chain(blocks.into_iter().cloned()).collect(),
        ),
        index_configs: indexes,
        mirrors: Some(hub).filter(|list| !list.is_empty()),
    }
}

/// `GET /system/df`.
pub async fn disk_usage(call: &Call) -> Result<Response> {
    let types: Vec<&str> = call.query.all("type").collect();
    if let Some(unknown) = types.iter().find(|kind| !matches!(**kind, "container" | "image" | "volume" | "build-cache")) {
        return Err(super::error::ApiError::invalid(format!("unknown object type: {unknown}")));
    }
    let wants = |kind: &str| types.is_empty() || types.contains(&kind);
    let app = &call.app;
    let mut usage = models::DiskUsage::default();
    if wants("image") {
        let total = app.engine.with_store(|store| store.disk_usage()).await?;
        // What images take on the disk, as `du` counts it, with what has arrived in part. Clients have no row for the records of
        // store and engine: they are here, so that all rows are the data root.
        let images = total.on_disk.total() - total.on_disk.containers + app.engine.own_disk_usage();
        usage.layers_size = i64::try_from(images).unwrap_or(i64::MAX);
        let mut rows = Vec::new();
        for image in app.engine.images() {
            let users = i64::try_from(app.engine.image_users(&image.id).len()).unwrap_or(i64::MAX);
            let mut row = convert::image::summary(&image, users);
            row.shared_size = i64::try_from(app.engine.store().shared_size(&image.id)).unwrap_or(i64::MAX);
            rows.push(row);
        }
        usage.images = Some(rows);
    }
    if wants("container") {
        let mut rows = Vec::new();
        let linked = app.engine.linked_names();
        for view in app.engine.containers() {
            let mut row = list::summary(app, &view, &linked);
            let id = view.id.clone();
            // A container that goes away meanwhile has no size.
            if let (Ok(sizes), Ok(on_disk)) =
                (app.engine.with_store(move |store| store.sizes(&id)).await, app.engine.container_disk_usage(&view.id).await)
            {
                row.size_rw = i64::try_from(on_disk).unwrap_or(i64::MAX);
                row.size_root_fs = i64::try_from(sizes.root_fs).unwrap_or(i64::MAX);
            }
            rows.push(row);
        }
        usage.containers = Some(rows);
    }
    if wants("volume") {
        let owner: Arc<App> = Arc::clone(app);
        usage.volumes = tokio::task::spawn_blocking(move || volumes::usage(&owner)).await.ok();
    }
    usage.build_cache = Some(vec![]).filter(|_| wants("build-cache"));
    Ok(body::ok(&usage))
}
