//! All changes of a run's record after its creation. The collector, the claim and the check for overdue runs only store
//! the results of these functions. Pure.

use jiff::Timestamp;

use super::{Attempt, JudgedOn, Outcome, OutputCounts, RuleHit, Run, State, Trigger};
use crate::event::{Body, Event, OutputEnd, Report};
use crate::ports::{Claim, Claimant};

/// Bytes of excerpt that a succeeded run keeps; any other run keeps the whole excerpt. Chosen: a record of DynamoDB is
/// billed per KiB, and a run that succeeded is rarely read.
pub const GOOD_EXCERPT_BYTES_MAX: usize = 400;

/// The result of judging a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Becomes the run's outcome.
    pub outcome: Outcome,
    /// One sentence.
    pub reason: String,
    /// The output that the rules have seen.
    pub judged_on: Option<JudgedOn>,
    /// The hits that the outcome rests on.
    pub rules: Vec<RuleHit>,
}

/// The effect of an event on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The record changed and must be stored.
    Moved,
    /// The event reports the end of the attempt, so the run has its final outcome.
    Ended {
        /// The outcome that was declared before, without a report.
        replaced: Option<Outcome>,
    },
    /// Known already, or without effect on the record.
    Unchanged,
    /// Refused: a retry followed the attempt.
    OlderAttempt,
    /// Refused: the attempt was never ordered, or the event belongs to another run.
    NotOrdered,
}

impl Run {
    /// A run that was not scheduled (`sexton exec`), made from its first event. Any of its events gives the same
    /// record.
    pub fn from_report(event: &Event) -> Run {
        let key = crate::job::JobKey::new(&event.group, &event.job);
        let mut run = Run::new(event.run_id.clone(), &key, event.nominal, event.trigger, event.nominal);
        run.attempt = event.attempt;
        run
    }

    /// Whether a runner reported the end of the current attempt. Such an outcome is never replaced.
    pub fn has_report(&self) -> bool {
        self.state == State::Finished && self.duration_ms.is_some()
    }

    /// Applies an event. Events may arrive in any order and more than once; the final record is the same. `judge` is
    /// called only for a report that changes the record.
    ///
    /// A report of the same attempt replaces an outcome that was declared without one (`missed`, `lost`).
    pub fn apply(&mut self, event: &Event, judge: impl FnOnce(&Report) -> Verdict) -> Applied {
        if event.run_id != self.run_id || event.attempt > self.attempt {
            return Applied::NotOrdered;
        }
        if event.attempt < self.attempt {
            return Applied::OlderAttempt;
        }
        match &event.body {
            Body::Started { .. } => self.apply_started(event),
            Body::Quiet { since } => self.apply_quiet(*since),
            Body::Finished(report) => self.apply_finished(event, report, judge),
            Body::OutputEnded(end) => self.apply_output_end(end),
        }
    }

    fn apply_started(&mut self, event: &Event) -> Applied {
        let before = (self.state, self.started_at, self.runner.clone());
        if self.is_open() {
            self.state = State::Running;
            // What it waited for.
            self.reason = None;
        }
        self.started_at = self.started_at.or(Some(event.at));
        self.seen_at(event);
        match before == (self.state, self.started_at, self.runner.clone()) {
            true => Applied::Unchanged,
            false => Applied::Moved,
        }
    }

    fn apply_quiet(&mut self, since: Timestamp) -> Applied {
        if self.quiet_since.is_some_and(|known| known >= since) {
            return Applied::Unchanged;
        }
        self.quiet_since = Some(since);
        Applied::Moved
    }

