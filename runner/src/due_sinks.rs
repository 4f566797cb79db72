//! The sinks that the output of an `exec` is due to, stored in its run directory by its sender. A process that delivers
//! later recognises the sinks that were removed or renamed since. Never decides which process delivers (`adopt`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use keeper::directory::{Durability, RunDirectory, read_json, write_json};
use serde::{Deserialize, Serialize};

use crate::exec::EXEC_FOLDER;
use crate::kept::KEPT_FOLDER;

/// Name of the file.
const FILE: &str = "due-sinks.json";

/// File of a call with the names of its sinks. Older builds stored nothing else.
pub(crate) const NAMES_FILE: &str = "sinks.json";

/// The sinks of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DueSinks {
    /// Key of the sinks file. None for a call of an older build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The sinks file; None for the default sink, and for a call of an older build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// When the file was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_at: Option<Timestamp>,
    /// A fault of the file has left none out.
    #[serde(default)]
    pub is_complete: bool,
    /// Names of the sinks that want the job.
    #[serde(default)]
    pub names: BTreeSet<String>,
    /// Names of removed sinks whose record counts the lines of this run.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub recorded: BTreeSet<String>,
}

impl DueSinks {
    /// Reads the file; None where there is none.
    pub(crate) fn read(run: &RunDirectory) -> io::Result<Option<DueSinks>> {
        read_json(&run.file(FILE))
    }

    /// The sinks of a run of the call with this directory, also of an older build's call.
    pub(crate) fn of_call(call: &Path, run: &RunDirectory) -> io::Result<DueSinks> {
        if let Ok(Some(due)) = DueSinks::read(run) {
            return Ok(due);
        }
        let names = read_json(&call.join(NAMES_FILE))?.unwrap_or_default();
        Ok(DueSinks { names, ..DueSinks::default() })
    }

    pub(crate) fn write(&self, run: &RunDirectory) -> io::Result<()> {
        write_json(&run.file(FILE), self, Durability::Cache)
    }

    /// The only sinks that the run is due to for a process with this sinks file; None: every sink.
    pub(crate) fn limit_for(self, key: Option<&String>) -> Option<BTreeSet<String>> {
        let is_same = self.source.is_some() && self.source.as_ref() == key;
        (is_same && self.is_complete).then_some(self.names)
    }
}

/// Whether a call below the runner's directory lacks lines of this removed sink, as its record counts them.
pub(crate) fn is_lacked_by_calls(runner_folder: &Path, sink: &str) -> bool {
    let calls = [EXEC_FOLDER, KEPT_FOLDER].map(|folder| runner_folder.join(folder));
    let entries = calls.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let runs = entries.flat_map(|call| fs::read_dir(call.path().join("runs")).into_iter().flatten().flatten());
    runs.map(|run| RunDirectory::open(run.path()))
        .any(|run| DueSinks::read(&run).ok().flatten().is_some_and(|due| due.recorded.contains(sink)))
}
