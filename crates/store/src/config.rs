//! Image configuration: the OCI image-spec config with Docker's extra fields, read leniently.
//!
//! Images in the wild have `null`s, missing fields and fields of their builder. Reading accepts them; the bytes as they
//! came are kept, because the image's id is their digest.

use crate::error::{Error, Result, printable};
use naru_types::{Digest, Platform};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The largest config or manifest that is read: real ones have some 10 KiB.
pub const MAX_METADATA: u64 = 4 << 20;

/// The most layers of an image: overlayfs takes 500 lower directories, one of them holds the mount points.
pub const MAX_LAYERS: usize = 499;

/// The config of an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// RFC 3339 time of creation.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Go's name of the processor architecture.
    #[serde(default, deserialize_with = "null")]
    pub architecture: String,
    /// Variant of the architecture, e.g. `v7`.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Go's name of the operating system.
    #[serde(default, deserialize_with = "null")]
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(default, rename = "os.version", deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features of the operating system (Windows).
    #[serde(default, rename = "os.features", deserialize_with = "null", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// What a container of this image runs by default.
    #[serde(default, deserialize_with = "null")]
    pub config: RunConfig,
    /// The layers.
    #[serde(default, deserialize_with = "null")]
    pub rootfs: RootFs,
    /// How each layer came about.
    #[serde(default, deserialize_with = "null")]
    pub history: Vec<HistoryEntry>,
    /// Docker: the version of the builder.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    /// Docker: the comment of commit and import.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Docker: the container that was committed.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// The bytes as they came; empty for a config made here that has no bytes yet.
    #[serde(skip)]
    pub(crate) raw: Raw,
}

/// The bytes of a config; two configs are compared by their fields.
#[derive(Clone, Default)]
pub(crate) struct Raw(Arc<[u8]>);

impl PartialEq for Raw {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The default settings of a container (`config` of the image config).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// User and group, as `user[:group]`.
    #[serde(default, rename = "User", deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports as `80/tcp`.
    #[serde(default, rename = "ExposedPorts", with = "key_set", skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// `KEY=value`.
    #[serde(default, rename = "Env", deserialize_with = "null", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(default, rename = "Entrypoint", deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Further arguments, or the program.
    #[serde(default, rename = "Cmd", deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths that get a volume of their own.
    #[serde(default, rename = "Volumes", with = "key_set", skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    /// The working directory.
    #[serde(default, rename = "WorkingDir", deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Data about the image.
    #[serde(default, rename = "Labels", deserialize_with = "null", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that stops it.
    #[serde(default, rename = "StopSignal", deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Docker: seconds to wait after the stop signal.
    #[serde(default, rename = "StopTimeout", skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Docker: how health is checked.
    #[serde(default, rename = "Healthcheck", skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Docker: triggers of a build from this image.
    #[serde(default, rename = "OnBuild", deserialize_with = "null", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Docker: the shell of shell forms.
    #[serde(default, rename = "Shell", deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Docker: arguments are already escaped (Windows).
    #[serde(default, rename = "ArgsEscaped", deserialize_with = "null", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// Docker: the host name of the committed container.
    #[serde(default, rename = "Hostname", deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Docker: the domain name of the committed container.
    #[serde(default, rename = "Domainname", deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub domainname: String,
    /// Docker: the image the committed container was made of.
    #[serde(default, rename = "Image", deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Docker: allocate a terminal.
    #[serde(default, rename = "Tty", deserialize_with = "null", skip_serializing_if = "is_false")]
    pub tty: bool,
    /// Docker: keep stdin open.
    #[serde(default, rename = "OpenStdin", deserialize_with = "null", skip_serializing_if = "is_false")]
    pub open_stdin: bool,
    /// Docker: close stdin after the first client.
    #[serde(default, rename = "StdinOnce", deserialize_with = "null", skip_serializing_if = "is_false")]
    pub stdin_once: bool,
    /// Docker: no network.
    #[serde(default, rename = "NetworkDisabled", deserialize_with = "null", skip_serializing_if = "is_false")]
    pub network_disabled: bool,
}