    fn apply_finished(&mut self, event: &Event, report: &Report, judge: impl FnOnce(&Report) -> Verdict) -> Applied {
        let declared = match (self.state, self.outcome) {
            (State::Finished, Some(Outcome::Missed | Outcome::Lost)) if !self.has_report() => self.outcome,
            (State::Finished, _) => return Applied::Unchanged,
            _ => None,
        };
        let verdict = judge(report);
        self.seen_at(event);
        self.state = State::Finished;
        self.held = false;
        self.outcome = Some(verdict.outcome);
        let reason = match &self.stop_reason {
            Some(stop_reason) if verdict.outcome == Outcome::Stopped => stopped_reason(stop_reason, &verdict.reason),
            _ => verdict.reason,
        };
        self.reason = Some(self.with_lateness(reason));
        self.judged_on = verdict.judged_on;
        self.rules = verdict.rules;
        self.packs = report.pack_digests.keys().cloned().collect();
        self.exit_code = report.exit_code;
        self.signal = report.signal;
        self.started_at = report.started_at.or(self.started_at);
        self.finished_at = Some(report.finished_at);
        self.duration_ms = Some(report.duration_ms);
        // The end of the output may have been reported before the end of the run.
        if self.output_ended_at.is_none() {
            self.output_open = report.output_open;
            self.set_counts(&report.output);
        }
        self.cpu_ms = report.cpu_ms;
        self.max_rss_bytes = report.max_rss_bytes;
        self.leaked = report.leaked.clone();
        self.excerpt = report.excerpt.clone();
        if verdict.outcome == Outcome::Succeeded && self.rules.is_empty() {
            self.keep_last_lines(GOOD_EXCERPT_BYTES_MAX);
        }
        Applied::Ended { replaced: declared }
    }

    fn apply_output_end(&mut self, end: &OutputEnd) -> Applied {
        if self.output_ended_at.is_some() {
            return Applied::Unchanged;
        }
        self.output_open = false;
        self.output_ended_at = Some(end.ended_at);
        self.late_lines = end.late_lines;
        self.set_counts(&end.output);
        Applied::Moved
    }

    fn set_counts(&mut self, output: &OutputCounts) {
        self.stdout_lines = output.stdout_lines;
        self.stderr_lines = output.stderr_lines;
        self.stdout_bytes = output.stdout_bytes;
        self.stderr_bytes = output.stderr_bytes;
        self.last_seq = output.last_seq;
        self.dropped_lines = output.dropped_lines;
    }

    fn seen_at(&mut self, event: &Event) {
        self.runner = Some(event.runner.clone());
        self.host = Some(event.host.clone());
    }

    fn keep_last_lines(&mut self, bytes_max: usize) {
        let mut bytes = 0;
        let fitting = |line: &&super::ExcerptLine| {
            bytes += line.text.len();
            bytes <= bytes_max
        };
        let kept = self.excerpt.iter().rev().take_while(fitting).count();
        self.excerpt.drain(..self.excerpt.len() - kept);
    }

    /// Claims `attempt` for a runner: only while it is scheduled, not held, and `start_by` has not passed. Idempotent
    /// per runner: by name and id, or by name alone where one of the two claims has no id.
    pub fn claim(&mut self, attempt: u32, by: Claimant<'_>, at: Timestamp) -> Claim {
        if attempt != self.attempt || !self.is_open() {
            return Claim::Refused;
        }
        if self.state != State::Scheduled {
            let same_id = self.runner_id.as_deref().zip(by.id).is_none_or(|(one, other)| one == other);
            let is_own = self.runner.as_deref() == Some(by.runner) && same_id;
            return if is_own { Claim::Granted } else { Claim::Refused };
        }
        if self.held || self.start_by.is_some_and(|start_by| start_by < at) {
            return Claim::Refused;
        }
        self.state = State::Claimed;
        self.runner = Some(by.runner.to_owned());
        self.host = Some(by.host.to_owned());
        self.runner_id = by.id.map(str::to_owned);
        self.claimed_at = Some(at);
        Claim::Granted
    }

    /// Ends the run without a report: `skipped`, `missed`, `lost`, or `stopped` before its start. No effect on a run
    /// that has ended.
    pub fn finish(&mut self, outcome: Outcome, reason: impl Into<String>, at: Timestamp) {
        if !self.is_open() {
            return;
        }
        self.state = State::Finished;
        self.outcome = Some(outcome);
        self.reason = Some(self.with_lateness(reason.into()));
        self.finished_at = Some(at);
        self.held = false;
    }

    /// Starts the next attempt. The end of the last one is kept in `earlier_attempts`.
    pub fn retry(&mut self, not_before: Timestamp) {
        let fresh = Run::new(self.run_id.clone(), &self.key(), self.nominal, Trigger::Retry, self.scheduled_at);
        let last = std::mem::replace(self, fresh);
        self.attempt = last.attempt + 1;
        self.not_before = Some(not_before);
        self.earlier_attempts = last.earlier_attempts;
        self.earlier_attempts.push(Attempt {
            attempt: last.attempt,
            outcome: last.outcome.unwrap_or(Outcome::Lost),
            reason: last.reason.unwrap_or_default(),
            runner: last.runner,
            started_at: last.started_at,
            finished_at: last.finished_at,
            exit_code: last.exit_code,
            signal: last.signal,
        });
    }
}

