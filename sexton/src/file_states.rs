//! Whether each watched file is in use as it is. Written by the readers of files; read by the API, /metrics and the
//! alerts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use console::{SourceState, Sources};
use jiff::Timestamp;

/// What a file defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Jobs,
    Sinks,
    Rules,
}

impl FileKind {
    const fn name(self) -> &'static str {
        match self {
            FileKind::Jobs => "jobs",
            FileKind::Sinks => "sinks",
            FileKind::Rules => "rules",
        }
    }
}

/// The states of all watched files, by file. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct FileStates(Arc<Mutex<BTreeMap<String, SourceState>>>);

impl FileStates {
    /// What the file defines is in use (`Ok`), or not, for this reason.
    pub(crate) fn set(&self, kind: FileKind, source: &str, result: Result<(), String>) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = states.get(source).and_then(|state| state.since);
        let reason = result.err();
        let state = SourceState {
            source: source.to_owned(),
            kind: kind.name().to_owned(),
            in_sync: reason.is_none(),
            since: reason.is_some().then(|| since.unwrap_or_else(Timestamp::now)),
            reason,
        };
        states.insert(source.to_owned(), state);
    }

    /// The file is no longer watched.
    pub(crate) fn remove(&self, source: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(source);
    }

    /// For the API.
    pub(crate) fn sources(&self) -> Sources {
        let states = self.clone();
        Arc::new(move || states.list())
    }

    /// All states, by file.
    pub(crate) fn list(&self) -> Vec<SourceState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Faults as one reason: their number, what is in use instead, and the first of them.
pub(crate) fn reason(faults: &[String], instead: &str) -> String {
    let count = if faults.len() == 1 { "1 fault".to_owned() } else { format!("{} faults", faults.len()) };
    let first = faults.first().map_or("", String::as_str);
    let which = if faults.len() == 1 { "" } else { "the first: " };
    format!("{count}, {instead}; {which}{first}")
}
