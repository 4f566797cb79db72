//! What a state directory knows of its sinks beyond the sinks file, in `sinks/`: the names it has had, the ended runs
//! that a new sink does not get, removals, and the counters of lost lines. Written when a sink appears, changes its
//! `when` or is removed; the counters when they change. Never written by `exec`, whose directory is removed at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use domain::run::AttemptKey;
use jiff::Timestamp;
use keeper::directory::{Durability, RunDirectory, read_json, write_json};
use keeper::records::Exit;
use serde::{Deserialize, Serialize};
use sinks::config::{Filter, SinkConfig, StartFrom};
use sinks::losses::{LossStore, Losses};

use crate::feed::{CURSOR_EXTENSION, file_stem};
use crate::local_run::{LocalRun, lock};

/// Folder of the records, below the state directory of a runner.
const FOLDER: &str = "sinks";
/// Ends of the names of a sink's two files.
const RECORD_END: &str = ".json";
const LOSSES_END: &str = ".losses.json";

/// The ended runs that a sink does not get.
pub(crate) type SkippedRuns = Arc<BTreeSet<AttemptKey>>;

/// A stored sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SinkRecord {
    pub name: String,
    /// The runs that it gets.
    #[serde(default)]
    pub when: Filter,
    /// Names of the directories of the runs that had ended when it first appeared, and that it does not get.
    #[serde(default)]
    pub skipped: BTreeSet<String>,
    /// Absent while the sink is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<Removal>,
}

impl SinkRecord {
    /// The runs that it does not get.
    pub(crate) fn skipped_runs(&self) -> SkippedRuns {
        Arc::new(self.skipped.iter().filter_map(|name| RunDirectory::parse_name(name)).collect())
    }
}

/// The end of a sink that is no longer configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Removal {
    pub at: Timestamp,
    /// Lines that it lacked then.
    pub lines: u64,
    /// Runs with such lines.
    pub runs: u64,
    /// These lines are no longer kept, or an operator has given them up.
    #[serde(default)]
    pub is_over: bool,
}

/// The records of one state directory.
pub(crate) struct SinkRecords {
    /// None: nothing is stored and every run is due to every sink.
    folder: Option<PathBuf>,
    runs_folder: PathBuf,
    records: Mutex<BTreeMap<String, SinkRecord>>,
    /// Names of an older build's sinks file, which stored no records.
    known_before: BTreeSet<String>,
}

/// What a sink continues with.
pub(crate) struct SinkHistory {
    pub skipped: SkippedRuns,
    pub losses: Losses,
    pub store: Option<Box<dyn LossStore>>,
}

impl SinkRecords {
    /// Records of a process that stores none.
    pub(crate) fn none() -> SinkRecords {
        SinkRecords {
            folder: None,
            runs_folder: PathBuf::new(),
            records: Mutex::default(),
            known_before: BTreeSet::new(),
        }
    }

    /// Reads the records below a state directory. Of an older build's directory, which has none, `known_before` are the
    /// sinks.
    ///
    /// # Errors
    /// When the folder cannot be created or read. A damaged record counts as that of a sink without skipped runs: lines
    /// that are sent again are better than lost ones.
    pub(crate) fn open(state: &Path, known_before: BTreeSet<String>) -> io::Result<SinkRecords> {
        let folder = state.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let names = stored_names(&folder)?;
        let known_before = if names.is_empty() { known_before } else { BTreeSet::new() };
        let mut records = BTreeMap::new();
        for name in names {
            let record = read_json::<SinkRecord>(&folder.join(format!("{name}{RECORD_END}"))).unwrap_or_else(|error| {
                tracing::warn!(%error, sink = name, "the record of a sink is damaged; the sink gets all kept output");
                None
            });
            let record = record.unwrap_or_else(|| SinkRecord { name: name.clone(), ..SinkRecord::default() });
            records.insert(record.name.clone(), record);
        }
        Ok(SinkRecords {
            folder: Some(folder),
            runs_folder: state.join("runs"),
            records: Mutex::new(records),
            known_before,
        })
    }

