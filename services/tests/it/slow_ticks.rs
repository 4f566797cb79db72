//! Ticks that fail, are ended, or cannot store a run: what they completed stays, and no run is missed by them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use domain::alert::AlertKind;
use domain::job::{CatchUp, Command, Job, JobKey};
use domain::ledger::Ledger;
use domain::ports::*;
use domain::run::{Outcome, Run, RunKey, State, Trigger};
use services::{overdue, release, scheduler, sweep};

use crate::faulty::{Faulty, Moment, Plan};
use crate::world::{World, job, key};

/// How the store treats a write.
type Rule = dyn Fn(&RunWrite) -> Option<WriteResult> + Send + Sync;

/// The runs of SQLite, as of a store that does not take some of them.
struct PartlyStored {
    real: Arc<dyn RunStore>,
    rule: Mutex<Arc<Rule>>,
}

#[async_trait]
impl RunStore for PartlyStored {
    async fn get(&self, runs: &[RunKey]) -> PortResult<Vec<Stored<Run>>> {
        self.real.get(runs).await
    }
    async fn write(&self, writes: &[RunWrite]) -> PortResult<Vec<WriteResult>> {
        let rule = self.rule.lock().unwrap().clone();
        let mut results = Vec::new();
        for write in writes {
            results.push(match rule(write) {
                Some(refused) => refused,
                None => self.real.write(std::slice::from_ref(write)).await?.remove(0),
            });
        }
        Ok(results)
    }
    async fn list(&self, query: &RunQuery, after: Option<&Cursor>, most: usize) -> PortResult<Page<Stored<Run>>> {
        self.real.list(query, after, most).await
    }
    async fn count(&self, query: &RunQuery) -> PortResult<Ledger> {
        self.real.count(query).await
    }
    async fn remove(&self, runs: &[RunKey]) -> PortResult<()> {
        self.real.remove(runs).await
    }
}

/// A world at 07:59 with these jobs, and its store.
async fn world_with(jobs: &[Job]) -> (World, Arc<PartlyStored>) {
    let mut world = World::new("2026-11-23T07:59:00Z");
    let store = Arc::new(PartlyStored { real: world.ports.runs.clone(), rule: Mutex::new(Arc::new(|_| None)) });
    world.ports = Ports { runs: store.clone(), ..world.ports.clone() };
    for job in jobs {
        world.put(job).await;
    }
    world.schedule().await;
    (world, store)
}

impl PartlyStored {
    fn treat(&self, rule: impl Fn(&RunWrite) -> Option<WriteResult> + Send + Sync + 'static) {
        *self.rule.lock().unwrap() = Arc::new(rule);
    }
}

fn throttled(_: &RunWrite) -> Option<WriteResult> {
    Some(WriteResult::Retry("throttled".to_owned()))
}

#[tokio::test]
async fn a_firing_that_failing_ticks_could_not_start_runs_late_and_its_record_states_so() {
    let mut short = job("short", "0 8 * * *");
    short.start_within = Some(Duration::from_secs(180));
    let mut once = job("once", "0 8 * * *");
    once.catch_up = CatchUp::Once;
    let (world, store) = world_with(&[job("dump", "0 8 * * *"), short, once]).await;
    store.treat(throttled);
    for minute in 0..4 {
        world.set(&format!("2026-11-23T08:0{minute}:00Z"));
        let error = scheduler::tick(&world.ports, world.now()).await.unwrap_err();
        assert_eq!(error.to_string(), "throttled");
    }
    store.treat(|_| None);
    world.set("2026-11-23T08:04:00Z");
    let ticked = world.schedule().await;
    assert_eq!((ticked.started, ticked.missed, ticked.skipped), (2, 1, 0), "{ticked:?}");
    let reason = "the scheduler was slow: it reached the firing of 2026-11-23T08:00:00Z only at 2026-11-23T08:04:00Z";
    for name in ["dump", "once"] {
        let run = world.runs(name).await.remove(0);
        assert_eq!((run.state, run.trigger), (State::Scheduled, Trigger::Schedule), "{name}");
        assert_eq!(run.late_reason.as_deref(), Some(reason));
    }
    let missed = world.runs("short").await.remove(0).reason.unwrap();
    assert_eq!(missed, format!("not started by 2026-11-23T08:03:00Z, its `start_within`: {reason}"));
    world.run_all(0).await;
    world.collect().await;
    let run = world.runs("dump").await.remove(0);
    assert_eq!(run.outcome, Some(Outcome::Succeeded));
    assert!(run.reason.as_ref().unwrap().ends_with(&format!("; {reason}")), "{:?}", run.reason);
}

/// No tick begins within 120 s after the firing: `catch_up` decides.
#[tokio::test]
async fn a_scheduler_whose_next_tick_begins_too_late_was_down() {
    for (first_tick, wanted) in [("08:02:00", "scheduled"), ("08:02:01", "missed")] {
        let (world, store) = world_with(&[job("dump", "0 8 * * *")]).await;
        store.treat(throttled);
        world.set(&format!("2026-11-23T{first_tick}Z"));
        scheduler::tick(&world.ports, world.now()).await.unwrap_err();
        store.treat(|_| None);
        world.set("2026-11-23T08:03:30Z");
        world.schedule().await;
        assert_eq!(world.history("dump").await, [format!("08:00 {wanted}")], "{first_tick}");
    }
}

