//! The files that tell a container about names: hostname, hosts, resolv.conf.

use super::Networks;
use super::endpoint::Place;
use super::names::HOST_NAMES;
use crate::Inner;
use crate::container::View;
use crate::error::{EngineError, Result};
use crate::launch::write_file;
use crate::spec::{ContainerSpec, NetworkMode};
use naru_net::hosts::{self, HostEntry};
use naru_net::resolv;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

impl Networks {
    /// Writes the files; returns them with their places. What tells of a place that is not known yet is empty until
    /// [`Networks::write_names`].
    pub(crate) fn write_files(
        &self,
        engine: &Inner,
        view: &View,
        directory: &Path,
        hostname: &str,
        place: Option<&Place>,
    ) -> Result<Vec<(PathBuf, &'static str)>> {
        let places = |directory: &Path| {
            vec![
                (directory.join("resolv.conf"), "/etc/resolv.conf"),
                (directory.join("hostname"), "/etc/hostname"),
                (directory.join("hosts"), "/etc/hosts"),
            ]
        };
        if let NetworkMode::Container(reference) = &view.spec.network.mode {
            // Who shares a network shares its names.
            return Ok(places(&engine.run_directory(&engine.find(reference)?.id)));
        }
        write_file(&directory.join("hostname"), &format!("{hostname}\n"))?;
        match place {
            Some(place) => self.write_names(engine, view, directory, hostname, place)?,
            None => ["resolv.conf", "hosts"].iter().try_for_each(|name| write_file(&directory.join(name), ""))?,
        }
        Ok(places(directory))
    }

    /// Writes hosts and resolv.conf, also when a running container's networks have changed.
    pub(crate) fn write_names(&self, engine: &Inner, view: &View, directory: &Path, hostname: &str, place: &Place) -> Result<()> {
        write_file(&directory.join("resolv.conf"), &self.resolv_conf(&view.spec, place))?;
        write_file(&directory.join("hosts"), &self.hosts(engine, view, hostname, place)?)
    }

    fn resolv_conf(&self, spec: &ContainerSpec, place: &Place) -> String {
        let network = &spec.network;
        let or = |own: &[String], default: &[String]| if own.is_empty() { default.to_vec() } else { own.to_vec() };
        let dns = if network.dns.is_empty() { self.config.dns.clone() } else { network.dns.clone() };
        let (search, options) = (or(&network.dns_search, &self.config.dns_search), or(&network.dns_options, &self.config.dns_options));
        if place.resolver.is_some() {
            return resolv::render_for_resolver(&resolv::host_text_as_it_is(), &dns, &search, &options).text;
        }
        if network.mode == NetworkMode::Host && dns.is_empty() && search.is_empty() && options.is_empty() {
            return resolv::host_text_as_it_is();
        }
        resolv::render(&resolv::host_text(), &dns, &search, &options)
    }

    fn hosts(&self, engine: &Inner, view: &View, hostname: &str, place: &Place) -> Result<String> {
        let spec = &view.spec;
        let mut extra = self.extra_hosts(spec)?;
        if spec.network.mode == NetworkMode::Host {
            let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            for entry in &extra {
                text.push_str(&format!("{}\t{}\n", entry.address, entry.names.join(" ")));
            }
            return Ok(text);
        }
        extra.extend(linked(engine, spec).filter_map(Result::ok).map(|link| link.host_entry()));
        // On the default bridge no resolver of ours knows the host.
        let named = |name: &str| extra.iter().any(|entry| entry.names.iter().any(|known| known == name));
        let host_names: Vec<String> = HOST_NAMES.iter().filter(|name| !named(name)).map(|name| (*name).to_owned()).collect();
        if place.resolver.is_none() && place.endpoints.iter().any(|endpoint| endpoint.leads_out) {
            extra.extend(self.config.host_addresses().into_iter().map(|address| HostEntry { address, names: host_names.clone() }));
        }
        let full = if spec.domainname.is_empty() { hostname.to_owned() } else { format!("{hostname}.{}", spec.domainname) };
        let short = full.split_once('.').map(|(short, _)| short.to_owned());
        let names: Vec<String> = std::iter::once(full).chain(short).collect();
        let addresses = place.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let own: Vec<HostEntry> = addresses.map(|address| HostEntry { address: address.address, names: names.clone() }).collect();
        Ok(hosts::render(&extra, &own))
    }

