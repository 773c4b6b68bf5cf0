//! Every command and group.

use super::verb::Verb;
use crate::commands::{container, context, image, inspect, manifest, network, registry_auth, store, system, volume};

/// A word that only groups commands.
pub struct Group {
    pub name: &'static str,
    pub about: &'static str,
}

/// The groups.
pub const GROUPS: &[Group] = &[
    Group { name: "container", about: "Manage containers" },
    Group { name: "context", about: "Manage contexts" },
    Group { name: "image", about: "Manage images" },
    Group { name: "manifest", about: "Manage manifests and lists of them in registries" },
    Group { name: "network", about: "Manage networks" },
    Group { name: "store", about: "Look after the image store" },
    Group { name: "system", about: "Manage the engine" },
    Group { name: "volume", about: "Manage volumes" },
];

/// Commands that the help shows first.
pub const COMMON: &[&str] = &["run", "exec", "ps", "pull", "push", "images", "login", "logout", "search", "version", "info"];

static VERBS: &[Verb] = &[
    container::attach::VERB,
    container::commit::VERB,
    container::cp::VERB,
    container::create::VERB,
    container::diff::VERB,
    container::exec::VERB,
    container::export::VERB,
    container::inspect::VERB,
    container::kill::VERB,
    container::list::VERB,
    container::logs::VERB,
    container::pause::VERB,
    container::port::VERB,
    container::prune::VERB,
    container::remove::VERB,
    container::rename::VERB,
    container::restart::VERB,
    container::run::VERB,
    container::start::VERB,
    container::stats::VERB,
    container::stop::VERB,
    container::top::VERB,
    container::unpause::VERB,
    container::update::VERB,
    container::wait::VERB,
    image::history::VERB,
    image::import::VERB,
    image::inspect::VERB,
    image::list::VERB,
    image::load::VERB,
    image::prune::VERB,
    image::pull::VERB,
    image::push::VERB,
    image::remove::VERB,
    image::save::VERB,
    image::search::VERB,
    image::tag::VERB,
    manifest::annotate::VERB,
    manifest::create::VERB,
    manifest::inspect::VERB,
    manifest::push::VERB,
    manifest::remove::VERB,
    network::connect::VERB,
    network::create::VERB,
    network::disconnect::VERB,
    network::inspect::VERB,
    network::list::VERB,
    network::prune::VERB,
    network::remove::VERB,
    store::check::VERB,
    volume::create::VERB,
    volume::inspect::VERB,
    volume::list::VERB,
    volume::prune::VERB,
    volume::remove::VERB,
    context::CREATE,
    context::EXPORT,
    context::IMPORT,
    context::INSPECT,
    context::LIST,
    context::REMOVE,
    context::SHOW,
    context::UPDATE,
    context::USE,
    system::df::VERB,
    system::dial::VERB,
    system::events::VERB,
    system::info::VERB,
    system::prune::VERB,
    system::version::VERB,
    inspect::VERB,
    registry_auth::LOGIN,
    registry_auth::LOGOUT,
];

/// All commands.
pub fn verbs() -> impl Iterator<Item = &'static Verb> {
    VERBS.iter()
}
