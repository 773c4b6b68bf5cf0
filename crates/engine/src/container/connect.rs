//! A container is connected to networks and taken off them, running or not.

use super::Actor;
use crate::error::{EngineError, Result};
use crate::events::ObjectKind;
use crate::launch;
use crate::network::{self, Driver, Entry, Place};
use crate::spec::{Attachment, ContainerSpec, MountSource, NetworkMode, NetworkSpec};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Actor {
    pub(super) async fn connect(&mut self, network: &Arc<Entry>, mut attachment: Attachment) -> Result<()> {
        let spec = &self.view.spec.network;
        let name = &network.record.name;
        check_mode(spec, network.record.driver)?;
        if network.record.driver == Driver::Null {
            return self.turn_none(network, "connect").await;
        }
        network.check_addresses(&attachment.addresses)?;
        if self.position(network).is_some() {
            let text = format!("endpoint with name {} already exists in network {name}", self.view.name);
            return Err(EngineError::Denied { text, kind: naru_types::ErrorKind::Forbidden });
        }
        network::endpoint::EndpointOptions::parse(&attachment.options).map_err(EngineError::invalid)?;
        if !self.view.state.is_running() {
            attachment.connected = Some(Timestamp::now());
        }
        let mut changed = (*self.view.spec).clone();
        changed.network.attachments.push(attachment.clone());
        // What is asked for is stored first: the next start of a daemon that is killed here finishes it.
        let before = Arc::clone(&self.view.spec);
        self.store_networks(changed).await?;
        if !self.view.state.is_running() {
            return Ok(());
        }
        let (engine, view, place) = (Arc::clone(&self.engine), self.view.clone(), self.place());
        if let Err(error) = self.change_place(move || engine.networks.connect(&engine.spawner, &view, &attachment, &place)).await {
            if self.has_ended() {
                return Ok(());
            }
            self.store_networks((*before).clone()).await?;
            return Err(error);
        }
        self.engine.networks.plan_shortcuts();
        network::publish(self.engine.events(), network, "connect", Some(&self.view.id));
        Ok(())
    }

    pub(super) async fn disconnect(&mut self, network: &Arc<Entry>, force: bool) -> Result<()> {
        let id = &network.record.id;
        if network.record.driver == Driver::Host && self.view.spec.network.mode == NetworkMode::Host {
            return Err(EngineError::conflict(
                "cannot disconnect container from host network - container was created in host network mode",
            ));
        }
        if network.record.driver == Driver::Null && self.view.spec.network.is_on_none() {
            return self.turn_none(network, "disconnect").await;
        }
        let Some(at) = self.position(network) else {
            if force {
                return Ok(());
            }
            let text = format!("container {} is not connected to network {}", self.view.id, network.record.name);
            return Err(EngineError::Denied { text, kind: naru_types::ErrorKind::Forbidden });
        };
        let mut changed = (*self.view.spec).clone();
        changed.network.attachments.remove(at);
        self.store_networks(changed).await?;
        if self.view.state.is_running() {
            let (engine, view, place, id) = (Arc::clone(&self.engine), self.view.clone(), self.place(), id.clone());
            if let Err(error) = self.change_place(move || engine.networks.disconnect(&engine.spawner, &view, &id, &place)).await {
                return if self.has_ended() { Ok(()) } else { Err(error) };
            }
            network::publish(self.engine.events(), network, "disconnect", Some(&self.view.id));
        }
        Ok(())
    }

    /// Its namespace is gone, of which word has yet to come: its next start brings it to its networks.
    fn has_ended(&self) -> bool {
        self.view.state.pid().is_none_or(|pid| std::fs::metadata(format!("/proc/{pid}/ns/net")).is_err())
    }

    /// Forgets a container of the default bridge that it knows by another name.
    pub(super) async fn unlink(&mut self, alias: &str) -> Result<()> {
        let mut changed = (*self.view.spec).clone();
        let links = &mut changed.network.links;
        let before = links.len();
        links.retain(|link| crate::split_link(link).1 != alias);
        if links.len() == before {
            return Err(EngineError::NoSuchContainer(format!("{}/{alias}", self.view.name)));
        }
        self.store_networks(changed).await?;
        if !self.view.state.is_running() {
            return Ok(());
        }
        let (engine, view, directory, place) = (Arc::clone(&self.engine), self.view.clone(), self.directory.clone(), self.place());
        let job = move || engine.networks.write_names(&engine, &view, &directory, &launch::hostname(&engine, &view), &place);
        tokio::task::spawn_blocking(job).await.map_err(|_| EngineError::Gone("the thread that tells containers names"))?
    }

    /// To `none` or off it, which is nothing but the word for it.
    async fn turn_none(&mut self, none: &Entry, action: &str) -> Result<()> {
        let mut changed = (*self.view.spec).clone();
        changed.network.none_changed = !changed.network.none_changed;
        self.store_networks(changed).await?;
        if self.view.state.is_running() {
            network::publish(self.engine.events(), none, action, Some(&self.view.id));
        }
        Ok(())
    }

    /// Which of its attachments is to this network.
    fn position(&self, network: &Entry) -> Option<usize> {
        let attachments = &self.view.spec.network.attachments;
        attachments.iter().position(|attachment| {
            attachment.network == network.record.name
                || self.engine.networks.find(&attachment.network).is_ok_and(|found| found.record.id == network.record.id)
        })
    }

    fn place(&self) -> Place {
        self.view.run.as_ref().map(|run| run.place.clone()).unwrap_or_default()
    }

    /// Changes what the container has on its networks, in a thread that may block, and tells the container's files.
    async fn change_place(&mut self, change: impl FnOnce() -> Result<Place> + Send + 'static) -> Result<()> {
        let (engine, view, directory) = (Arc::clone(&self.engine), self.view.clone(), self.directory.clone());
        let job = tokio::task::spawn_blocking(move || -> Result<_> {
            let place = change()?;
            let mut run = view.run.as_deref().cloned().ok_or(EngineError::Gone("the container's run"))?;
            run.place = place;
            run.save(&directory)?;
            engine.networks.write_names(&engine, &view, &directory, &launch::hostname(&engine, &view), &run.place)?;
            Ok(run)
        });
        let run = job.await.map_err(|_| EngineError::Gone("the thread that connects containers"))??;
        self.view.run = Some(Arc::new(run));
        self.save_state();
        self.publish_view();
        Ok(())
    }

    async fn store_networks(&mut self, spec: ContainerSpec) -> Result<()> {
        let json = serde_json::to_string(&spec).expect("specifications are plain data");
        self.engine.db.put_spec(self.view.id.as_str(), json).await?;
        self.view.spec = Arc::new(spec);
        self.publish_view();
        Ok(())
    }

    /// Tells that the container has come to its networks, or is about to leave them.
    pub(super) fn network_events(&self, action: &str) {
        let Some(run) = &self.view.run else { return };
        let endpoints = run.place.endpoints.iter().map(|endpoint| endpoint.network.as_str());
        for name in self.view.spec.network.predefined().into_iter().chain(endpoints) {
            if let Ok(entry) = self.engine.networks.find(name) {
                network::publish(self.engine.events(), &entry, action, Some(&self.view.id));
            }
        }
    }

    /// Tells that the container uses its volumes, or has let go of them.
    pub(super) fn volume_events(&self, action: &str) {
        for mount in &self.view.spec.mounts {
            let MountSource::Volume { name, .. } = &mount.source else { continue };
            let mut attributes =
                BTreeMap::from([("driver".to_owned(), "local".to_owned()), ("container".to_owned(), self.view.id.to_string())]);
            if action == "mount" {
                attributes.insert("destination".to_owned(), mount.target.clone());
                attributes.insert("read/write".to_owned(), (!mount.read_only).to_string());
                attributes.insert("propagation".to_owned(), String::new());
            }
            self.engine.events.publish(ObjectKind::Volume, action, name, attributes);
        }
    }
}

/// Which containers can be connected to a network at all (texts as moby's `daemon/container_operations.go`).
fn check_mode(spec: &NetworkSpec, driver: Driver) -> Result<()> {
    let forbidden = |text: &str| Err(EngineError::Denied { text: text.into(), kind: naru_types::ErrorKind::Forbidden });
    match (&spec.mode, driver) {
        (NetworkMode::Container(_) | NetworkMode::Host, _) => {
            forbidden("container sharing network namespace with another container or host cannot be connected to any other network")
        }
        (_, Driver::Host) => forbidden("cannot connect container to host network - container must be created in host network mode"),
        _ if spec.is_on_none() || driver == Driver::Null && !spec.attachments.is_empty() => {
            forbidden("container cannot be connected to multiple networks with one of the networks in private (none) mode")
        }
        _ => Ok(()),
    }
}
