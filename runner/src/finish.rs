//! The end of a run: matches the rest of the output, judges, reports, and closes the log of every sink.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use domain::event::{Body, Ended, Event};
use domain::line::{Position, Stream};
use domain::run::{Leaked, OutputCounts};
use jiff::Timestamp;
use keeper::crash;
use keeper::directory::{Durability, create_marker, write_json};
use keeper::leftovers::kill_leftovers;
use keeper::records::Exit;
use keeper::spool::{self, SpoolReader};

use crate::keeper_state::stored_report;
use crate::local_run::LocalRun;
use crate::mailing::start_mailing;
use crate::report;
use crate::reporting::{pass_start_to_sinks, queue_report};
use crate::runner_state::RunnerState;
use crate::scan::{Scan, match_new_output};

/// Retry interval of writes that the disk refuses. Chosen, not measured.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Turns an exit into a report and a closed log. Idempotent; a report that is already stored is sent unchanged.
pub(crate) async fn finish(shared: &Arc<RunnerState>, run: &Arc<LocalRun>, exit: Exit, scan: Option<Scan>) {
    match run.started() {
        // The report of the end has all facts of the start.
        Ok(Some(started)) if run.header().is_none() => pass_start_to_sinks(shared, run, &started),
        Ok(_) => {}
        Err(error) => tracing::error!(%error, run_id = %run.run_id(), "cannot read started.json"),
    }
    let at = exit.finished_at;
    if run.header().is_none() {
        run.make_header(&shared.options.runner, &shared.options.host, None, at);
        shared.sinks.add(run);
    }
    let event = match stored_report(run) {
        Some(event) => event,
        None => make_report(shared, run, exit, scan).await,
    };
    crash::point("judged");
    if let Body::Finished(report) = &event.body {
        run.set_finished(report::finished_record(report));
        shared.wake_readers(run);
        tracing::info!(
            run_id = %run.run_id(), job = %run.job().key(), outcome = report.outcome.name(),
            duration_ms = report.duration_ms, "{}", report.reason
        );
    }
    if !run.directory.end_reported().exists() {
        queue_report(shared, run, event).await;
        crash::point("outboxed");
        if let Err(error) = create_marker(&run.directory.end_reported()) {
            tracing::warn!(%error, run_id = %run.run_id(), "cannot mark the end as reported; it may be reported twice");
        }
        crash::point("told");
    }
    start_mailing(shared, run);
    shared.grown.notify_waiters();
}

