//! What a new run may do while earlier ones of its job are still open. Pure; called by the scheduler and by commands.

use domain::job::{Concurrency, Job};
use domain::run::{Run, State, Trigger};

/// What becomes of the new run, and of the earlier ones.
#[derive(Clone, Debug, PartialEq)]
pub enum ConcurrencyDecision {
    Start,
    /// Waits; the sentence says for what.
    Hold(String),
    Skip(String),
    /// The earlier ones give way: those that have not begun are skipped, the others are asked to stop. `hold`: some
    /// have begun, and the new run waits for their end.
    Replace {
        hold: Option<String>,
    },
}

/// Decides about `run`. `open`: the other open runs of its job.
pub fn decide(job: &Job, run: &Run, open: &[&Run]) -> ConcurrencyDecision {
    let Some(first) = open.iter().find(|other| other.state >= State::Claimed).or(open.first()) else {
        return ConcurrencyDecision::Start;
    };
    match (job.concurrency, run.trigger) {
        (Concurrency::Allow, _) => ConcurrencyDecision::Start,
        // People who want every missed firing made up, and never two at once, want them one after the other.
        (Concurrency::Forbid, Trigger::CatchUp) | (Concurrency::Queue, _) => {
            ConcurrencyDecision::Hold(format!("waits for run {}", first.run_id))
        }
        (Concurrency::Forbid, _) => {
            ConcurrencyDecision::Skip(format!("run {} is still open and concurrency is forbid", first.run_id))
        }
        // Two schedulers may come to a job's firings in different order; the newest firing stands.
        (Concurrency::Replace, _) if open.iter().any(|other| other.nominal > run.nominal) => {
            ConcurrencyDecision::Skip("replaced by a newer run before it began".to_owned())
        }
        (Concurrency::Replace, _) => {
            let started = first.state >= State::Claimed;
            ConcurrencyDecision::Replace {
                hold: started.then(|| format!("waits for the end of run {}, which it replaces", first.run_id)),
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
        let decision = decide(&job, &run(60, trigger, State::Scheduled), &open.iter().collect::<Vec<_>>());
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
    fn each_policy_does_what_it_says() {
        use Concurrency::{Allow, Forbid, Queue, Replace};
        for concurrency in [Allow, Forbid, Queue, Replace] {
            check(concurrency, Trigger::Schedule, &[], "start");
        }
        check(Allow, Trigger::Schedule, &[State::Running], "start");
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
        assert!(matches!(decide(&job, &older, &[&newer]), ConcurrencyDecision::Skip(_)));
    }
}