    fn extra_hosts(&self, spec: &ContainerSpec) -> Result<Vec<HostEntry>> {
        let gateways = self.config.host_addresses();
        let mut entries = Vec::new();
        for line in &spec.network.extra_hosts {
            let bad = || EngineError::invalid(format!("bad format for add-host: {line:?}"));
            let (name, address) = line.split_once(':').ok_or_else(bad)?;
            let names = vec![name.to_owned()];
            match address.trim_matches(['[', ']']) {
                "host-gateway" if gateways.is_empty() => {
                    return Err(EngineError::invalid(
                        "unable to derive the IP value for host-gateway: the daemon has no bridge; start it with --host-gateway-ip",
                    ));
                }
                "host-gateway" => entries.extend(gateways.iter().map(|address| HostEntry { address: *address, names: names.clone() })),
                text => entries.push(HostEntry { address: text.parse::<IpAddr>().map_err(|_| bad())?, names }),
            }
        }
        Ok(entries)
    }
}

/// Another container of the default bridge, known by another name (`--link`).
pub(crate) struct Linked {
    alias: String,
    hostname: String,
    name: String,
    owner: String,
    address: IpAddr,
    exposed: Vec<(u16, &'static str)>,
    env: Vec<String>,
}

impl Linked {
    fn host_entry(&self) -> HostEntry {
        let mut names = vec![self.alias.clone()];
        for name in [&self.hostname, &self.name] {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        HostEntry { address: self.address, names }
    }

    /// The variables that Docker's links have always set.
    pub(crate) fn environment(&self) -> Vec<String> {
        let key = self.alias.to_ascii_uppercase().replace('-', "_");
        let mut list = vec![format!("{key}_NAME=/{}/{}", self.owner, self.alias)];
        for (at, (port, protocol)) in self.exposed.iter().enumerate() {
            let (address, upper) = (self.address, protocol.to_ascii_uppercase());
            let url = format!("{protocol}://{address}:{port}");
            if at == 0 {
                list.push(format!("{key}_PORT={url}"));
            }
            list.push(format!("{key}_PORT_{port}_{upper}={url}"));
            list.push(format!("{key}_PORT_{port}_{upper}_ADDR={address}"));
            list.push(format!("{key}_PORT_{port}_{upper}_PORT={port}"));
            list.push(format!("{key}_PORT_{port}_{upper}_PROTO={protocol}"));
        }
        list.extend(self.env.iter().filter(|entry| !entry.starts_with("PATH=")).map(|entry| format!("{key}_ENV_{entry}")));
        list
    }
}

/// The containers that a container is linked to on the default bridge; each must run to be of use.
pub(crate) fn linked<'a>(engine: &'a Inner, spec: &'a ContainerSpec) -> impl Iterator<Item = Result<Linked>> + 'a {
    let owner = spec.name.as_ref().map(|name| name.as_str()).unwrap_or_default();
    spec.network.links.iter().map(move |link| {
        let (reference, alias) = crate::split_link(link);
        let gone = |_| EngineError::conflict(format!("Cannot link to a container that is gone: {reference} AS /{owner}/{alias}"));
        let other = engine.find(reference).map_err(gone)?.view();
        let place = other.run.as_ref().map(|run| &run.place);
        let endpoint = place.and_then(|place| place.endpoints.iter().find(|endpoint| endpoint.network == super::predefined_id("bridge")));
        let Some(address) = endpoint.and_then(|endpoint| endpoint.address(true)) else {
            return Err(EngineError::conflict(format!("Cannot link to a non running container: /{} AS /{owner}/{alias}", other.name)));
        };
        Ok(Linked {
            alias: alias.to_owned(),
            hostname: crate::launch::hostname(engine, &other),
            name: other.name.clone(),
            owner: owner.to_owned(),
            address: address.address,
            exposed: other.spec.network.exposed.iter().map(|(port, protocol)| (*port, protocol.as_str())).collect(),
            env: other.spec.process.env.clone(),
        })
    })
}
