//! A ledger that was restored from a copy: what it lacks, and the traces that a machine has of it. Written by `sexton
//! restore`, settled by `services` at the next start of `sexton up`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::job::JobKey;
use crate::run::{RunId, Trigger};

/// Name of the setting that holds a [`RestoredLedger`].
pub const RESTORED: &str = "restored";

/// The gap of a restored ledger: it knows nothing of what happened between copy and restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredLedger {
    /// The instant of the copy.
    pub copied_at: Timestamp,
    /// When it was restored.
    pub restored_at: Timestamp,
    /// Whether the runs of the gap have been recorded.
    #[serde(default)]
    pub settled: bool,
}

impl RestoredLedger {
    /// The reason of a run of the gap that left no trace.
    pub fn reason(&self) -> String {
        format!("restored from a copy of {}", self.copied_at.strftime("%Y-%m-%dT%H:%M:%SZ"))
    }
}

/// An attempt that has a directory on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptTrace {
    /// The run.
    pub run_id: RunId,
    /// From 1.
    pub attempt: u32,
    /// Its job.
    pub key: JobKey,
    /// Nominal time of the run.
    pub nominal: Timestamp,
    /// Cause of the attempt.
    pub trigger: Trigger,
    /// When the runner stored the order.
    pub accepted_at: Timestamp,
    /// Whether the attempt has ended.
    pub has_ended: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_ledger_keeps_its_json_and_names_its_copy() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let restored = RestoredLedger { copied_at: at(1), restored_at: at(2), settled: true };
        let json = r#"{"copied_at":"1970-01-01T00:00:01Z","restored_at":"1970-01-01T00:00:02Z","settled":true}"#;
        assert_eq!(serde_json::to_string(&restored).unwrap(), json);
        assert_eq!(serde_json::from_str::<RestoredLedger>(json).unwrap(), restored);
        assert_eq!(restored.reason(), "restored from a copy of 1970-01-01T00:00:01Z");
    }
}
