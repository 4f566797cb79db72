//! The runs of this machine without a server: those of `sexton exec`, read from the run directories of a state
//! directory. Used by `runs` and `show` when no `up` answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use domain::event::{Body, Event, OutputEnd};
use domain::run::{Outcome, OutputCounts, Run, RunId, State};
use jiff::Timestamp;
use keeper::directory::{RunDirectory, read_json};
use keeper::records::{Accepted, Started};
use runner::KEPT_FOLDER;
use runner::exec::EXEC_FOLDER;

use crate::client::ServerArguments;
use crate::failure::Failure;

/// Which runs are listed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) run_id: Option<RunId>,
    pub(crate) group: Option<String>,
    pub(crate) job: Option<String>,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
}

impl Filter {
    fn matches(&self, run: &Run) -> bool {
        self.run_id.as_ref().is_none_or(|run_id| run.run_id == *run_id)
            && self.group.as_ref().is_none_or(|group| run.group == *group)
            && self.job.as_ref().is_none_or(|job| run.job == *job)
            && self.outcome.is_none_or(|outcome| run.outcome == Some(outcome))
            && self.since.is_none_or(|since| run.nominal >= since)
            && self.until.is_none_or(|until| run.nominal < until)
    }
}

/// The folders that hold run directories, below a runner's directory: those of a runner, and of each call of `exec`.
pub(crate) fn run_folders(runner_folder: &Path) -> Vec<PathBuf> {
    let calls = [EXEC_FOLDER, KEPT_FOLDER].into_iter().flat_map(|folder| {
        let entries = std::fs::read_dir(runner_folder.join(folder)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().join("runs")).collect::<Vec<_>>()
    });
    [runner_folder.join("runs")].into_iter().chain(calls).collect()
}

/// The runs on this machine, newest first. `no_server` is why no server is used.
///
/// # Errors
/// Returns `no_server` when the arguments name another installation, or there is no run. When the configuration is
/// faulty, or no state directory is known.
pub(crate) fn list(
    server: &ServerArguments,
    filter: &Filter,
    limit: u64,
    no_server: Failure,
) -> Result<Vec<Run>, Failure> {
    let configuration = server.configuration()?;
    if server.server.is_some() || server.on_aws(&configuration).is_some() {
        return Err(no_server);
    }
    let state = server.state(&configuration)?;
    // Twice, because a sender may move a run during the first pass to a folder that was already read.
    let passes = (0..2).flat_map(|_| read_runs(&state.runner_folder()));
    let known: BTreeMap<(RunId, u32), Run> = passes.map(|run| ((run.run_id.clone(), run.attempt), run)).collect();
    let mut runs: Vec<Run> = known.into_values().filter(|run| filter.matches(run)).collect();
    // Several calls can have the same nominal second.
    runs.sort_by_key(|run| std::cmp::Reverse((run.nominal, run.claimed_at, run.attempt)));
    runs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    if runs.is_empty() {
        return Err(no_server);
    }
    if state.read_server_file().is_some() {
        // A server should answer: these may not be all runs.
        no_server.print();
    }
    Ok(runs)
}

fn read_runs(runner_folder: &Path) -> Vec<Run> {
    let folders = run_folders(runner_folder);
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    entries
        .filter(|entry| entry.file_name().to_str().and_then(RunDirectory::parse_name).is_some())
        .filter_map(|entry| read_run(&RunDirectory::open(entry.path())))
        .collect()
}

/// The run of a directory; none where it cannot be read.
fn read_run(directory: &RunDirectory) -> Option<Run> {
    let accepted = Accepted::read(directory).ok()??;
    let order = &accepted.order;
    let mut run = Run::new(order.run_id.clone(), &order.key(), order.nominal, order.trigger, order.issued_at);
    (run.attempt, run.claimed_at, run.state) = (order.attempt, Some(accepted.accepted_at), State::Claimed);
    if let Ok(Some(started)) = read_json::<Started>(&directory.started()) {
        (run.started_at, run.state) = (Some(started.started_at), State::Running);
    }
    let event = read_json::<Event>(&directory.finished()).ok().flatten();
    let Some(Event { body: Body::Finished(report), runner, host, .. }) = event else { return Some(run) };
    (run.state, run.outcome, run.reason) = (State::Finished, Some(report.outcome), Some(report.reason));
    (run.exit_code, run.signal, run.finished_at) = (report.exit_code, report.signal, Some(report.finished_at));
    (run.runner, run.host, run.duration_ms) = (Some(runner), Some(host), Some(report.duration_ms));
    (run.cpu_ms, run.max_rss_bytes, run.leaked) = (report.cpu_ms, report.max_rss_bytes, report.leaked);
    run.packs = report.pack_digests.into_keys().collect();
    (run.rules, run.excerpt, run.output_open) = (report.rules, report.excerpt, report.output_open);
    set_output(&mut run, report.output);
    if let Ok(Some(end)) = read_json::<OutputEnd>(&directory.output_end()) {
        (run.output_open, run.output_ended_at, run.late_lines) = (false, Some(end.ended_at), end.late_lines);
        set_output(&mut run, end.output);
    }
    Some(run)
}

fn set_output(run: &mut Run, output: OutputCounts) {
    (run.stdout_lines, run.stderr_lines) = (output.stdout_lines, output.stderr_lines);
    (run.stdout_bytes, run.stderr_bytes) = (output.stdout_bytes, output.stderr_bytes);
    (run.last_seq, run.dropped_lines) = (output.last_seq, output.dropped_lines);
}
