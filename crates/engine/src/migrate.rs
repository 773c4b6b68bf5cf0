//! Records of older formats of the database become those of today's. Pure: JSON to JSON.
//!
//! Format 1 knew the default bridge only: a specification had one hardware address, a run at most one endpoint.

use crate::network::predefined_id;
use serde_json::{Value, json};

/// A container's specification of format 1.
pub(crate) fn spec_of_1(spec: &mut Value) {
    let Some(network) = spec.get_mut("network").and_then(Value::as_object_mut) else { return };
    let mac = network.remove("mac").unwrap_or(Value::Null);
    let attachments = if network.get("mode").and_then(Value::as_str) == Some("Bridge") {
        json!([{ "network": "bridge", "mac": mac }])
    } else {
        json!([])
    };
    network.insert("attachments".into(), attachments);
}

/// A container's live run of format 1.
pub(crate) fn run_of_1(run: &mut Value) {
    let Some(run) = run.as_object_mut() else { return };
    let place = match run.remove("endpoint") {
        Some(Value::Object(old)) => {
            let get = |key: &str| old.get(key).cloned().unwrap_or(Value::Null);
            json!({
                "endpoints": [{
                    "network": predefined_id("bridge"),
                    "network_name": "bridge",
                    "id": get("id"),
                    "addresses": [{ "address": get("address"), "prefix": get("prefix"), "gateway": get("gateway") }],
                    "mac": get("mac"),
                    "interface": get("interface"),
                    "container_interface": "eth0",
                    "names": [],
                    "leads_out": true,
                    "publishes": true,
                    "gateway_priority": 0,
                }],
                "ports": get("ports"),
            })
        }
        _ => json!({ "endpoints": [] }),
    };
    run.insert("place".into(), place);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Place;
    use crate::spec::Attachment;

    #[test]
    fn a_container_on_the_default_bridge() {
        let mut spec = json!({ "network": { "mode": "Bridge", "mac": [2, 66, 0, 0, 0, 9], "ports": [] }, "labels": {} });
        spec_of_1(&mut spec);
        let attachments: Vec<Attachment> = serde_json::from_value(spec["network"]["attachments"].clone()).unwrap();
        assert_eq!((attachments.len(), attachments[0].network.as_str(), attachments[0].mac), (1, "bridge", Some([2, 66, 0, 0, 0, 9])));
        let mut run = json!({
            "endpoint": {
                "id": "ab", "address": "172.30.0.2", "prefix": 16, "gateway": "172.30.0.1", "mac": [2, 66, 172, 30, 0, 2], "interface": "veth1",
                "ports": [{ "container_port": 80, "protocol": "tcp", "host_ip": "0.0.0.0", "host_port": 8080 }],
            },
            "cgroup": "/naru/x", "mounts": [],
        });
        run_of_1(&mut run);
        let place: Place = serde_json::from_value(run["place"].clone()).unwrap();
        assert_eq!(place.port_maps()[0].container_ip, "172.30.0.2".parse::<std::net::IpAddr>().unwrap());
        assert_eq!(place.endpoints[0].interface.as_deref(), Some("veth1"));
    }

    #[test]
    fn a_container_without_a_network() {
        let mut spec = json!({ "network": { "mode": "Host", "mac": null } });
        spec_of_1(&mut spec);
        assert_eq!(spec["network"]["attachments"], json!([]));
        let mut run = json!({ "endpoint": null, "cgroup": "/naru/x", "mounts": [] });
        run_of_1(&mut run);
        assert_eq!(serde_json::from_value::<Place>(run["place"].clone()).unwrap(), Place::default());
    }
}
