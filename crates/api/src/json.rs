//! JSON as Go's `encoding/json` reads it, because that is what clients of Docker were tested with:
//! struct keys match in any case (an exact match wins), unknown keys are ignored, `null` is the zero value,
//! the last of several equal keys counts, and invalid UTF-8 becomes U+FFFD.
//!
//! Text is first read into a [`Node`] tree that keeps the order of keys (nesting is bounded by serde_json, 128);
//! then [`NodeDeserializer`] serves it to serde. Only `deserialize_struct` renames keys, so maps keep theirs. Structs
//! must carry `#[serde(default)]` and must not use `flatten`, which hides field names from `deserialize_struct`.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

/// Text that is not the JSON asked for. The words are those of Docker's answers.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Nothing but blanks.
    #[error("invalid JSON: got EOF while reading request body")]
    Empty,
    /// The text stops in the middle.
    #[error("invalid JSON: unexpected EOF")]
    Cut,
    /// Something follows the value.
    #[error("unexpected content after JSON")]
    Trailing,
    /// The text is no JSON.
    #[error("invalid JSON: {0}")]
    Syntax(serde_json::Error),
    /// A value has the wrong type.
    #[error("invalid JSON: {0}")]
    Type(String),
}

impl JsonError {
    /// Always the caller's fault.
    pub fn kind(&self) -> naru_types::ErrorKind {
        naru_types::ErrorKind::InvalidArgument
    }
}

/// Reads one value and refuses anything after it.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    let text = String::from_utf8_lossy(bytes);
    if text.trim().is_empty() {
        return Err(JsonError::Empty);
    }
    let mut reader = serde_json::Deserializer::from_str(&text);
    let node = <Node as serde::Deserialize>::deserialize(&mut reader)
        .map_err(|error| if error.is_eof() { JsonError::Cut } else { JsonError::Syntax(error) })?;
    reader.end().map_err(|_| JsonError::Trailing)?;
    T::deserialize(NodeDeserializer(node)).map_err(|TypeError(text)| JsonError::Type(text))
}

/// Any JSON value; objects keep the order and the repetition of their keys.
enum Node {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    String(String),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    fn name(&self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Bool(_) => "bool",
            Node::Unsigned(_) | Node::Signed(_) | Node::Float(_) => "number",
            Node::String(_) => "string",
            Node::Array(_) => "array",
            Node::Object(_) => "object",
        }
    }
}

impl<'de> serde::Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;
        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Unsigned(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Signed(value))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Float(value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::String(value.to_owned()))
            }
            fn visit_string<E>(self, value: String) -> Result<Node, E> {
                Ok(Node::String(value))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::Array(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Object(entries))
            }
        }
        deserializer.deserialize_any(NodeVisitor)
    }
}

/// A value of the wrong type, in words.
#[derive(Debug)]
struct TypeError(String);

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TypeError {}

impl de::Error for TypeError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        TypeError(text.to_string())
    }
}

impl TypeError {
    /// The error of a field names the path to it, innermost last.
    fn within(self, field: &str) -> Self {
        match self.0.strip_prefix("json: cannot unmarshal ").and_then(|rest| rest.split_once(" into field ")) {
            Some((what, path)) => TypeError(format!("json: cannot unmarshal {what} into field {field}.{path}")),
            None => match self.0.strip_prefix("json: cannot unmarshal ").and_then(|rest| rest.split_once(" into ")) {
                Some((what, wanted)) => TypeError(format!("json: cannot unmarshal {what} into field {field} {wanted}")),
                None => self,
            },
        }
    }
}

struct NodeDeserializer(Node);

impl NodeDeserializer {
    fn mismatch<T>(&self, wanted: &str) -> Result<T, TypeError> {
        Err(TypeError(format!("json: cannot unmarshal {} into of type {wanted}", self.0.name())))
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty, $name:literal;)+) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
                let value = match self.0 {
                    Node::Null => Some(0),
                    Node::Unsigned(value) => <$type>::try_from(value).ok(),
                    Node::Signed(value) => <$type>::try_from(value).ok(),
                    _ => None,
                };
                match value {
                    Some(value) => visitor.$visit(value),
                    None => self.mismatch($name),
                }
            }
        )+
    };
}

impl<'de> Deserializer<'de> for NodeDeserializer {
    type Error = TypeError;