    /// Records that these sinks are configured, and returns what each continues with. A name without a record, or one
    /// whose earlier output is no longer kept, is a new sink. Blocking.
    pub(crate) fn introduce(&self, configs: &[SinkConfig]) -> Vec<SinkHistory> {
        let mut kept = None;
        configs.iter().map(|config| self.introduce_one(config, &mut kept)).collect()
    }

    fn introduce_one(&self, config: &SinkConfig, kept: &mut Option<KeptRuns>) -> SinkHistory {
        let Some(folder) = &self.folder else {
            return SinkHistory { skipped: SkippedRuns::default(), losses: Losses::default(), store: None };
        };
        let mut kept = || kept.get_or_insert_with(|| KeptRuns::read(&self.runs_folder)).clone();
        let stored = lock(&self.records).get(&config.name).cloned();
        let known = match &stored {
            Some(SinkRecord { removal: None, .. }) => true,
            Some(SinkRecord { removal: Some(removal), .. }) => kept().has_run_until(removal.at),
            None => self.known_before.contains(&config.name) || kept().has_cursor_of(&config.name),
        };
        let losses_path = folder.join(format!("{}{LOSSES_END}", file_stem(&config.name)));
        let mut record = match stored.clone() {
            Some(record) if known => record,
            _ => SinkRecord { name: config.name.clone(), ..SinkRecord::default() },
        };
        if !known {
            if config.start == StartFrom::Now {
                record.skipped = kept().ended.clone();
            }
            let removed = fs::remove_file(&losses_path);
            removed.unwrap_or_else(|error| log_unless_missing(&error, &losses_path));
        }
        (record.when, record.removal) = (config.when.clone(), None);
        if !record.skipped.is_empty() && stored.is_some() {
            record.skipped.retain(|name| self.runs_folder.join(name).exists());
        }
        if stored.as_ref() != Some(&record) {
            self.store(record.clone());
        }
        let (losses, store) = open_losses(losses_path);
        SinkHistory { skipped: record.skipped_runs(), losses, store: Some(store) }
    }

    /// Keeps the record, in memory also when it cannot be written.
    pub(crate) fn store(&self, record: SinkRecord) {
        let mut records = lock(&self.records);
        self.write(&record);
        records.insert(record.name.clone(), record);
    }

    fn write(&self, record: &SinkRecord) {
        let Some(folder) = &self.folder else { return };
        let path = folder.join(format!("{}{RECORD_END}", file_stem(&record.name)));
        if let Err(error) = write_json(&path, record, Durability::Disk) {
            tracing::error!(%error, sink = record.name, "cannot store the record of a sink");
        }
    }

    /// The record of a name.
    pub(crate) fn get(&self, name: &str) -> Option<SinkRecord> {
        lock(&self.records).get(name).cloned()
    }

    /// All records, by name.
    pub(crate) fn list(&self) -> Vec<SinkRecord> {
        lock(&self.records).values().cloned().collect()
    }

    /// Whether this process stores records: a runner, not the sender of an `exec`.
    pub(crate) fn are_stored(&self) -> bool {
        self.folder.is_some()
    }

    /// Adds a run of `exec` to what a removed sink lacks. A new record names the runs that are here: the sink, added
    /// again, gets only the others. `is_counted`: an earlier call has added the run. Blocking.
    pub(crate) fn add_undelivered(&self, sink: &str, run: &LocalRun, lines: u64, is_counted: bool) {
        let directory = run.directory.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stored = self.get(sink);
        let record = match stored {
            // It is configured for the runner of this directory, which counts for itself.
            Some(SinkRecord { removal: None, .. }) => return,
            Some(SinkRecord { removal: Some(removal), .. }) if is_counted && (removal.is_over || removal.lines > 0) => {
                return;
            }
            Some(SinkRecord { removal: Some(removal), mut skipped, .. }) if removal.lines > 0 && !removal.is_over => {
                skipped.remove(&directory);
                let at = removal.at.max(run.accepted.accepted_at);
                let removal = Removal { at, lines: removal.lines + lines, runs: removal.runs + 1, is_over: false };
                SinkRecord { name: sink.to_owned(), when: Filter::default(), skipped, removal: Some(removal) }
            }
            Some(_) | None => {
                let mut skipped = run_names(&self.runs_folder);
                skipped.remove(&directory);
                let removal = Removal { at: Timestamp::now(), lines, runs: 1, is_over: false };
                SinkRecord { name: sink.to_owned(), when: Filter::default(), skipped, removal: Some(removal) }
            }
        };
        self.store(record);
    }

