//! Sinks that are no longer configured while they lack lines: counts and records what they lack, for an alert. Never
//! delivers and never deletes output.

use std::io;

use domain::line::{Position, Stage};
use jiff::Timestamp;
use keeper::directory::RunDirectory;
use keeper::records::Accepted;
use keeper::spool::{SpoolReader, segments};
use sinks::config::{Filter, SinkConfig};

use crate::due_sinks::{DueSinks, is_lacked_by_calls};
use crate::feed::{lag_after, read_cursor};
use crate::local_run::{LocalRun, lock};
use crate::runner_state::RunnerState;
use crate::sink_records::{Removal, SinkRecord, SkippedRuns};

/// Bytes per read while the records of a segment are counted.
const BLOCK_BYTES: usize = 256 << 10;

/// A sink that was removed from the sinks file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedSink {
    /// Its name in the sinks file.
    pub name: String,
    /// When the removal was noticed.
    pub at: Timestamp,
    /// Lines that it lacked then; 0 when every line was delivered.
    pub lines: u64,
    /// Runs with such lines.
    pub runs: u64,
    /// These lines are no longer kept, or an operator has given them up.
    pub is_over: bool,
}

/// The sinks that are recorded as removed.
pub(crate) fn list_removed(shared: &RunnerState) -> Vec<RemovedSink> {
    let removed = |record: SinkRecord| {
        let Removal { at, lines, runs, is_over } = record.removal?;
        Some(RemovedSink { name: record.name, at, lines, runs, is_over })
    };
    shared.sinks.records.list().into_iter().filter_map(removed).collect()
}

/// Records that a sink was removed, with the lines that it lacks. Its engine has ended. Blocking.
pub(crate) fn record_removal(shared: &RunnerState, config: &SinkConfig, skipped: &SkippedRuns) {
    let Some(record) = shared.sinks.records.get(&config.name) else { return };
    record_as_removed(shared, SinkRecord { when: config.when.clone(), ..record }, skipped);
}

fn record_as_removed(shared: &RunnerState, record: SinkRecord, skipped: &SkippedRuns) {
    let (lines, runs) = count_undelivered(shared, &record.name, &record.when, skipped, Timestamp::MAX);
    if lines > 0 {
        tracing::warn!(
            sink = record.name,
            lines,
            runs,
            "the sink was removed before it had every line; they are delivered if it is added again"
        );
    } else {
        tracing::info!(sink = record.name, "the sink was removed; it had every line");
    }
    let removal = Removal { at: Timestamp::now(), lines, runs, is_over: false };
    shared.sinks.records.store(SinkRecord { removal: Some(removal), ..record });
}

/// Records the sinks that were removed while no runner was running. Called once, when all runs are known. Blocking.
pub(crate) fn record_earlier_removals(shared: &RunnerState) {
    let _editing = shared.sinks.lock_editing();
    let records = &shared.sinks.records;
    if shared.options.has_all_sinks {
        let names = shared.sinks.names();
        for record in records.list().into_iter().filter(|record| !names.contains(&record.name)) {
            if record.removal.is_none() {
                let skipped = record.skipped_runs();
                record_as_removed(shared, record, &skipped);
            }
        }
    }
    end_old_removals(shared);
    records.forget_old();
}

/// Ends the alerts about removed sinks whose lines are no longer kept. Blocking, idempotent.
pub(crate) fn end_old_removals(shared: &RunnerState) {
    for record in shared.sinks.records.list() {
        if let Some(removal) = record.removal.filter(|removal| removal.lines > 0 && !removal.is_over)
            && count_undelivered(shared, &record.name, &record.when, &record.skipped_runs(), removal.at).0 == 0
            && !is_lacked_by_calls(&shared.options.state, &record.name)
        {
            shared.sinks.records.end_removal(&record.name);
        }
    }
}

/// The lines that a sink lacks of the runs that were accepted until `until`, and the number of these runs.
fn count_undelivered(
    shared: &RunnerState,
    sink: &str,
    when: &Filter,
    skipped: &SkippedRuns,
    until: Timestamp,
) -> (u64, u64) {
    let runs: Vec<_> = lock(&shared.runs).values().cloned().collect();
    let due = runs.iter().filter(|run| {
        let job = run.job();
        let is_due = when.wants_job(&job.group, &job.name) && !skipped.contains(&run.key()) && run.is_due_to(sink);
        run.accepted.accepted_at <= until && is_due
    });
    let lines = |run: &LocalRun| undelivered_lines(run, read_cursor(run, sink).unwrap_or(Position::START));
    let lacked = due.map(|run| lines(run)).filter(|lines| *lines > 0);
    lacked.fold((0, 0), |(lines, runs), more| (lines + more, runs + 1))
}

/// Records which removed sinks lack lines of an `exec`, before its run is moved here. Idempotent.
pub(crate) async fn record_undelivered(
    shared: &RunnerState,
    directory: &RunDirectory,
    due: &mut DueSinks,
) -> io::Result<()> {
    let Some(accepted) = Accepted::read(directory)? else { return Ok(()) };
    let run = LocalRun::new(directory.clone(), accepted);
    let _editing = shared.sinks.wait_for_edits().await;
    let here = shared.sinks.names();
    for (name, lines) in lacked_lines(&run, due.names.difference(&here)) {
        shared.sinks.records.add_undelivered(&name, &run, lines, due.recorded.contains(&name));
        due.recorded.insert(name);
    }
    Ok(())
}

/// The sinks among these that lack lines of a run, with the number of the lines.
pub(crate) fn lacked_lines<'n>(run: &LocalRun, names: impl Iterator<Item = &'n String>) -> Vec<(String, u64)> {
    let lines = |name: &String| undelivered_lines(run, read_cursor(run, name).unwrap_or(Position::START));
    names.map(|name| (name.clone(), lines(name))).filter(|(_, lines)| *lines > 0).collect()
}

/// The lines of a run after this position.
pub(crate) fn undelivered_lines(run: &LocalRun, from: Position) -> u64 {
    if from.stage == Stage::Done {
        return 0;
    }
    let known = lag_after(run, from).lines;
    if run.is_over() { known } else { known.max((last_seq_on_disk(run) + 1).saturating_sub(from.seq)) }
}

/// The seq of the last whole record of a run that may still print.
fn last_seq_on_disk(run: &LocalRun) -> u64 {
    let folder = run.directory.spool();
    let Some(first_seq) = segments(&folder).unwrap_or_default().pop() else { return 0 };
    let start = Position { seq: first_seq, segment: first_seq, offset: 0, stage: Stage::Lines };
    let mut reader = SpoolReader::open(folder, start);
    while let Ok(Some(_)) = reader.read(BLOCK_BYTES) {}
    reader.position().seq - 1
}