/// Docker's health check. Durations are nanoseconds, 0 means the default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`; empty inherits.
    #[serde(default, rename = "Test", deserialize_with = "null", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between checks.
    #[serde(default, rename = "Interval", deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time a check may take.
    #[serde(default, rename = "Timeout", deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time in which failures do not count.
    #[serde(default, rename = "StartPeriod", deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between checks in the start period.
    #[serde(default, rename = "StartInterval", deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(default, rename = "Retries", deserialize_with = "null", skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// The layers of an image, lowest first, by the digests of their tar streams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(default = "layers_word", rename = "type")]
    pub kind: String,
    /// Diff ids, lowest layer first.
    #[serde(default, deserialize_with = "null")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        RootFs { kind: layers_word(), diff_ids: Vec::new() }
    }
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// RFC 3339 time.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Why.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// True when the step made no layer.
    #[serde(default, deserialize_with = "null", skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads a config; `raw()` returns exactly these bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let what = "image config";
        if bytes.len() as u64 > MAX_METADATA {
            return Err(Error::TooLarge { what: what.into(), limit: "4 MiB".into() });
        }
        // Serde would take an array for a struct.
        if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
            return Err(Error::invalid(what, "it is not a JSON object"));
        }
        let mut config: ImageConfig = serde_json::from_slice(bytes).map_err(|e| Error::invalid(what, e.to_string()))?;
        if !matches!(config.rootfs.kind.as_str(), "layers" | "") {
            return Err(Error::invalid(what, format!("rootfs type {:?} is not known", config.rootfs.kind)));
        }
        if config.rootfs.diff_ids.len() > MAX_LAYERS {
            return Err(Error::TooLarge {
                what: format!("image with {} layers", config.rootfs.diff_ids.len()),
                limit: format!("{MAX_LAYERS} layers"),
            });
        }
        config.raw = Raw(bytes.into());
        Ok(config)
    }

    /// Refuses a history that cannot be that of the layers, and times that are none. Only what comes from outside is asked:
    /// an image that is here stays readable.
    pub(crate) fn check_history(&self) -> Result<()> {
        let (made, layers) = (self.history.iter().filter(|step| !step.empty_layer).count(), self.rootfs.diff_ids.len());
        if made > layers {
            return Err(Error::invalid(
                "image config",
                format!("its history has {made} steps that made a layer, it names {layers} layers"),
            ));
        }
        let mut times = self.created.iter().chain(self.history.iter().filter_map(|step| step.created.as_ref()));
        match times.find(|text| !is_time(text)) {
            Some(text) => Err(Error::invalid("image config", format!("{:?} is not a time", printable(text.as_bytes())))),
            None => Ok(()),
        }
    }

    /// The bytes the config was read from, or its JSON when it was made here.
    pub fn raw(&self) -> Arc<[u8]> {
        if self.raw.0.is_empty() { self.to_json().into() } else { self.raw.0.clone() }
    }

    /// The config's JSON as this program writes it.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a config has only string keys")
    }

    /// The platform of the image.
    pub fn platform(&self) -> Platform {
        let host = Platform::host();
        Platform {
            os: if self.os.is_empty() { host.os } else { self.os.clone() },
            architecture: if self.architecture.is_empty() { host.architecture } else { self.architecture.clone() },
            variant: Some(self.variant.clone()).filter(|v| !v.is_empty()),
        }
    }
}

/// RFC 3339, or what older builders write for no time at all. Go's years reach further than those of a timestamp.
fn is_time(text: &str) -> bool {
    let day_and_time = || text.get(..19).is_some_and(|start| start.parse::<jiff::civil::DateTime>().is_ok());
    text.is_empty() || text.parse::<jiff::Timestamp>().is_ok() || (text.ends_with('Z') && day_and_time())
}

fn layers_word() -> String {
    "layers".into()
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// `null` is the same as absent.
pub(crate) fn null<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A list of words; images of old have a single one without its list.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Several(Vec<String>),
    }
    Ok(Option::<Words>::deserialize(deserializer)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Several(words) => words,
    }))
}

/// Go's `map[string]struct{}`: `{"80/tcp": {}}`.
mod key_set {
    use super::*;
    use serde::de::IgnoredAny;

    #[derive(Serialize)]
    struct Empty {}

    pub fn serialize<S: Serializer>(keys: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(keys.iter().map(|key| (key, Empty {})))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
        let map = Option::<BTreeMap<String, IgnoredAny>>::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_missing_fields_are_defaults() {
        for text in [
            "{}",
            r#"{"config":null,"rootfs":null,"history":null,"created":null}"#,
            r#"{"config":{"Env":null,"Cmd":null,"Labels":null,"Volumes":null,"ExposedPorts":null,"Healthcheck":null}}"#,
        ] {
            let config = ImageConfig::parse(text.as_bytes()).unwrap();
            assert_eq!(config, ImageConfig::default(), "{text}");
            assert_eq!(&*config.raw(), text.as_bytes());
        }
    }

    #[test]
    fn refused() {
        let many = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#, vec![format!("\"{}\"", Digest::of(b"x")); 501].join(","));
        let deep = "[".repeat(200_000);
        for text in
            ["", "null", "[]", "{", "1", r#"{"rootfs":{"type":"zfs"}}"#, r#"{"rootfs":{"diff_ids":["../x"]}}"#, "{}{}", &many, &deep]
        {
            assert!(ImageConfig::parse(text.as_bytes()).is_err(), "{}", &text[..text.len().min(60)]);
        }
    }

    #[test]
    fn a_word_is_a_list_of_one() {
        let text = r#"{"config":{"Cmd":"echo hi","Entrypoint":["/bin/sh","-c"],"Shell":null}}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap().config;
        assert_eq!(config.cmd, Some(vec!["echo hi".to_owned()]));
        assert_eq!((config.entrypoint.map(|words| words.len()), config.shell), (Some(2), None));
        assert!(ImageConfig::parse(br#"{"config":{"Cmd":[["x"]]}}"#).is_err());
    }

    #[test]
    fn times() {
        for text in ["", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2024-05-06T07:08:09.123456789+02:00"] {
            assert!(is_time(text), "{text}");
        }
        for text in [
            "not a time",
            "Z",
            "2024-13-06T07:08:09Z",
            "é-01-01T00:00:00Z",
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}Z",
        ] {
            assert!(!is_time(text), "{text}");
        }
    }

    #[test]
    fn sets_are_go_maps() {
        let mut config = ImageConfig::default();
        config.config.exposed_ports.insert("80/tcp".into());
        let json = String::from_utf8(config.to_json()).unwrap();
        assert!(json.contains(r#""ExposedPorts":{"80/tcp":{}}"#), "{json}");
        assert_eq!(ImageConfig::parse(json.as_bytes()).unwrap(), config);
    }
}
