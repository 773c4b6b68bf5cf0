//! What a pull or push tells while it works. [`PullEvent::line`] and [`PushEvent::line`] give Docker's words, which clients
//! and scripts match on.

use naru_types::Digest;
use std::time::Duration;

/// One line of Docker's progress stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `id`: a tag, or the first 12 digits of a layer.
    pub id: Option<String>,
    /// `status`.
    pub status: String,
    /// `progressDetail`: current and total.
    pub progress: Option<(u64, u64)>,
}

/// News of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// The reference exists; it starts.
    Pulling {
        /// The tag or digest.
        reference: String,
        /// `library/debian`.
        repository: String,
    },
    /// A layer moves.
    Layer {
        /// The first 12 digits of its digest.
        id: String,
        /// Where it is.
        state: LayerState,
    },
    /// What the layers weigh as they travel. It follows the first news of each of them.
    Sizes {
        /// Bytes of those that are here and need not come.
        here: u64,
        /// The others: the first 12 digits of their digests, and their bytes.
        missing: Vec<(String, u64)>,
    },
    /// Something the user should know, e.g. that a mirror failed.
    Notice(String),
    /// The digest of the manifest or index.
    Digest(Digest),
    /// It is done.
    Done {
        /// As users write it.
        reference: String,
        /// Nothing was new.
        up_to_date: bool,
    },
}

/// Where a layer of a pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerState {
    /// It will be fetched.
    Pulling,
    /// Others are fetched first.
    Waiting,
    /// Bytes come.
    Downloading {
        /// So many are there.
        current: u64,
        /// Of so many.
        total: u64,
    },
    /// The transfer broke and goes on after a pause.
    Retrying(Duration),
    /// All bytes are there.
    Verifying,
    /// Its digest is right.
    Downloaded,
    /// It is unpacked.
    Extracting {
        /// So many bytes are done.
        current: u64,
        /// Of so many.
        total: u64,
    },
    /// It is there.
    Complete,
    /// It was there.
    Exists,
}

impl PullEvent {
    /// In Docker's words.
    pub fn line(&self) -> Line {
        let line = |id: Option<&str>, status: String| Line { id: id.map(str::to_owned), status, progress: None };
        match self {
            PullEvent::Pulling { reference, repository } => line(Some(reference), format!("Pulling from {repository}")),
            // Docker has no word for it.
            PullEvent::Sizes { here, missing } => line(None, format!("{} layers are missing, {here} bytes here", missing.len())),
            PullEvent::Notice(text) => line(None, text.clone()),
            PullEvent::Digest(digest) => line(None, format!("Digest: {digest}")),
            PullEvent::Done { reference, up_to_date: true } => line(None, format!("Status: Image is up to date for {reference}")),
            PullEvent::Done { reference, up_to_date: false } => line(None, format!("Status: Downloaded newer image for {reference}")),
            PullEvent::Layer { id, state } => {
                let (status, progress) = match state {
                    LayerState::Pulling => ("Pulling fs layer".to_owned(), None),
                    LayerState::Waiting => ("Waiting".to_owned(), None),
                    LayerState::Downloading { current, total } => ("Downloading".to_owned(), Some((*current, *total))),
                    LayerState::Retrying(pause) => (retrying(*pause), None),
                    LayerState::Verifying => ("Verifying Checksum".to_owned(), None),
                    LayerState::Downloaded => ("Download complete".to_owned(), None),
                    LayerState::Extracting { current, total } => ("Extracting".to_owned(), Some((*current, *total))),
                    LayerState::Complete => ("Pull complete".to_owned(), None),
                    LayerState::Exists => ("Already exists".to_owned(), None),
                };
                Line { id: Some(id.clone()), status, progress }
            }
        }
    }
}

/// News of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushEvent {
    /// It starts.
    Pushing {
        /// `docker.io/library/debian`.
        repository: String,
    },
    /// A layer moves.
    Layer {
        /// The first 12 digits of its diff id.
        id: String,
        /// Where it is.
        state: UploadState,
    },
    /// It is done.
    Done {
        /// The tag.
        tag: String,
        /// The digest of the manifest.
        digest: Digest,
        /// The size of the manifest.
        size: u64,
    },
}

/// Where a layer of a push is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadState {
    /// It will be looked at.
    Preparing,
    /// Others go first.
    Waiting,
    /// Bytes go.
    Pushing {
        /// So many have gone.
        current: u64,
        /// Of so many.
        total: u64,
    },
    /// The transfer broke and goes on after a pause.
    Retrying(Duration),
    /// It is there.
    Pushed,
    /// It was there.
    Exists,
    /// Registries do not hold it.
    Skipped,
    /// The registry took it from another of its repositories.
    Mounted {
        /// `library/debian`.
        from: String,
    },
}

impl PushEvent {
    /// In Docker's words; the result is also sent as `aux` (`Tag`, `Digest`, `Size`), for which see the variant.
    pub fn line(&self) -> Line {
        let line = |id: Option<&str>, status: String| Line { id: id.map(str::to_owned), status, progress: None };
        match self {
            PushEvent::Pushing { repository } => line(None, format!("The push refers to repository [{repository}]")),
            PushEvent::Done { tag, digest, size } => line(None, format!("{tag}: digest: {digest} size: {size}")),
            PushEvent::Layer { id, state } => {
                let (status, progress) = match state {
                    UploadState::Preparing => ("Preparing".to_owned(), None),
                    UploadState::Waiting => ("Waiting".to_owned(), None),
                    UploadState::Pushing { current, total } => ("Pushing".to_owned(), Some((*current, *total))),
                    UploadState::Retrying(pause) => (retrying(*pause), None),
                    UploadState::Pushed => ("Pushed".to_owned(), None),
                    UploadState::Exists => ("Layer already exists".to_owned(), None),
                    UploadState::Skipped => ("Skipped foreign layer".to_owned(), None),
                    UploadState::Mounted { from } => (format!("Mounted from {from}"), None),
                };
                Line { id: Some(id.clone()), status, progress }
            }
        }
    }
}

/// Docker counts whole seconds.
fn retrying(pause: Duration) -> String {
    let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
    format!("Retrying in {seconds} second{}", if seconds == 1 { "" } else { "s" })
}

/// News that can be told again to who comes later: of one object only the newest counts.
pub(crate) trait Replayed: Clone + Send + 'static {
    /// The object it is about; nothing when all such news count.
    fn subject(&self) -> Option<&str>;
}

impl Replayed for PullEvent {
    fn subject(&self) -> Option<&str> {
        match self {
            PullEvent::Layer { id, .. } => Some(id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_docker_s() {
        let layer = |state| PullEvent::Layer { id: "abc".into(), state }.line();
        assert_eq!(layer(LayerState::Downloading { current: 1, total: 2 }).progress, Some((1, 2)));
        assert_eq!(layer(LayerState::Complete).status, "Pull complete");
        assert_eq!(layer(LayerState::Retrying(Duration::from_millis(400))).status, "Retrying in 1 second");
        let start = PullEvent::Pulling { reference: "latest".into(), repository: "library/debian".into() }.line();
        assert_eq!((start.id.as_deref(), start.status.as_str()), (Some("latest"), "Pulling from library/debian"));
        let done = PullEvent::Done { reference: "debian:latest".into(), up_to_date: false }.line();
        assert_eq!(done.status, "Status: Downloaded newer image for debian:latest");
        let mounted = PushEvent::Layer { id: "abc".into(), state: UploadState::Mounted { from: "a/b".into() } }.line();
        assert_eq!(mounted.status, "Mounted from a/b");
    }
}