    /// Sets the counters of a removed sink to 0. Returns those before.
    pub(crate) fn reset_losses(&self, name: &str) -> io::Result<Losses> {
        match &self.folder {
            Some(folder) => reset_file(&folder.join(format!("{}{LOSSES_END}", file_stem(name)))),
            None => Ok(Losses::default()),
        }
    }

    /// Deletes the records of removed sinks that no kept run was due to.
    pub(crate) fn forget_old(&self) {
        let Some(folder) = &self.folder else { return };
        let removed: Vec<SinkRecord> = self.list().into_iter().filter(|record| record.removal.is_some()).collect();
        if removed.is_empty() {
            return;
        }
        let kept = KeptRuns::read(&self.runs_folder);
        for SinkRecord { name, removal, .. } in removed {
            let is_bad = |removal: &Removal| removal.lines > 0 && !removal.is_over;
            if removal.is_none_or(|removal| is_bad(&removal) || kept.has_run_until(removal.at)) {
                continue;
            }
            for end in [RECORD_END, LOSSES_END] {
                let path = folder.join(format!("{}{end}", file_stem(&name)));
                fs::remove_file(&path).unwrap_or_else(|error| log_unless_missing(&error, &path));
            }
            lock(&self.records).remove(&name);
        }
    }
}

/// Whether the alert about a removed sink has ended. Reads only. `state` is the runner's own directory.
pub(crate) fn is_removal_over(state: &Path, sink: &str) -> bool {
    let record = read_json::<SinkRecord>(&state.join(FOLDER).join(format!("{}{RECORD_END}", file_stem(sink))));
    record.ok().flatten().and_then(|record| record.removal).is_some_and(|removal| removal.is_over)
}

/// The stems of the records in the folder.
fn stored_names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let stem = name.strip_suffix(RECORD_END).filter(|_| !name.ends_with(LOSSES_END) && !name.starts_with('.'));
        names.extend(stem.map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn log_unless_missing(error: &io::Error, path: &Path) {
    if error.kind() != io::ErrorKind::NotFound {
        tracing::error!(%error, path = %path.display(), "cannot delete the file of a removed sink");
    }
}

/// Resets the stored counters of one sink, or of all, in a state directory that no runner uses. Returns each name with
/// the counters before. `state` is the runner's own directory.
///
/// # Errors
/// [`ResetError`]
pub fn reset_stored_losses(state: &Path, name: Option<&str>) -> Result<Vec<(String, Losses)>, ResetError> {
    let records = SinkRecords::open(state, BTreeSet::new()).map_err(ResetError::Io)?;
    let known: Vec<String> = records.list().into_iter().map(|record| record.name).collect();
    let chosen: Vec<String> = known.iter().filter(|known| name.is_none_or(|name| name == *known)).cloned().collect();
    if let Some(name) = name
        && chosen.is_empty()
    {
        return Err(ResetError::Unknown { name: name.to_owned(), known });
    }
    chosen.into_iter().map(|name| reset_one(&records, name).map_err(ResetError::Io)).collect()
}

fn reset_one(records: &SinkRecords, name: String) -> io::Result<(String, Losses)> {
    let before = records.reset_losses(&name)?;
    records.end_removal(&name);
    Ok((name, before))
}

impl SinkRecords {
    /// Ends the alert about a removed sink, if there is one: an operator has seen it, or the lines are no longer kept.
    pub(crate) fn end_removal(&self, name: &str) {
        let mut records = lock(&self.records);
        if let Some(record) = records.get_mut(name)
            && let Some(removal) = &mut record.removal
            && removal.lines > 0
            && !removal.is_over
        {
            removal.is_over = true;
            self.write(record);
        }
    }
}

/// Why no counters were reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// No sink of the directory has this name.
    #[error("no sink `{name}`; known sinks: {}", known_text(known))]
    Unknown {
        /// As it was given.
        name: String,
        /// All names that are known.
        known: Vec<String>,
    },
    /// The counters cannot be stored.
    #[error("cannot store the counters: {0}")]
    Io(io::Error),
}

