//! Deletes old run directories, and the oldest segments of a long run. Never before every sink has them and the report
//! is in the outbox.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use domain::line::{Position, Stage};
use jiff::Timestamp;
use keeper::spool::{segment_name, segments};

use crate::adopt::{adopt_abandoned, adopt_kept};
use crate::exec::EXEC_FOLDER;
use crate::feed::read_cursor;
use crate::local_run::{LocalRun, lock};
use crate::mailing::needs_mail;
use crate::removed_sinks::end_old_removals;
use crate::runner_state::RunnerState;
use crate::scan;

/// Prefix of directories that are being deleted, so that half a directory never looks like a run.
pub(crate) const REMOVED_PREFIX: &str = ".removed-";

/// Delivered runs that are kept on a full disk without any space for starts. Chosen: the last few for `sexton logs`.
const FULL_DISK_RUNS: usize = 10;

/// Time between two sweeps. Chosen, not measured.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// How much delivered output is kept for `sexton logs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// After the end of the run and of its output.
    pub age: Duration,
    /// Number of finished runs.
    pub runs: usize,
    /// Bytes of all finished runs together.
    pub bytes: u64,
    /// Bytes of one running run. Beyond it, segments that every reader has passed are deleted.
    pub run_bytes: u64,
}

impl Default for Retention {
    /// Chosen: a long weekend; two days of a job that runs every minute (each kept run costs the runner about 3 KB of
    /// memory); small disks.
    fn default() -> Retention {
        Retention { age: Duration::from_secs(3 * 86_400), runs: 3_000, bytes: 4 << 30, run_bytes: 4 << 30 }
    }
}

/// Sweeps periodically, and takes over the runs that killed `exec`s left. Never returns.
pub(crate) async fn sweep_periodically(shared: Arc<RunnerState>) {
    let mut logged = BTreeSet::new();
    loop {
        let filled = tokio::task::spawn_blocking({
            let shared = shared.clone();
            move || shared.start_reserve.fill()
        });
        if let Err(error) = filled.await {
            tracing::error!(%error, "allocating space for starts failed, retrying");
        }
        adopt_abandoned(&shared, &shared.options.state.join(EXEC_FOLDER), &mut logged).await;
        adopt_kept(&shared, &mut logged).await;
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let task_state = shared.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || sweep(&task_state, Timestamp::now())).await {
            tracing::error!(%error, "sweeping old runs failed, retrying");
        }
    }
}

/// Deletes what retention no longer keeps. Blocking, idempotent.
pub(crate) fn sweep(shared: &RunnerState, now: Timestamp) {
    let retention = shared.options.retention;
    let runs: Vec<Arc<LocalRun>> = lock(&shared.runs).values().cloned().collect();
    let (mut ended, running): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| run.is_over());
    running.iter().for_each(|run| free_segments(shared, run, retention.run_bytes));
    ended.sort_by_key(|run| std::cmp::Reverse(run.over_at()));
    let mut bytes = 0;
    let is_full = shared.start_reserve.is_exhausted();
    for (index, run) in ended.iter().enumerate() {
        let age = Duration::try_from(now.duration_since(run.over_at().unwrap_or(now))).unwrap_or_default();
        bytes += spool_bytes(run);
        // A full disk keeps the output of few runs: jobs that start need the space.
        let runs = if is_full { retention.runs.min(FULL_DISK_RUNS) } else { retention.runs };
        let kept = index < runs && bytes <= retention.bytes && age < retention.age;
        if !kept && is_delivered(shared, run) && !needs_mail(shared, run) {
            bytes -= spool_bytes(run);
            remove_run(shared, run);
        }
    }
    end_old_removals(shared);
}

/// Whether every reader but `sexton logs` is done with the directory.
fn is_delivered(shared: &RunnerState, run: &LocalRun) -> bool {
    run.header().is_some()
        && run.directory.end_reported().exists()
        && shared
            .sinks
            .readers(run)
            .iter()
            .all(|sink| read_cursor(run, sink).is_some_and(|place| place.stage == Stage::Done))
}

fn spool_bytes(run: &LocalRun) -> u64 {
    let folder = run.directory.spool();
    let sizes = segments(&folder).unwrap_or_default().into_iter().map(|first_seq| folder.join(segment_name(first_seq)));
    sizes.map(|path| fs::metadata(path).map_or(0, |file| file.len())).sum()
}

