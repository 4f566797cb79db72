//! The end of a run: all output matched, judged, reported, and the log of every sink closed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use domain::event::{Body, Ended, Event};
use domain::line::{Position, Stream};
use domain::run::Leaked;
use jiff::Timestamp;
use keeper::crash;
use keeper::directory::{Durability, mark, write_json};
use keeper::leftovers::end_remains;
use keeper::records::{Exit, OutputCounts};
use keeper::spool::{self, SpoolReader};

use crate::keeper_state::stored_report;
use crate::local_run::LocalRun;
use crate::report;
use crate::reporting::{announce, tell};
use crate::runner_state::Shared;
use crate::scan::{Scan, read_along};

/// What the disk refuses is tried again after this.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Turns an end into a report and a closed log. Idempotent; a report that was stored before is told unchanged.
pub async fn finish(shared: &Arc<Shared>, run: &Arc<LocalRun>, exit: Exit, scan: Option<Scan>) {
    match run.started() {
        Ok(Some(started)) if run.header().is_none() => announce(shared, run, &started).await,
        Ok(_) => {}
        Err(error) => tracing::error!(%error, run_id = %run.run_id(), "started.json cannot be read"),
    }
    let at = exit.finished_at;
    if run.header().is_none() {
        run.make_header(&shared.options.runner, &shared.options.host, None, at);
        shared.add_feeds(run);
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
    if !run.directory.told_finished().exists() {
        tell(shared, run, event).await;
        crash::point("outboxed");
        if let Err(error) = mark(&run.directory.told_finished()) {
            tracing::warn!(%error, run_id = %run.run_id(), "that the end was told cannot be noted; it may be told again");
        }
        crash::point("told");
    }
    shared.grown.notify_waiters();
}

/// Matches what is left, judges, and stores the report.
async fn make_report(shared: &Arc<Shared>, run: &Arc<LocalRun>, exit: Exit, mut scan: Option<Scan>) -> Event {
    loop {
        while read_along(shared, run, &mut scan, Some(exit.output)).await {}
        match &scan {
            Some(scan) if scan.place().seq > exit.output.last_seq => break,
            // Records that the disk did not take, and so told nobody of, are at the end: nothing more will come.
            Some(scan) if exit.output.dropped_lines > 0 && spool_is_read(run, scan) => break,
            _ => {}
        }
        if spool::segments(&run.directory.spool()).is_ok_and(|segments| segments.is_empty()) {
            tracing::error!(run_id = %run.run_id(), "the spool is gone; the run is judged without its output");
            break;
        }
        tracing::error!(run_id = %run.run_id(), "the spool is shorter than its keeper says; it is read again");
        if scan.as_ref().is_some_and(|scan| spool_is_read(run, scan)) {
            break;
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
    let scan = scan.unwrap_or_else(|| Scan::open(&run.directory, shared.rules_of(run.job())));
    let at = exit.finished_at;
    let report = report::report(&run.accepted, exit, scan.matcher(), scan.excerpt());
    let header = run.make_header(&shared.options.runner, &shared.options.host, None, at);
    let event = report::event(header, at, Body::Finished(Box::new(report)));
    // Without it a restart makes the same report again; with it nothing can change it.
    if let Err(error) = write_json(&run.directory.finished(), &event, Durability::Cache) {
        tracing::warn!(%error, run_id = %run.run_id(), "the report cannot be stored; it is told all the same");
    }
    event
}

fn spool_is_read(run: &LocalRun, scan: &Scan) -> bool {
    SpoolReader::open(run.directory.spool(), scan.place()).bytes_behind().is_ok_and(|bytes| bytes == 0)
}

/// The end of an attempt whose keeper is gone: what is left of it is ended, what it printed is counted, and exit.json is
/// written in the keeper's place.
pub async fn lost(shared: &Arc<Shared>, run: &Arc<LocalRun>) -> Exit {
    loop {
        let of_run = run.clone();
        let written = tokio::task::spawn_blocking(move || record_loss(&of_run)).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(exit) => return exit,
            Err(error) => tracing::error!(%error, run_id = %run.run_id(), "a lost run cannot be recorded yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY_DELAY) => {}
            () = shared.leave.cancelled() => std::future::pending().await,
        }
    }
}

fn record_loss(run: &LocalRun) -> io::Result<Exit> {
    let started = run.started().unwrap_or_default();
    let leaked = end_remains(&run.key(), started.as_ref());
    let repair = spool::repair(&run.directory.spool())?;
    let mut note = note_of_loss(&leaked, started.is_some());
    let is_removed = !run.directory.path().try_exists()?;
    if is_removed {
        note.push_str("; its directory was removed by somebody else, with what it printed");
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
        output: count(run, repair.last_seq)?,
        cpu_ms: None,
        max_rss_bytes: None,
        leaked,
    };
    if is_removed {
        return Ok(exit);
    }
    write_json(&run.directory.exit(), &exit, Durability::Cache)?;
    let _ = std::fs::remove_file(run.directory.file("reserve"));
    Ok(exit)
}

fn note_of_loss(leaked: &[Leaked], started: bool) -> String {
    let began = if started { "it had begun" } else { "it is not known whether it had begun" };
    let killed = leaked.iter().filter(|process| process.killed).count();
    match leaked.len() {
        0 => format!("{began}; no process of it was left"),
        all if all == killed => format!("{began}; {all} processes of it were left and were killed"),
        all => format!("{began}; of {all} processes that were left {} could not be killed", all - killed),
    }
}

/// Counts again what the keeper would have told.
fn count(run: &LocalRun, last_seq: u64) -> io::Result<OutputCounts> {
    let mut counts = OutputCounts { last_seq, ..OutputCounts::default() };
    let mut reader = SpoolReader::open(run.directory.spool(), Position::START);
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
