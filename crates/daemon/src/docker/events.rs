//! `GET /events`.

use super::Call;
use super::body::{self, Response};
use super::convert::time;
use super::error::{ApiError, Result};
use jiff::Timestamp;
use naru_api::filters::Filters;
use naru_api::models;
use naru_api::version::ApiVersion;
use naru_engine::events::{Event, ObjectKind};
use naru_types::ImageRef;
use tokio::sync::broadcast::error::RecvError;

const FILTERS: [&str; 15] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
    "builder",
];

fn wire(event: &Event) -> models::EventMessage {
    let nanoseconds = i64::try_from(event.at.as_nanosecond()).unwrap_or(i64::MAX);
    let mut message = models::EventMessage {
        r#type: event.kind.as_str().into(),
        action: event.action.clone(),
        actor: models::EventActor { id: event.id.clone(), attributes: event.attributes.clone() },
        scope: "local".into(),
        time: event.at.as_second(),
        time_nano: nanoseconds,
        ..models::EventMessage::default()
    };
    // The old form, which clients below 1.52 may read.
    if matches!(event.kind, ObjectKind::Container | ObjectKind::Image) {
        message.status.clone_from(&event.action);
        message.id.clone_from(&event.id);
        message.from = event.attributes.get("image").cloned().unwrap_or_default();
    }
    message
}

fn takes(filters: &Filters, event: &Event) -> bool {
    let any = |key: &str, holds: &dyn Fn(&str) -> bool| !filters.contains(key) || filters.values(key).any(holds);
    let name = event.attributes.get("name").map_or("", String::as_str);
    let object = |kind: ObjectKind| {
        any(kind.as_str(), &|wanted| {
            event.kind == kind
                && (event.id == wanted
                    || name == wanted
                    || (wanted.len() >= 4 && event.id.starts_with(wanted))
                    || image_name(event, wanted))
        })
    };
    any("type", &|kind| kind == event.kind.as_str())
        // `exec_create` stands for `exec_create: sh`.
        && any("event", &|action| event.action == action || event.action.split(':').next() == Some(action))
        && any("scope", &|scope| scope == "local")
        && filters.matches_labels("label", &event.attributes)
        && object(ObjectKind::Container)
        && (!filters.contains("image") || any("image", &|wanted| image_name(event, wanted) || (event.kind == ObjectKind::Image && (event.id == wanted || name == wanted))))
        && object(ObjectKind::Volume)
        && object(ObjectKind::Network)
        && object(ObjectKind::Daemon)
        && ["config", "node", "plugin", "secret", "service", "builder"].iter().all(|key| !filters.contains(key))
}

/// The image of a container's event, with or without its tag.
fn image_name(event: &Event, wanted: &str) -> bool {
    let image = event.attributes.get("image").or_else(|| event.attributes.get("name").filter(|_| event.kind == ObjectKind::Image));
    // A colon may also be that of a port.
    let without_tag = |image: &str| ImageRef::parse(image).ok().map(|reference| reference.familiar_name());
    image.is_some_and(|image| image == wanted || without_tag(image).as_deref() == Some(wanted))
}

/// `GET /events`.
pub fn events(call: &Call) -> Result<Response> {
    let filters = Filters::parse(call.query.get("filters").unwrap_or_default())?;
    filters.validate(&FILTERS)?;
    let (since, until) = (time::wire(call.query.get("since"), "since")?, time::wire(call.query.get("until"), "until")?);
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(ApiError::invalid(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            since.as_second(),
            until.as_second()
        )));
    }
    let (past, mut live) = call.app.engine.events().listen(since.or(until.map(|_| Timestamp::UNIX_EPOCH)));
    // Clients before that version take what is created for a container.
    let knows_creation = call.version >= ApiVersion::new(1, 46);
    let wanted =
        move |event: &Event| takes(&filters, event) && (knows_creation || event.kind != ObjectKind::Image || event.action != "create");
    let (sender, response) = body::stream("application/json");
    tokio::spawn(async move {
        if sender.send(Ok(bytes::Bytes::new())).await.is_err() {
            return;
        }
        let send = async |event: &Event| {
            let mut line = serde_json::to_vec(&wire(event)).unwrap_or_default();
            line.push(b'\n');
            sender.send(Ok(line.into())).await.is_ok()
        };
        for event in past.iter().filter(|event| until.is_none_or(|until| event.at <= until) && wanted(event)) {
            if !send(event).await {
                return;
            }
        }
        let left = until.map(|until| std::time::Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default());
        let deadline = left.map(|left| tokio::time::Instant::now() + left);
        loop {
            let event = tokio::select! {
                event = live.recv() => event,
                () = sender.closed() => return,
                () = async { match deadline { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => return,
            };
            match event {
                Ok(event) => {
                    if wanted(&event) && !send(&event).await {
                        return;
                    }
                }
                Err(RecvError::Lagged(count)) => tracing::warn!(count, "a listener was too slow and lost events"),
                Err(RecvError::Closed) => return,
            }
        }
    });
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn filters_select() {
        let attributes = BTreeMap::from([
            ("image".to_owned(), "reg.example:5000/busybox:1".to_owned()),
            ("name".to_owned(), "web".to_owned()),
            ("tier".to_owned(), "a".to_owned()),
        ]);
        let event = Event {
            kind: ObjectKind::Container,
            action: "exec_create: sh".into(),
            id: "abcdef".into(),
            attributes,
            at: Timestamp::UNIX_EPOCH,
        };
        for (json, taken) in [
            ("", true),
            (r#"{"type":["container"]}"#, true),
            (r#"{"type":["image"]}"#, false),
            (r#"{"event":["exec_create"]}"#, true),
            (r#"{"event":["start","die"]}"#, false),
            (r#"{"container":["web"]}"#, true),
            (r#"{"container":["abcd"],"event":["die"]}"#, false),
            (r#"{"image":["reg.example:5000/busybox"]}"#, true),
            (r#"{"image":["reg.example:5000/busybox:1"]}"#, true),
            (r#"{"image":["reg.example"]}"#, false),
            (r#"{"image":["reg.example:5000/busybox:2"]}"#, false),
            (r#"{"label":["tier=a"]}"#, true),
            (r#"{"label":["tier=b"]}"#, false),
            (r#"{"volume":["v"]}"#, false),
        ] {
            assert_eq!(takes(&Filters::parse(json).unwrap(), &event), taken, "{json}");
        }
    }
}
