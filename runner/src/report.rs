//! Builds the report, and the record that closes the log, from the keeper's record and the matches of the rules. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::event::{Body, Ended, Event, OutputEnd, Report};
use domain::order::FORMAT_VERSION;
use domain::run::Outcome;
use jiff::Timestamp;
use keeper::records::{Accepted, Exit, RefusalKind};
use rules::{ExitFacts, Limits, Matcher};
use sinks::feed::{FinishedRecord, OutputEndedRecord, RunHeader};

use crate::excerpt::Excerpt;

/// An event of this attempt.
pub(crate) fn new_event(header: &RunHeader, at: Timestamp, body: Body) -> Event {
    Event {
        version: FORMAT_VERSION,
        run_id: header.run_id.clone(),
        group: header.group.clone(),
        job: header.job.clone(),
        attempt: header.attempt,
        nominal: header.nominal,
        trigger: header.trigger,
        runner: header.runner.clone(),
        host: header.host.clone(),
        at,
        body,
    }
}

/// The report, with the runner's own verdict.
pub(crate) fn new_report(accepted: &Accepted, exit: Exit, matcher: &Matcher, excerpt: &Excerpt) -> Report {
    let mut report = Report {
        ended: exit.ended,
        note: exit.note,
        exit_code: exit.exit_code,
        signal: exit.signal,
        started_at: exit.started_at,
        finished_at: exit.finished_at,
        duration_ms: exit.duration_ms,
        output: exit.output,
        cpu_ms: exit.cpu_ms,
        max_rss_bytes: exit.max_rss_bytes,
        guard: exit.guard,
        leaked: exit.leaked,
        rules: if exit.ended == Ended::NotStarted { Vec::new() } else { matcher.hits() },
        rules_digest: matcher.rules().digest().to_owned(),
        pack_digests: match matcher.rules_changed() {
            // Earlier lines were matched by other rules.
            true => BTreeMap::new(),
            false => matcher.rules().pack_digests().clone(),
        },
        interpreters: matcher.rules().interpreters().clone(),
        excerpt: excerpt.lines(),
        outcome: outcome_of_unstarted(accepted),
        reason: String::new(),
        output_open: exit.output_open,
    };
    let verdict = {
        let facts = ExitFacts { duration: Duration::from_millis(report.duration_ms), ..ExitFacts::of(&report) };
        rules::judge(&facts, &Limits::of(&accepted.order.job), &report.rules)
    };
    report.outcome = verdict.outcome;
    report.reason = verdict.reason;
    report
}

/// The outcome of an attempt that was never started; used for no other.
fn outcome_of_unstarted(accepted: &Accepted) -> Outcome {
    match accepted.refused.as_ref().map(|refusal| refusal.why) {
        Some(RefusalKind::TooLate) => Outcome::Missed,
        Some(RefusalKind::Stopped) => Outcome::Stopped,
        Some(RefusalKind::Policy | RefusalKind::Impossible) | None => Outcome::Failed,
    }
}

/// The record that closes the run's log in every sink.
pub(crate) fn finished_record(report: &Report) -> FinishedRecord {
    FinishedRecord {
        outcome: report.outcome,
        reason: report.reason.clone(),
        exit_code: report.exit_code,
        signal: report.signal,
        duration_ms: report.duration_ms,
        stdout_lines: report.output.stdout_lines,
        stderr_lines: report.output.stderr_lines,
        stdout_bytes: report.output.stdout_bytes,
        stderr_bytes: report.output.stderr_bytes,
        last_seq: report.output.last_seq,
        dropped_lines: report.output.dropped_lines,
        finished_at: report.finished_at,
        output_open: report.output_open,
    }
}

/// The record that closes the log of a run whose output stayed open.
pub(crate) fn output_ended_record(end: &OutputEnd) -> OutputEndedRecord {
    OutputEndedRecord {
        reason: end.note.clone().unwrap_or_default(),
        late_lines: end.late_lines,
        stdout_lines: end.output.stdout_lines,
        stderr_lines: end.output.stderr_lines,
        stdout_bytes: end.output.stdout_bytes,
        stderr_bytes: end.output.stderr_bytes,
        last_seq: end.output.last_seq,
        dropped_lines: end.output.dropped_lines,
        ended_at: end.ended_at,
    }
}