impl Run {
    /// The reason of the outcome, which names why the run was ordered late.
    fn with_lateness(&self, reason: String) -> String {
        match &self.late_reason {
            Some(late) if !reason.contains(late.as_str()) => format!("{reason}; {late}"),
            _ => reason,
        }
    }
}

/// The reason of a stopped run names the request where the verdict only states that there was one.
fn stopped_reason(stop_reason: &str, verdict: &str) -> String {
    match verdict.strip_prefix("stopped on request") {
        Some(rest) => format!("{stop_reason}{rest}"),
        None => format!("{stop_reason}; {verdict}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Ended;
    use crate::job::JobKey;
    use crate::line::Stream;
    use crate::run::{ExcerptLine, RunId};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_420_200 + second).unwrap()
    }

    fn run() -> Run {
        let key = JobKey::new("db", "dump");
        Run::new(RunId::scheduled(&key, at(0)), &key, at(0), Trigger::Schedule, at(0))
    }

    fn event(attempt: u32, second: i64, body: Body) -> Event {
        Event {
            version: 1,
            run_id: run().run_id,
            group: "db".to_owned(),
            job: "dump".to_owned(),
            attempt,
            nominal: at(0),
            trigger: Trigger::Schedule,
            runner: "r1".to_owned(),
            host: "h1".to_owned(),
            at: at(second),
            body,
        }
    }

    fn started(attempt: u32) -> Event {
        event(attempt, 2, Body::Started { pid: Some(7), command: "dump".to_owned() })
    }

    fn finished(attempt: u32, exit_code: i32) -> Event {
        let text = "x".repeat(100);
        let excerpt = (1..=10).map(|seq| ExcerptLine { seq, stream: Stream::Stdout, text: text.clone() }).collect();
        let report = Report {
            ended: Ended::Exited,
            note: None,
            exit_code: Some(exit_code),
            signal: None,
            started_at: None,
            finished_at: at(9),
            duration_ms: 7_000,
            output: OutputCounts {
                stdout_lines: 10,
                stderr_lines: 0,
                stdout_bytes: 1_010,
                stderr_bytes: 0,
                last_seq: 10,
                dropped_lines: 0,
                dropped_bytes: 0,
            },
            cpu_ms: Some(3),
            max_rss_bytes: Some(4),
            guard: None,
            leaked: Vec::new(),
            rules: Vec::new(),
            rules_digest: String::new(),
            pack_digests: Default::default(),
            interpreters: Default::default(),
            excerpt,
            outcome: Outcome::Succeeded,
            reason: String::new(),
            output_open: true,
        };
        event(attempt, 9, Body::Finished(Box::new(report)))
    }

    fn judge(report: &Report) -> Verdict {
        let outcome = if report.exit_code == Some(0) { Outcome::Succeeded } else { Outcome::Failed };
        Verdict { outcome, reason: "judged".to_owned(), judged_on: Some(JudgedOn::All), rules: Vec::new() }
    }

    /// Calls `visit` with every order of the events.
    fn permutations(events: &mut Vec<Event>, from: usize, visit: &mut impl FnMut(&[Event])) {
        if from == events.len() {
            return visit(events);
        }
        for other in from..events.len() {
            events.swap(from, other);
            permutations(events, from + 1, visit);
            events.swap(from, other);
        }
    }

    #[test]
    fn every_order_and_every_repetition_of_the_events_gives_the_same_run() {
        let quiet = |second| event(1, second + 1, Body::Quiet { since: at(second) });
        let output = OutputCounts { stdout_lines: 12, stdout_bytes: 1_012, last_seq: 12, ..OutputCounts::default() };
        let end = OutputEnd { ended_at: at(15), output, late_lines: 2, note: None };
        let mut events = vec![
            started(1),
            quiet(3),
            quiet(5),
            finished(1, 0),
            event(1, 15, Body::OutputEnded(Box::new(end))),
            finished(1, 0),
            started(2),
            finished(0, 1),
        ];
        let mut first: Option<Run> = None;
        permutations(&mut events, 0, &mut |events| {
            let mut run = run();
            for event in events {
                run.apply(event, judge);
            }
            assert_eq!(first.get_or_insert_with(|| run.clone()), &run);
        });
        let run = first.unwrap();
        assert_eq!((run.state, run.outcome, run.started_at), (State::Finished, Some(Outcome::Succeeded), Some(at(2))));
        assert_eq!((run.quiet_since, run.finished_at), (Some(at(5)), Some(at(9))));
        assert_eq!((run.output_open, run.output_ended_at), (false, Some(at(15))));
        assert_eq!((run.stdout_lines, run.last_seq, run.late_lines), (12, 12, 2));
    }

    #[test]
    fn a_run_made_from_its_reports_is_the_same_for_any_first_report() {
        let (mut forth, mut back) = (Run::from_report(&started(1)), Run::from_report(&finished(1, 0)));
        for event in [started(1), finished(1, 0)] {
            forth.apply(&event, judge);
        }
        for event in [finished(1, 0), started(1)] {
            back.apply(&event, judge);
        }
        assert_eq!(forth, back);
    }

    #[test]
    fn a_report_replaces_a_declared_outcome_and_is_never_replaced_by_one() {
        for declared in [Outcome::Missed, Outcome::Lost] {
            let mut run = run();
            run.finish(declared, "no report from it", at(5));
            assert_eq!(run.apply(&started(1), judge), Applied::Moved);
            assert_eq!(run.outcome, Some(declared));
            assert_eq!(run.apply(&finished(1, 3), judge), Applied::Ended { replaced: Some(declared) });
            run.finish(declared, "again", at(20));
            assert_eq!((run.outcome, run.exit_code), (Some(Outcome::Failed), Some(3)));
            assert_eq!(run.apply(&finished(1, 0), judge), Applied::Unchanged);
        }
        let mut run = run();
        run.finish(Outcome::Skipped, "paused", at(5));
        assert_eq!(run.apply(&finished(1, 0), judge), Applied::Unchanged);
        assert_eq!(run.outcome, Some(Outcome::Skipped));
    }

    #[test]
    fn reports_of_an_older_attempt_are_refused_and_its_end_is_kept() {
        let mut run = run();
        run.apply(&finished(1, 1), judge);
        run.retry(at(60));
        let before = run.clone();
        assert_eq!(run.apply(&finished(1, 0), judge), Applied::OlderAttempt);
        assert_eq!(run.apply(&started(1), judge), Applied::OlderAttempt);
        assert_eq!(run.apply(&started(3), judge), Applied::NotOrdered);
        assert_eq!(run, before);
        assert_eq!((run.attempt, run.state, run.outcome), (2, State::Scheduled, None));
        assert_eq!((run.earlier_attempts[0].attempt, run.earlier_attempts[0].outcome), (1, Outcome::Failed));
        assert_eq!(run.apply(&finished(2, 0), judge), Applied::Ended { replaced: None });
    }

    #[test]
    fn one_runner_can_claim_an_attempt_and_only_one_that_may_start() {
        let mut claimed = run();
        assert_eq!(claimed.claim(1, Claimant::new("r1", "h1"), at(1)), Claim::Granted);
        let once = claimed.clone();
        assert_eq!(claimed.claim(1, Claimant::new("r1", "h1"), at(2)), Claim::Granted);
        assert_eq!(claimed.claim(1, Claimant::new("r2", "h2"), at(2)), Claim::Refused);
        assert_eq!(claimed.claim(2, Claimant::new("r1", "h1"), at(2)), Claim::Refused);
        assert_eq!(claimed, once);
        assert_eq!(Run { held: true, ..run() }.claim(1, Claimant::new("r1", "h1"), at(1)), Claim::Refused);
        assert_eq!(Run { start_by: Some(at(0)), ..run() }.claim(1, Claimant::new("r1", "h1"), at(1)), Claim::Refused);
        let mut over = run();
        over.finish(Outcome::Missed, "too late", at(5));
        assert_eq!(over.claim(1, Claimant::new("r1", "h1"), at(6)), Claim::Refused);
    }

    #[test]
    fn a_succeeded_run_keeps_only_its_last_lines() {
        let (mut good, mut bad) = (run(), run());
        good.apply(&finished(1, 0), judge);
        bad.apply(&finished(1, 1), judge);
        assert_eq!(good.excerpt.iter().map(|line| line.seq).collect::<Vec<_>>(), [7, 8, 9, 10]);
        assert_eq!(bad.excerpt.len(), 10);
    }
}
