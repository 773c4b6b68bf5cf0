//! Commands about manifests in registries. They ask the registry themselves, as Docker's do: no engine is needed.

pub mod inspect;