fn known_text(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

/// The counters of one sink on disk. Not synced: they survive the death of processes, as cursors do.
struct LossFile(PathBuf);

impl LossStore for LossFile {
    fn store(&mut self, losses: &Losses) -> io::Result<()> {
        write_json(&self.0, losses, Durability::Cache)
    }
}

fn open_losses(path: PathBuf) -> (Losses, Box<dyn LossStore>) {
    let stored = read_json::<Losses>(&path).unwrap_or_else(|error| {
        tracing::warn!(%error, "the counters of a sink are damaged; counting from 0");
        None
    });
    let mut store = LossFile(path);
    let losses = stored.unwrap_or_else(|| {
        let losses = Losses::new(Timestamp::now());
        if let Err(error) = store.store(&losses) {
            tracing::warn!(%error, "cannot store the counters of a sink; retrying after its first loss");
        }
        losses
    });
    (losses, Box::new(store))
}

fn reset_file(path: &Path) -> io::Result<Losses> {
    let before = read_json::<Losses>(path).ok().flatten().unwrap_or_default();
    write_json(path, &Losses::new(Timestamp::now()), Durability::Cache)?;
    Ok(before)
}

/// Names of all run directories.
fn run_names(runs_folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(runs_folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| RunDirectory::parse_name(name).is_some()).collect()
}

/// The runs on disk, as a new sink sees them.
#[derive(Clone, Default)]
struct KeptRuns {
    /// Stems of all cursors of sinks.
    cursors: BTreeSet<String>,
    /// Directories of runs that have ended, and their output too.
    ended: BTreeSet<String>,
    /// Name of the oldest run's directory, which begins with its nominal time.
    oldest: Option<String>,
}

impl KeptRuns {
    /// A directory that cannot be read counts as a run that has not ended.
    fn read(runs_folder: &Path) -> KeptRuns {
        let mut kept = KeptRuns::default();
        for entry in fs::read_dir(runs_folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if RunDirectory::parse_name(&name).is_none() {
                continue;
            }
            let run = RunDirectory::open(entry.path());
            for cursor in fs::read_dir(run.cursors()).into_iter().flatten().flatten() {
                let file = cursor.file_name().to_string_lossy().into_owned();
                kept.cursors.extend(file.strip_suffix(CURSOR_EXTENSION).map(str::to_owned));
            }
            if has_ended(&run) {
                kept.ended.insert(name.clone());
            }
            if kept.oldest.as_ref().is_none_or(|oldest| name < *oldest) {
                kept.oldest = Some(name);
            }
        }
        kept
    }

    fn has_cursor_of(&self, sink: &str) -> bool {
        self.cursors.contains(&file_stem(sink))
    }

    fn has_run_until(&self, at: Timestamp) -> bool {
        let until = at.strftime("%Y%m%dT%H%M%SZ").to_string();
        self.oldest.as_ref().and_then(|name| name.get(..until.len())).is_some_and(|oldest| oldest <= &*until)
    }
}

/// Whether the run was judged and no process has its output open.
fn has_ended(run: &RunDirectory) -> bool {
    let is_output_open = || {
        let exit = read_json::<Exit>(&run.exit()).ok().flatten();
        exit.is_some_and(|exit| exit.output_open) && !run.output_end().exists()
    };
    run.finished().exists() && !is_output_open()
}
