//! The event bus: the last [`KEPT`] events for `since`, and a live stream for each listener.
//!
//! A slow listener never holds up the engine: it loses events and is told how many.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;

/// Events kept for `since` (Docker keeps 256; the documentation of many promises 1000).
pub const KEPT: usize = 1000;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A volume.
    Volume,
    /// A network.
    Network,
    /// The daemon itself.
    Daemon,
}

impl ObjectKind {
    /// The lower-case word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            ObjectKind::Container => "container",
            ObjectKind::Image => "image",
            ObjectKind::Volume => "volume",
            ObjectKind::Network => "network",
            ObjectKind::Daemon => "daemon",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub kind: ObjectKind,
    /// What happened, e.g. `start` or `exec_create: sh`.
    pub action: String,
    /// Id (containers, images, networks) or name (volumes).
    pub id: String,
    /// Labels and details.
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub at: Timestamp,
}

/// Where events are published and listened to.
#[derive(Debug)]
pub struct EventBus {
    kept: Mutex<VecDeque<Arc<Event>>>,
    live: broadcast::Sender<Arc<Event>>,
}

impl Default for EventBus {
    fn default() -> Self {
        EventBus { kept: Mutex::new(VecDeque::with_capacity(KEPT)), live: broadcast::Sender::new(KEPT) }
    }
}

impl EventBus {
    /// Publishes an event that happens now.
    pub fn publish(&self, kind: ObjectKind, action: impl Into<String>, id: impl Into<String>, attributes: BTreeMap<String, String>) {
        let event = Arc::new(Event { kind, action: action.into(), id: id.into(), attributes, at: Timestamp::now() });
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&event));
        // Sent under the lock, so that `listen` sees each event once: kept or live. No receiver is no error.
        self.live.send(event).ok();
    }

    /// The events kept since `since` (none without it), and those to come.
    pub fn listen(&self, since: Option<Timestamp>) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let past = since.map_or_else(Vec::new, |since| kept.iter().filter(|event| event.at >= since).cloned().collect());
        (past, self.live.subscribe())
    }

    /// How many listen now.
    pub fn listeners(&self) -> usize {
        self.live.receiver_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_bounded_and_the_present_is_live() {
        let bus = EventBus::default();
        let start = Timestamp::now();
        for number in 0..KEPT + 5 {
            bus.publish(ObjectKind::Container, "start", number.to_string(), BTreeMap::new());
        }
        let (past, mut live) = bus.listen(Some(start));
        assert_eq!((past.len(), past[0].id.as_str()), (KEPT, "5"));
        bus.publish(ObjectKind::Image, "tag", "x", BTreeMap::new());
        assert_eq!(live.try_recv().unwrap().action, "tag");
        assert!(bus.listen(None).0.is_empty());
    }
}