#[tokio::test]
async fn a_tick_that_is_ended_continues_where_it_was() {
    let command = || Command::Shell("true".to_owned());
    let jobs: Vec<Job> =
        (0..700).map(|n| Job::new(JobKey::new("db", format!("j{n}")), "0 8 * * *", command())).collect();
    let (world, _) = world_with(&[]).await;
    let writes = jobs.into_iter().map(|job| JobWrite { job, expected: None, entry: None, former_entry: None });
    world.ports.jobs.put_all(writes.collect()).await.unwrap();
    sweep::sweep(&world.ports, world.now()).await.unwrap();
    world.set("2026-11-23T08:00:00Z");
    let ticked = scheduler::tick_while(&world.ports, world.now(), &|| false).await.unwrap();
    assert_eq!((ticked.started, ticked.more), (500, true));
    world.set("2026-11-23T08:01:00Z");
    let ticked = world.schedule().await;
    assert_eq!((ticked.started, ticked.resent, ticked.more), (200, 0, false));
    world.set("2026-11-23T08:02:00Z");
    assert_eq!(world.schedule().await, scheduler::SchedulerSummary::default());
}

#[tokio::test]
async fn a_run_that_cannot_be_stored_is_missed_with_the_reason_and_delays_nothing() {
    let (world, store) = world_with(&[job("large", "* * * * *")]).await;
    // It fits only without its latest start, as a missed run has none.
    store.treat(|write| write.run.start_by.map(|_| WriteResult::Never("an item of 500000 bytes".to_owned())));
    for minute in 0..3 {
        world.set(&format!("2026-11-23T08:0{minute}:00Z"));
        let ticked = world.schedule().await;
        assert_eq!((ticked.started, ticked.missed, ticked.failed), (0, 1, 0), "minute {minute}: {ticked:?}");
    }
    assert_eq!(world.history("large").await, ["08:00 missed", "08:01 missed", "08:02 missed"]);
    let reason = "the run cannot be stored: an item of 500000 bytes";
    assert_eq!(world.runs("large").await[0].reason.as_deref(), Some(reason));
    let alerts = world.send_alerts().await;
    assert_eq!(alerts.len(), 1, "{alerts:?}");

    // The store takes no run of the job at all: an alert has the reason, and the job goes on.
    store.treat(|_| Some(WriteResult::Never("an item of 500000 bytes".to_owned())));
    world.set("2026-11-23T08:03:00Z");
    let ticked = world.schedule().await;
    assert_eq!((ticked.missed, ticked.failed, ticked.bad_jobs), (0, 1, 1), "{ticked:?}");
    let alerts = world.ports.alerts.list(None, 10).await.unwrap().records;
    assert!(alerts.iter().any(|alert| alert.kind == AlertKind::BadJob && alert.key() == key("large")), "{alerts:?}");
    store.treat(|_| None);
    world.set("2026-11-23T08:04:00Z");
    assert_eq!(world.schedule().await.started, 1);
    assert_eq!(world.history("large").await.last().unwrap(), "08:04 scheduled");
}

/// All duties of a tick, each minute for an hour, beside a job whose runs cannot be stored.
#[tokio::test]
async fn the_calls_of_all_duties_are_the_same_after_an_hour() {
    let jobs: Vec<Job> = (0..5).map(|n| job(&format!("each-{n}"), "* * * * *")).collect();
    let (world, store) = world_with(&jobs).await;
    store.treat(|write| {
        let is_large = write.run.job == "each-3" && write.run.is_open();
        is_large.then(|| WriteResult::Never("an item of 500000 bytes".to_owned()))
    });
    let plan = Plan::new(usize::MAX, Moment::Before);
    let ports = Faulty::ports(&world.ports, &plan);
    let mut calls = Vec::new();
    for _ in 0..60 {
        world.pass(60);
        let (now, before) = (world.now(), plan.made());
        let ticked = scheduler::tick(&ports, now).await.unwrap();
        assert_eq!((ticked.started, ticked.missed), (4, 1));
        let open = overdue::list_open_runs(&ports).await.unwrap();
        release::release_due(&ports, &open, now).await.unwrap();
        overdue::tick(&ports, &open, now).await.unwrap();
        calls.push(plan.made() - before);
        // The runners work with calls of their own.
        world.run_all(0).await;
        world.collect().await;
    }
    assert_eq!(calls[59], calls[1], "{calls:?}");
}

#[tokio::test]
async fn one_run_that_cannot_be_ended_stops_the_check_of_no_other() {
    let names = ["a", "b", "c"];
    let mut jobs: Vec<Job> = names.iter().map(|name| job(name, "0 8 * * *")).collect();
    jobs.iter_mut().for_each(|job| job.start_within = Some(Duration::from_secs(120)));
    // Each of them once, so that it is also the first that is checked.
    for failing in names {
        let (world, store) = world_with(&jobs).await;
        world.set("2026-11-23T08:00:00Z");
        world.schedule().await;
        world.set("2026-11-23T08:05:00Z");
        store.treat(move |write| (write.run.job == failing).then(|| WriteResult::Retry("throttled".to_owned())));
        let open = overdue::list_open_runs(&world.ports).await.unwrap();
        let error = overdue::tick(&world.ports, &open, world.now()).await.unwrap_err();
        assert_eq!(error.to_string(), "throttled");
        for name in names {
            let wanted = if name == failing { "08:00 scheduled" } else { "08:00 missed" };
            assert_eq!(world.history(name).await, [wanted], "{name} while {failing} fails");
        }
    }
}