fn remove_run(shared: &RunnerState, run: &LocalRun) {
    let path = run.directory.path();
    let Some(name) = path.file_name() else { return };
    let removed = path.with_file_name(format!("{REMOVED_PREFIX}{}", name.to_string_lossy()));
    if let Err(error) = fs::rename(path, &removed) {
        tracing::error!(%error, run_id = %run.run_id(), "cannot delete an old run");
        return;
    }
    lock(&shared.runs).remove(&run.key());
    let (run_id, attempt) = run.key();
    shared.sinks.remove(&run_id, attempt);
    if let Ok(Some(started)) = keeper::directory::read_json::<keeper::records::Started>(&removed.join("started.json"))
        && let Some(group) = started.cgroup
    {
        keeper::remove_cgroup(group.as_ref());
    }
    if let Err(error) = fs::remove_dir_all(&removed) {
        tracing::error!(%error, run_id = %run.run_id(), "cannot delete an old run completely; the next start retries");
    }
}

/// Deletes the oldest segments of a running run that is too large, as far as every reader has passed them.
fn free_segments(shared: &RunnerState, run: &LocalRun, bytes_max: u64) {
    let mut bytes = spool_bytes(run);
    if run.header().is_none() || bytes <= bytes_max {
        return;
    }
    // The rules read nothing after the end of the run.
    let rules = run.finished().is_none().then(|| scan::stored_position(&run.directory));
    let sinks = shared.sinks.readers(run);
    let readers = sinks.iter().map(|sink| read_cursor(run, sink)).chain(rules);
    let Some(passed) = readers.map(|place| place.unwrap_or(Position::START).segment).min() else { return };
    let folder = run.directory.spool();
    for first_seq in segments(&folder).unwrap_or_default() {
        if first_seq >= passed || bytes <= bytes_max {
            return;
        }
        let path = folder.join(segment_name(first_seq));
        bytes -= fs::metadata(&path).map_or(0, |file| file.len());
        if let Err(error) = fs::remove_file(&path) {
            tracing::error!(%error, path = %path.display(), "cannot delete a delivered segment");
            return;
        }
        tracing::info!(run_id = %run.run_id(), first_seq, "delivered segment of a long run deleted");
    }
}

#[cfg(test)]
mod tests {
    use domain::job::{Command, Job, JobKey};
    use domain::order::Order;
    use domain::run::{RunId, Trigger};
    use jiff::SignedDuration;
    use keeper::directory::{RunDirectory, create_marker};
    use keeper::records::{Accepted, Exit};
    use keeper::spawn::KeeperCommand;
    use rules::Matcher;

    use super::*;
    use crate::excerpt::Excerpt;
    use crate::options::Options;
    use crate::report;
    use crate::sink_records::SinkRecords;

    fn accepted(at: Timestamp) -> Accepted {
        let job = Job::new(JobKey::new("g", "j"), "@manually", Command::Shell("true".into()));
        let order = Order {
            version: 1,
            run_id: RunId::unscheduled(at, [1; 6]),
            attempt: 1,
            nominal: at,
            trigger: Trigger::Manual,
            issued_at: at,
            not_before: None,
            start_by: None,
            job,
        };
        Accepted { order, accepted_at: at, boot_id: "b".into(), refused: None }
    }

    #[tokio::test]
    async fn retention_of_a_run_starts_at_the_end_of_its_output() {
        let folder = tempfile::tempdir().expect("folder");
        let shared = RunnerState::new(
            Options::new(folder.path(), "r", "h", KeeperCommand(Vec::new())),
            None,
            SinkRecords::none(),
        )
        .expect("a state directory");
        let at = Timestamp::UNIX_EPOCH;
        let after = |days: i64| at + SignedDuration::from_hours(24 * days);
        let accepted = accepted(at);
        let directory = RunDirectory::new(&shared.runs_folder, &accepted.order.run_id, 1);
        directory.create().expect("directory");
        create_marker(&directory.end_reported()).expect("marker");
        let exit = Exit { output_open: true, ..Exit::not_started("", at) };
        let report = report::new_report(&accepted, exit, &Matcher::new(rules::RuleSet::none()), &Excerpt::default());
        let run = Arc::new(LocalRun::new(directory.clone(), accepted));
        run.make_header("r", "h", None, at);
        run.set_finished(report::finished_record(&report));
        lock(&shared.runs).insert(run.key(), run.clone());
        sweep(&shared, after(100));
        assert!(directory.path().exists(), "its output is open");
        let end = domain::event::OutputEnd { ended_at: after(100), output: report.output, late_lines: 0, note: None };
        run.set_output_ended(report::output_ended_record(&end));
        sweep(&shared, after(102));
        assert!(directory.path().exists(), "the output ended 2 days ago");
        sweep(&shared, after(104));
        assert!(!directory.path().exists());
    }
}
