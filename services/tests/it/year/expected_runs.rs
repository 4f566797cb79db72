//! The expected result, computed apart from the scheduler: the firings from the schedules alone, and the outcomes from
//! what the runners did. Panics where the store differs; the caller prints the seed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use domain::job::{Job, JobKey};
use domain::ledger::Ledger;
use domain::ports::{Ports, RunQuery};
use domain::run::{Outcome, Run, RunId, State, Trigger};
use domain::schedule::{Context, Schedule};
use jiff::{SignedDuration, Timestamp};
use services::commands;

/// A scheduler without trouble reaches a firing in this time, even when the tick of one minute is missing.
const LATE: SignedDuration = SignedDuration::from_secs(120);

/// A span in which a job had one schedule.
struct Span {
    schedule: Schedule,
    /// Its firings are those after this instant.
    after: Timestamp,
    /// The first firing that no day has checked yet.
    next: Option<Timestamp>,
    /// How far the scheduler had come when the job was edited or removed.
    until: Option<Timestamp>,
}

/// What runners did with one attempt.
#[derive(Clone, Debug, Default)]
struct AttemptRecord {
    started: u32,
    /// The outcome in the report that was sent.
    reported: Option<Outcome>,
}

#[derive(Default)]
pub(crate) struct ExpectedRuns {
    spans: BTreeMap<JobKey, Vec<Span>>,
    attempts: HashMap<RunId, BTreeMap<u32, AttemptRecord>>,
    manual: BTreeSet<RunId>,
    /// Firings before the edit that created them, in time that a clock set back repeats. A scheduler that is down for
    /// all of that time never starts them.
    doubtful: BTreeSet<RunId>,
    /// The latest instant at which a tick completed.
    pub horizon: Timestamp,
    /// When the scheduler was down or the clock was moved. Only then it may be late.
    pub troubles: Vec<(Timestamp, Timestamp)>,
    pub total: Ledger,
    pub attempts_started: u64,
}

impl ExpectedRuns {
    pub(crate) fn new(begin: Timestamp) -> ExpectedRuns {
        ExpectedRuns { horizon: begin, ..ExpectedRuns::default() }
    }

    /// A job is stored or edited at `now`; the scheduler has ticked at the same instant.
    pub(crate) fn record_job(&mut self, job: &Job, now: Timestamp) {
        self.record_removal(&job.key());
        if !job.enabled {
            return;
        }
        let seed = job.key().to_string();
        let context = Context { zone: &job.zone, seed: &seed, anchor: job.anchor.unwrap() };
        let schedule = Schedule::parse(&job.schedule, &context).unwrap();
        let next = schedule.next_after(now).map(|firing| firing.at);
        self.spans.entry(job.key()).or_default().push(Span { schedule, after: now, next, until: None });
    }

    pub(crate) fn record_removal(&mut self, key: &JobKey) {
        for span in self.spans.entry(key.clone()).or_default() {
            span.until = span.until.or(Some(self.horizon));
        }
    }

    /// The clock is set back: a job that was edited later by the clock may fire in the repeated time.
    pub(crate) fn record_clock_change(&mut self, now: Timestamp) {
        for (key, spans) in &self.spans {
            for span in spans.iter().filter(|span| span.until.is_none() && span.after > now) {
                let firings =
                    std::iter::successors(span.schedule.next_after(now), |one| span.schedule.next_after(one.at));
                let again = firings.take_while(|firing| firing.at <= span.after);
                self.doubtful.extend(again.map(|firing| RunId::scheduled(key, firing.at)));
            }
        }
    }

    pub(crate) fn record_manual(&mut self, run: &Run) {
        self.manual.insert(run.run_id.clone());
    }

    pub(crate) fn record_start(&mut self, run_id: &RunId, attempt: u32) {
        let record = self.attempts.entry(run_id.clone()).or_default().entry(attempt).or_default();
        record.started += 1;
        self.attempts_started += 1;
        assert_eq!(record.started, 1, "attempt {attempt} of run {run_id} was started twice");
    }

