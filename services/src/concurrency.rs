//! Decides what a new run may do while earlier runs of its job are open. Pure; called by `overlap`.

use domain::job::{Concurrency, Job};
use domain::run::{Run, State, Trigger};

/// The decision about a new run and the earlier ones.
#[derive(Clone, Debug, PartialEq)]
pub enum ConcurrencyDecision {
    /// Starts now.
    Start,
    /// Is held. The reason names the run that it waits for.
    Hold(String),
    /// Is skipped, with this reason.
    Skip(String),
    /// Replaces the earlier runs: those that have not started are skipped, the others get a stop request.
    Replace {
        /// The reason to hold the new run: an earlier one has started and must end first.
        hold: Option<String>,
    },
}

/// Decides about `run`. `open`: the other open runs of its job. `open_max`: how many of them may be open while
/// `concurrency` is `allow`.
pub fn decide(job: &Job, run: &Run, open: &[&Run], open_max: usize) -> ConcurrencyDecision {
    let Some(first) = open.iter().find(|other| other.state >= State::Claimed).or(open.first()) else {
        return ConcurrencyDecision::Start;
    };
    match (job.concurrency, run.trigger) {
        (Concurrency::Allow, trigger) => {
            let started = open.iter().filter(|other| !other.held).count();
            match (started < open_max, trigger) {
                (true, _) => ConcurrencyDecision::Start,
                (false, Trigger::CatchUp) => {
                    let are_open = if started == 1 { "1 run is open" } else { &format!("{started} runs are open") };
                    ConcurrencyDecision::Hold(format!("waits: {are_open}, as many as `max_open` allows"))
                }
                (false, _) => ConcurrencyDecision::Skip(format!(
                    "{} not ended, as many as `max_open` allows; the oldest is {}",
                    if started == 1 { "1 run has".to_owned() } else { format!("{started} runs have") },
                    open.iter().min_by_key(|other| other.nominal).map_or(&first.run_id, |oldest| &oldest.run_id)
                )),
            }
        }
        // `catch_up = "all"` with `forbid` asks for every missed firing and for no overlap: one after another.
        (Concurrency::Forbid, Trigger::CatchUp) | (Concurrency::Queue, _) => {
            ConcurrencyDecision::Hold(format!("waits for run {}", first.run_id))
        }
        (Concurrency::Forbid, _) => {
            ConcurrencyDecision::Skip(format!("run {} has not ended and `concurrency` is `forbid`", first.run_id))
        }
        // Two schedulers may process a job's firings in different order: the newest firing wins.
        (Concurrency::Replace, _) if open.iter().any(|other| other.nominal > run.nominal) => {
            ConcurrencyDecision::Skip("replaced by a newer run before it started".to_owned())
        }
        (Concurrency::Replace, _) => {
            let started = first.state >= State::Claimed;
            ConcurrencyDecision::Replace {
                hold: started.then(|| format!("replaces run {}; waits for it to end", first.run_id)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::job::{Command, JobKey};
    use domain::run::RunId;
    use jiff::Timestamp;

    fn run(second: i64, trigger: Trigger, state: State) -> Run {
        let (key, at) = (JobKey::new("db", "dump"), Timestamp::from_second(second).unwrap());
        let mut run = Run::new(RunId::scheduled(&key, at), &key, at, trigger, at);
        run.state = state;
        run
    }

    #[track_caller]
    fn check(concurrency: Concurrency, trigger: Trigger, open: &[State], wanted: &str) {
        let mut job = Job::new(JobKey::new("db", "dump"), "* * * * *", Command::Shell("true".to_owned()));
        job.concurrency = concurrency;
        let open: Vec<Run> = open.iter().map(|state| run(1, Trigger::Schedule, *state)).collect();
        let decision = decide(&job, &run(60, trigger, State::Scheduled), &open.iter().collect::<Vec<_>>(), 2);
        let got = match decision {
            ConcurrencyDecision::Start => "start",
            ConcurrencyDecision::Hold(_) => "hold",
            ConcurrencyDecision::Skip(_) => "skip",
            ConcurrencyDecision::Replace { hold: None } => "replace and start",
            ConcurrencyDecision::Replace { hold: Some(_) } => "replace and hold",
        };
        assert_eq!(got, wanted, "{concurrency:?} {trigger:?} {open:?}");
    }

    #[test]
    fn each_policy_starts_holds_skips_or_replaces() {
        use Concurrency::{Allow, Forbid, Queue, Replace};
        for concurrency in [Allow, Forbid, Queue, Replace] {
            check(concurrency, Trigger::Schedule, &[], "start");
        }
        check(Allow, Trigger::Schedule, &[State::Running], "start");
        check(Allow, Trigger::Schedule, &[State::Running, State::Scheduled], "skip");
        check(Allow, Trigger::CatchUp, &[State::Running, State::Running], "hold");
        check(Forbid, Trigger::Schedule, &[State::Scheduled], "skip");
        check(Forbid, Trigger::Manual, &[State::Running], "skip");
        check(Forbid, Trigger::CatchUp, &[State::Running], "hold");
        check(Queue, Trigger::Schedule, &[State::Scheduled], "hold");
        check(Replace, Trigger::Schedule, &[State::Scheduled], "replace and start");
        check(Replace, Trigger::Schedule, &[State::Scheduled, State::Running], "replace and hold");
    }

    #[test]
    fn an_older_firing_does_not_replace_a_newer_one() {
        let mut job = Job::new(JobKey::new("db", "dump"), "* * * * *", Command::Shell("true".to_owned()));
        job.concurrency = Concurrency::Replace;
        let (older, newer) =
            (run(60, Trigger::CatchUp, State::Scheduled), run(120, Trigger::Schedule, State::Scheduled));
        assert!(matches!(decide(&job, &older, &[&newer], 1), ConcurrencyDecision::Skip(_)));
    }
}