    integers! {
        deserialize_i8 visit_i8 i8, "int8";
        deserialize_i16 visit_i16 i16, "int16";
        deserialize_i32 visit_i32 i32, "int32";
        deserialize_i64 visit_i64 i64, "int64";
        deserialize_u8 visit_u8 u8, "uint8";
        deserialize_u16 visit_u16 u16, "uint16";
        deserialize_u32 visit_u32 u32, "uint32";
        deserialize_u64 visit_u64 u64, "uint64";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match self.0 {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(value),
            Node::Unsigned(value) => visitor.visit_u64(value),
            Node::Signed(value) => visitor.visit_i64(value),
            Node::Float(value) => visitor.visit_f64(value),
            Node::String(value) => visitor.visit_string(value),
            Node::Array(items) => visitor.visit_seq(Items(items.into_iter(), 0)),
            Node::Object(entries) => visitor.visit_map(Entries::map(entries)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match self.0 {
            Node::Null => visitor.visit_bool(false),
            Node::Bool(value) => visitor.visit_bool(value),
            _ => self.mismatch("bool"),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match self.0 {
            Node::Null => visitor.visit_f64(0.0),
            Node::Unsigned(value) => visitor.visit_u64(value),
            Node::Signed(value) => visitor.visit_i64(value),
            Node::Float(value) => visitor.visit_f64(value),
            _ => self.mismatch("float64"),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match self.0 {
            Node::Null => visitor.visit_str(""),
            Node::String(value) => visitor.visit_string(value),
            _ => self.mismatch("string"),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match self.0 {
            Node::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, TypeError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, TypeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match self.0 {
            Node::Null => visitor.visit_seq(Items(Vec::new().into_iter(), 0)),
            Node::Array(items) => visitor.visit_seq(Items(items.into_iter(), 0)),
            _ => self.mismatch("list"),
        }
    }

    /// Go fills an array of fixed length from what is there and drops the rest.
    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, TypeError> {
        let mut items = match self.0 {
            Node::Null => Vec::new(),
            Node::Array(items) => items,
            _ => return self.mismatch("array"),
        };
        items.truncate(length);
        while items.len() < length {
            items.push(Node::Null);
        }
        visitor.visit_seq(Items(items.into_iter(), 0))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, length: usize, visitor: V) -> Result<V::Value, TypeError> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match self.0 {
            Node::Null => visitor.visit_map(Entries::map(Vec::new())),
            Node::Object(entries) => visitor.visit_map(Entries::map(entries)),
            _ => self.mismatch("map"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TypeError> {
        match self.0 {
            Node::Null => visitor.visit_map(Entries::map(Vec::new())),
            Node::Object(entries) => visitor.visit_map(Entries::structure(entries, fields)),
            _ => self.mismatch(name),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(self, name: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, TypeError> {
        match self.0 {
            Node::String(value) => visitor.visit_enum(value.into_deserializer()),
            _ => self.mismatch(name),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        visitor.visit_unit()
    }
}

struct Items(std::vec::IntoIter<Node>, usize);

impl<'de> SeqAccess<'de> for Items {
    type Error = TypeError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, TypeError> {
        let Some(node) = self.0.next() else { return Ok(None) };
        self.1 += 1;
        seed.deserialize(NodeDeserializer(node)).map(Some).map_err(|error| error.within(&(self.1 - 1).to_string()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

enum Key {
    Field(&'static str),
    Own(String),
}

impl Key {
    fn as_str(&self) -> &str {
        match self {
            Key::Field(name) => name,
            Key::Own(name) => name,
        }
    }
}

struct Entries {
    entries: std::vec::IntoIter<(Key, Node)>,
    value: Option<(Key, Node)>,
}

impl Entries {
    /// The entries of a map: keys as they are, the last of equal ones.
    fn map(entries: Vec<(String, Node)>) -> Self {
        let mut seen = std::collections::BTreeMap::new();
        for (key, node) in entries {
            seen.insert(key, node);
        }
        Self::new(seen.into_iter().map(|(key, node)| (Key::Own(key), node)).collect())
    }

    /// The entries of a struct: keys become field names, unknown ones and nulls vanish, the last of equal ones stays.
    fn structure(entries: Vec<(String, Node)>, fields: &'static [&'static str]) -> Self {
        let mut slots: Vec<Option<Node>> = fields.iter().map(|_| None).collect();
        for (key, node) in entries {
            let exact = fields.iter().position(|field| *field == key);
            let Some(at) = exact.or_else(|| fields.iter().position(|field| folds_equal(field, &key))) else { continue };
            if !matches!(node, Node::Null) {
                slots[at] = Some(node);
            }
        }
        let kept = fields.iter().zip(slots).filter_map(|(field, node)| Some((Key::Field(field), node?)));
        Self::new(kept.collect())
    }

    fn new(entries: Vec<(Key, Node)>) -> Self {
        Self { entries: entries.into_iter(), value: None }
    }
}

/// Go's folding: ASCII case, and the two characters outside ASCII that fold into it.
fn folds_equal(field: &str, key: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    field.chars().map(fold).eq(key.chars().map(fold))
}

impl<'de> MapAccess<'de> for Entries {
    type Error = TypeError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, TypeError> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        let value = seed.deserialize(StrDeserializer::<TypeError>::new(key.as_str()))?;
        self.value = Some((key, node));
        Ok(Some(value))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, TypeError> {
        let (key, node) = self.value.take().expect("serde asks for a value only after its key");
        seed.deserialize(NodeDeserializer(node)).map_err(|error| error.within(key.as_str()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{ContainerCreateRequest, HostConfig};

    fn read(text: &str) -> ContainerCreateRequest {
        from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn keys_match_in_any_case_and_the_last_wins() {
        assert_eq!(read(r#"{"image":"a"}"#).image, "a");
        assert_eq!(read(r#"{"IMAGE":"a","Image":"b"}"#).image, "b");
        assert_eq!(read(r#"{"Image":"b","image":"c"}"#).image, "c");
        let host =
            read(r#"{"hostconfig":{"NANOCPUS":5,"utsMode":"host","dnsoptions":["x"],"blkioDeviceReadIops":[{"path":"/d","RATE":3}]}}"#);
        let host = host.host_config.unwrap();
        assert_eq!((host.nano_cpus, host.uts_mode.as_str()), (5, "host"));
        assert_eq!(host.dns_options, Some(vec!["x".to_owned()]));
        assert_eq!(host.blkio_device_read_iops.unwrap()[0].rate, 3);
    }

    #[test]
    fn maps_keep_their_keys() {
        let request = read(r#"{"labels":{"A":"1","a":"2"},"exposedports":{"80/tcp":{}}}"#);
        let labels = request.labels.unwrap();
        assert_eq!((labels["A"].as_str(), labels["a"].as_str()), ("1", "2"));
        assert!(request.exposed_ports.unwrap().contains_key("80/tcp"));
    }

    #[test]
    fn null_is_the_zero_value_and_unknown_keys_are_ignored() {
        let request =
            read(r#"{"Image":null,"Tty":null,"Env":["a",null],"Cmd":null,"HostConfig":null,"StopTimeout":null,"Nope":{"x":[1]}}"#);
        assert_eq!(request.image, "");
        assert_eq!(request.env, Some(vec!["a".to_owned(), String::new()]));
        assert_eq!((request.cmd, request.host_config, request.stop_timeout), (None, None, None));
        assert_eq!(read("null"), ContainerCreateRequest::default());
        assert_eq!(from_slice::<HostConfig>(br#"{"ConsoleSize":[1]}"#).unwrap().console_size, [1, 0]);
    }

    #[test]
    fn a_command_may_be_one_string() {
        assert_eq!(read(r#"{"Cmd":"ls","Entrypoint":["a","b"]}"#).cmd, Some(vec!["ls".to_owned()]));
        assert_eq!(read(r#"{"Entrypoint":[""]}"#).entrypoint, Some(vec![String::new()]));
    }

    #[test]
    fn errors_use_dockers_words() {
        let error = |text: &str| from_slice::<ContainerCreateRequest>(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error(""), "invalid JSON: got EOF while reading request body");
        assert_eq!(error("  \n"), "invalid JSON: got EOF while reading request body");
        assert_eq!(error(r#"{"Image":"a""#), "invalid JSON: unexpected EOF");
        assert_eq!(error(r#"{"Image":"a"} x"#), "unexpected content after JSON");
        assert_eq!(error("{} {}"), "unexpected content after JSON");
        assert_eq!(error(r#"{"Cmd":["a",1]}"#), "invalid JSON: json: cannot unmarshal number into field Cmd.1 of type string");
        assert_eq!(
            error(r#"{"HostConfig":{"Memory":"1g"}}"#),
            "invalid JSON: json: cannot unmarshal string into field HostConfig.Memory of type int64"
        );
        assert!(error("{nope}").starts_with("invalid JSON: "));
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "[".repeat(100_000);
        assert!(from_slice::<ContainerCreateRequest>(deep.as_bytes()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(0u8.., 0..200)) {
            let _ = from_slice::<ContainerCreateRequest>(&bytes);
        }

        #[test]
        fn any_case_reads_the_same(mask in 0u64..) {
            let request = ContainerCreateRequest {
                image: "busybox".to_owned(),
                cmd: Some(vec!["a".to_owned()]),
                host_config: Some(HostConfig { memory: 7, binds: Some(vec!["/a:/b".to_owned()]), ..HostConfig::default() }),
                ..ContainerCreateRequest::default()
            };
            let text = serde_json::to_string(&request).unwrap();
            let mut bits = mask;
            let mut flipped = String::new();
            for (i, part) in text.split('"').enumerate() {
                if i > 0 {
                    flipped.push('"');
                }
                if i % 2 == 1 && text.contains(&format!("\"{part}\":")) {
                    bits = bits.rotate_left(1);
                    flipped.push_str(&if bits & 1 == 1 { part.to_ascii_uppercase() } else { part.to_ascii_lowercase() });
                } else {
                    flipped.push_str(part);
                }
            }
            proptest::prop_assert_eq!(from_slice::<ContainerCreateRequest>(flipped.as_bytes()).unwrap(), request);
        }
    }
}
