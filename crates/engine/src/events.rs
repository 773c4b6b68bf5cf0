//! The event bus: the last [`KEPT`] events for `since`, also over the daemon's end, and a live stream for each listener.
//!
//! A slow listener never holds up the engine: it loses events and is told how many.

use crate::journal::Journal;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    kept: Mutex<Kept>,
    live: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug)]
struct Kept {
    events: VecDeque<Arc<Event>>,
    journal: Journal,
}

impl EventBus {
    /// A bus that knows the events which an earlier daemon wrote to `path`.
    pub(crate) fn open(path: &Path) -> Self {
        let (journal, past) = Journal::open(path);
        let mut events = VecDeque::with_capacity(KEPT);
        events.extend(past.into_iter().map(Arc::new));
        EventBus { kept: Mutex::new(Kept { events, journal }), live: broadcast::Sender::new(KEPT) }
    }

    /// Publishes an event that happens now.
    pub fn publish(&self, kind: ObjectKind, action: impl Into<String>, id: impl Into<String>, attributes: BTreeMap<String, String>) {
        let event = Arc::new(Event { kind, action: action.into(), id: id.into(), attributes, at: Timestamp::now() });
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.events.len() == KEPT {
            kept.events.pop_front();
        }
        kept.events.push_back(Arc::clone(&event));
        kept.journal.append(&event);
        // Sent under the lock, so that `listen` sees each event once: kept or live. No receiver is no error.
        self.live.send(event).ok();
    }

    /// The events kept since `since` (none without it), and those to come.
    pub fn listen(&self, since: Option<Timestamp>) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let past = since.map_or_else(Vec::new, |since| kept.events.iter().filter(|event| event.at >= since).cloned().collect());
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
        let dir = tempfile::tempdir().unwrap();
        let bus = EventBus::open(&dir.path().join("events"));
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

    #[test]
    fn a_new_bus_knows_the_past() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let attributes = BTreeMap::from([("name".to_owned(), "a\nb\u{0}".to_owned())]);
        let first = EventBus::open(&path);
        for number in 0..KEPT * 2 + 7 {
            first.publish(ObjectKind::Volume, "create", number.to_string(), attributes.clone());
        }
        let (before, _) = first.listen(Some(Timestamp::UNIX_EPOCH));
        drop(first);
        let second = EventBus::open(&path);
        assert_eq!(second.listen(Some(Timestamp::UNIX_EPOCH)).0, before);
        second.publish(ObjectKind::Image, "tag", "x", BTreeMap::new());
        drop(second);
        // A cut line costs itself only.
        let length = std::fs::metadata(&path).unwrap().len();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(length - 5).unwrap();
        let third = EventBus::open(&path);
        third.publish(ObjectKind::Image, "untag", "x", BTreeMap::new());
        drop(third);
        let (past, _) = EventBus::open(&path).listen(Some(Timestamp::UNIX_EPOCH));
        assert_eq!(past.iter().rev().take(2).map(|event| event.action.as_str()).collect::<Vec<_>>(), ["untag", "create"]);
        assert_eq!(past.len(), KEPT);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "two files and no more");
    }
}
