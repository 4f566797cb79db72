//! What a sink has lost permanently: counted by its delivery, stored by the caller of the engine. So no restart and no
//! edit of the sinks file resets it.

use std::collections::VecDeque;
use std::io;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::status::RefusedRecord;

/// Refused records that a status lists. Chosen: enough to see what they have in common.
pub const REFUSED_KEPT_MAX: usize = 20;

/// The counters of one sink since its first start, or since they were reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// Start of the counting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_since: Option<Timestamp>,
    /// Lines older than `retry.max_age` when they were to be sent.
    #[serde(default)]
    pub dropped_lines: u64,
    /// Text bytes of these lines.
    #[serde(default)]
    pub dropped_bytes: u64,
    /// Records that the receiver permanently refused.
    #[serde(default)]
    pub refused_records: u64,
    /// The latest of them, at most [`REFUSED_KEPT_MAX`].
    #[serde(default)]
    pub refused: VecDeque<RefusedRecord>,
}

impl Losses {
    /// Counters that start now.
    pub fn new(now: Timestamp) -> Losses {
        Losses { counted_since: Some(now), ..Losses::default() }
    }

    /// Counts the record and keeps it. Returns false for a record already counted: its batch was sent twice.
    pub(crate) fn note_refused(&mut self, record: &RefusedRecord) -> bool {
        if self.refused.iter().any(|known| known.is_same(record)) {
            return false;
        }
        self.refused_records += 1;
        self.refused.push_back(record.clone());
        if self.refused.len() > REFUSED_KEPT_MAX {
            self.refused.pop_front();
        }
        true
    }
}

/// Stores the counters of one sink. Called by the sink's task, at most once per commit of cursors and only after a
/// change, and before the cursors pass what was lost: after a crash a loss can be counted twice, but is never missing.
pub trait LossStore: Send {
    /// Replaces the stored counters, whole or not at all.
    ///
    /// # Errors
    /// They cannot be written. The next commit retries.
    fn store(&mut self, losses: &Losses) -> io::Result<()>;
}