/// Matches the rest of the output, judges, and stores the report.
async fn make_report(shared: &Arc<RunnerState>, run: &Arc<LocalRun>, exit: Exit, mut scan: Option<Scan>) -> Event {
    loop {
        while match_new_output(shared, run, &mut scan, Some(exit.output)).await {}
        match &scan {
            Some(scan) if scan.position().seq > exit.output.last_seq => break,
            // The lines that the disk refused, without a gap, are at the end: no more will come.
            Some(scan) if exit.output.dropped_lines > 0 && is_spool_read(run, scan, &exit.output) => break,
            _ => {}
        }
        if spool::segments(&run.directory.spool()).is_ok_and(|segments| segments.is_empty()) {
            tracing::error!(run_id = %run.run_id(), "spool deleted; the run is judged without its output");
            break;
        }
        tracing::error!(run_id = %run.run_id(), "spool shorter than recorded; reading it again");
        if scan.as_ref().is_some_and(|scan| is_spool_read(run, scan, &exit.output)) {
            break;
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
    let scan = scan.unwrap_or_else(|| Scan::open(&run.directory, shared.rules_of(run.job())));
    let at = exit.finished_at;
    let report = report::new_report(&run.accepted, exit, scan.matcher(), scan.excerpt());
    let header = run.make_header(&shared.options.runner, &shared.options.host, None, at);
    let event = report::new_event(header, at, Body::Finished(Box::new(report)));
    // Without the file, a restart makes the same report again; with it, the report cannot change.
    if let Err(error) = write_json(&run.directory.finished(), &event, Durability::Cache) {
        tracing::warn!(%error, run_id = %run.run_id(), "cannot store the report; it is sent anyway");
    }
    event
}

fn is_spool_read(run: &LocalRun, scan: &Scan, output: &OutputCounts) -> bool {
    let reader = SpoolReader::open(run.directory.spool(), scan.position());
    reader.bytes_behind_in(output.last_seq).is_ok_and(|bytes| bytes == 0)
}

/// Ends an attempt whose keeper died: kills its leftovers, recounts its output, and writes exit.json in place of the
/// keeper.
pub(crate) async fn record_lost_run(shared: &Arc<RunnerState>, run: &Arc<LocalRun>) -> Exit {
    loop {
        let task_run = run.clone();
        let written = tokio::task::spawn_blocking(move || write_lost_exit(&task_run)).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(exit) => return exit,
            Err(error) => tracing::error!(%error, run_id = %run.run_id(), "cannot record a lost run, retrying"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY_DELAY) => {}
            () = shared.leave.cancelled() => std::future::pending().await,
        }
    }
}

fn write_lost_exit(run: &LocalRun) -> io::Result<Exit> {
    let started = run.started().unwrap_or_default();
    let leaked = kill_leftovers(&run.key(), started.as_ref());
    let repair = spool::repair_tail(&run.directory.spool())?;
    let mut note = lost_note(&leaked, started.is_some());
    let is_removed = !run.directory.path().try_exists()?;
    if is_removed {
        note.push_str("; its directory was removed by another process, with its output");
    }
    if repair.torn_bytes > 0 {
        note.push_str(&format!("; its last line was cut after {} bytes", repair.torn_bytes));
    }
    let now = Timestamp::now();
    let started_at = started.map(|started| started.started_at);
    let duration = started_at.map(|at| Duration::try_from(now.duration_since(at)).unwrap_or_default());
    let exit = Exit {
        ended: Ended::Lost,
        note: Some(note),
        exit_code: None,
        signal: None,
        started_at,
        finished_at: now,
        duration_ms: duration.unwrap_or_default().as_millis() as u64,
        output: OutputCounts { last_seq: repair.last_seq, ..recount_output(run, Position::START)? },
        cpu_ms: None,
        max_rss_bytes: None,
        guard: None,
        leaked,
        output_open: false,
    };
    if is_removed {
        return Ok(exit);
    }
    write_json(&run.directory.exit(), &exit, Durability::Cache)?;
    let _ = std::fs::remove_file(run.directory.file("reserve"));
    Ok(exit)
}

fn lost_note(leaked: &[Leaked], started: bool) -> String {
    let start = if started { "it had started" } else { "it is not known whether it had started" };
    let killed = leaked.iter().filter(|process| process.killed).count();
    match leaked.len() {
        0 => format!("{start}; it left no process"),
        all if all == killed => format!("{start}; it left {all} processes, which were killed"),
        all => format!("{start}; it left {all} processes, of which {} could not be killed", all - killed),
    }
}

/// Counts the lines and bytes of the output from a position on, as the keeper would have recorded them.
pub(crate) fn recount_output(run: &LocalRun, from: Position) -> io::Result<OutputCounts> {
    let mut counts = OutputCounts::default();
    let mut reader = SpoolReader::open(run.directory.spool(), from);
    while let Some(block) = reader.read(1 << 20)? {
        for line in block.lines().filter(|line| !line.tag.gap) {
            let (lines, bytes) = match line.stream {
                Stream::Stdout => (&mut counts.stdout_lines, &mut counts.stdout_bytes),
                Stream::Stderr => (&mut counts.stderr_lines, &mut counts.stderr_bytes),
            };
            *lines += u64::from(line.tag.last);
            *bytes += line.text.len() as u64 + u64::from(line.tag.last && line.tag.newline);
        }
    }
    Ok(counts)
}
