//! List filters: `{"key": {"value": true}}`, or the old `{"key": ["value"]}`.

use std::collections::{BTreeMap, BTreeSet};

/// Filters by key; several values of a key are alternatives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

/// Filters that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The text is neither of the two forms.
    #[error("invalid filter")]
    Malformed,
    /// The endpoint does not know the key.
    #[error("invalid filter '{0}'")]
    UnknownKey(String),
    /// The value does not fit the key.
    #[error("invalid filter '{key}=[{value}]'")]
    InvalidValue { key: String, value: String },
}

impl FilterError {
    /// Always the caller's fault.
    pub fn kind(&self) -> naru_types::ErrorKind {
        naru_types::ErrorKind::InvalidArgument
    }
}

impl Filters {
    /// No filters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads either wire form; empty text means no filters.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        type Current = BTreeMap<String, Option<BTreeMap<String, bool>>>;
        type Old = BTreeMap<String, Option<Vec<String>>>;
        if let Ok(current) = crate::json::from_slice::<Current>(text.as_bytes()) {
            let values = |set: Option<BTreeMap<String, bool>>| set.unwrap_or_default().into_keys().collect();
            return Ok(Self(current.into_iter().map(|(key, set)| (key, values(set))).collect()));
        }
        let old = crate::json::from_slice::<Old>(text.as_bytes()).map_err(|_| FilterError::Malformed)?;
        Ok(Self(old.into_iter().map(|(key, list)| (key, list.unwrap_or_default().into_iter().collect())).collect()))
    }

    /// Refuses keys outside `known`.
    pub fn validate(&self, known: &[&str]) -> Result<(), FilterError> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(FilterError::UnknownKey(key.clone())),
            None => Ok(()),
        }
    }

    /// Adds a value.
    pub fn add(&mut self, key: &str, value: &str) {
        self.0.entry(key.to_owned()).or_default().insert(value.to_owned());
    }

    /// Removes a key with all its values.
    pub fn remove(&mut self, key: &str) -> Option<BTreeSet<String>> {
        self.0.remove(key)
    }

    /// The values of a key.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Whether the key asks for anything: one without values does not.
    pub fn contains(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|values| !values.is_empty())
    }

    /// The one boolean of a key (`true`, `1`, `false`, `0`), or the default when absent.
    pub fn boolean(&self, key: &str, default: bool) -> Result<bool, FilterError> {
        let Some(set) = self.0.get(key) else { return Ok(default) };
        let mut answer = None;
        for value in set {
            let this = match value.as_str() {
                "1" | "true" => true,
                "0" | "false" => false,
                _ => return Err(FilterError::InvalidValue { key: key.to_owned(), value: value.clone() }),
            };
            if answer.is_some_and(|before| before != this) {
                return Err(FilterError::InvalidValue { key: key.to_owned(), value: value.clone() });
            }
            answer = Some(this);
        }
        Ok(answer.unwrap_or(default))
    }

    /// Whether labels satisfy every value (`key` or `key=value`) of the filter key `name`.
    pub fn matches_labels(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(name).all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
            None => labels.contains_key(wanted),
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The current wire form.
    pub fn to_json(&self) -> String {
        let map: BTreeMap<&str, BTreeMap<&str, bool>> =
            self.0.iter().map(|(key, set)| (key.as_str(), set.iter().map(|value| (value.as_str(), true)).collect())).collect();
        serde_json::to_string(&map).expect("string maps always serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let current = Filters::parse(r#"{"label":{"a=b":true,"c":true}}"#).unwrap();
        let old = Filters::parse(r#"{"label":["a=b","c"]}"#).unwrap();
        assert_eq!(current, old);
        assert_eq!(current.to_json(), r#"{"label":{"a=b":true,"c":true}}"#);
        assert!(Filters::parse("").unwrap().is_empty());
        let idle = Filters::parse(r#"{"label":[]}"#).unwrap();
        assert!(!idle.contains("label") && idle.validate(&["name"]).is_err());
        for bad in ["x", "[]", r#"{"a":"b"}"#, r#"{"a":{"b":1}}"#] {
            assert_eq!(Filters::parse(bad), Err(FilterError::Malformed), "{bad}");
        }
    }

    #[test]
    fn labels_must_all_match() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())]);
        let matches = |text: &str| Filters::parse(text).unwrap().matches_labels("label", &labels);
        assert!(matches("") && matches(r#"{"label":["a=b","c"]}"#) && matches(r#"{"label":["a"]}"#));
        assert!(!matches(r#"{"label":["a=b","d"]}"#) && !matches(r#"{"label":["a=x"]}"#));
    }

    #[test]
    fn unknown_keys_and_odd_booleans_are_refused() {
        let filters = Filters::parse(r#"{"dangling":["true"],"x":["maybe"]}"#).unwrap();
        assert_eq!(filters.boolean("dangling", false), Ok(true));
        assert_eq!(filters.boolean("absent", true), Ok(true));
        assert!(filters.boolean("x", true).is_err());
        assert_eq!(filters.validate(&["dangling"]), Err(FilterError::UnknownKey("x".to_owned())));
    }
}