    pub(crate) fn record_report(&mut self, run_id: &RunId, attempt: u32, outcome: Outcome) {
        self.attempts.entry(run_id.clone()).or_default().entry(attempt).or_default().reported = Some(outcome);
    }

    /// Takes all firings of a day.
    fn take_expected(&mut self, end: Timestamp) -> BTreeSet<RunId> {
        let mut expected = BTreeSet::new();
        for (key, spans) in &mut self.spans {
            for span in spans.iter_mut() {
                while let Some(at) = span.next.filter(|at| *at < end) {
                    if span.until.is_none_or(|until| at <= until) {
                        expected.insert(RunId::scheduled(key, at));
                    }
                    span.next = span.schedule.next_after(at).map(|firing| firing.at);
                }
            }
            spans.retain(|span| span.next.is_some() || span.after >= end);
        }
        expected
    }

    /// Checks a day that ended long ago: its runs are the firings of its schedules, and all have ended as their
    /// runners reported.
    pub(crate) async fn check_day(&mut self, ports: &Ports, begin: Timestamp) {
        let end = begin + SignedDuration::from_hours(24);
        let mut expected = self.take_expected(end);
        let query = RunQuery { since: Some(begin), until: Some(end), ..RunQuery::default() };
        let (mut after, mut runs) = (None, 0);
        loop {
            let page = ports.runs.list(&query, after.as_ref(), 500).await.unwrap();
            for stored in page.records {
                let run = stored.record;
                let wanted = expected.remove(&run.run_id)
                    || self.manual.remove(&run.run_id)
                    || self.doubtful.contains(&run.run_id);
                assert!(wanted, "a run without a firing: {run:?}");
                self.check_run(&run);
                runs += 1;
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert!(expected.is_empty(), "{} firings of {begin} have no run: {expected:?}", expected.len());
        let ledger = commands::ledger(ports, Some(begin), Some(end)).await.unwrap();
        assert!(ledger.adds_up() && ledger.scheduled == runs && ledger.open == 0, "{ledger:?}, {runs} runs");
        self.total.scheduled += ledger.scheduled;
        for (outcome, count) in ledger.outcomes {
            *self.total.outcomes.entry(outcome).or_default() += count;
        }
    }

    fn check_run(&mut self, run: &Run) {
        let attempts = self.attempts.remove(&run.run_id).unwrap_or_default();
        let last = attempts.get(&run.attempt).cloned().unwrap_or_default();
        let outcome = run.outcome.unwrap_or_else(|| panic!("a run is open for days: {run:?}"));
        assert!(run.state == State::Finished && run.reason.is_some(), "{run:?}");
        assert!(attempts.keys().all(|attempt| *attempt <= run.attempt), "{run:?}: {attempts:?}");
        match (last.reported, run.has_report()) {
            (Some(reported), true) => assert_eq!(outcome, reported, "{run:?}"),
            (None, false) => match outcome {
                Outcome::Skipped | Outcome::Missed | Outcome::Stopped => assert_eq!(last.started, 0, "{run:?}"),
                Outcome::Lost => assert_eq!(last.started, 1, "{run:?}"),
                _ => panic!("no runner reported this outcome: {run:?}"),
            },
            (reported, _) => panic!("reported {reported:?}, but recorded {run:?}"),
        }
        if run.trigger != Trigger::Manual && run.scheduled_at.duration_since(run.nominal) > LATE {
            let excused = self.troubles.iter().any(|(from, to)| (*from..=*to).contains(&run.nominal));
            assert!(excused, "the scheduler was late without a trouble: {run:?}");
        }
    }

    /// Older troubles are checked and no longer needed.
    pub(crate) fn forget_troubles(&mut self, before: Timestamp) {
        self.troubles.retain(|(_, to)| *to >= before);
    }
}
