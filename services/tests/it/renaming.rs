//! Entries of a crontab without a name, whose default name changes with an upgrade of Sexton.

use domain::alert::{AlertKind, Status};
use domain::job::{Concurrency, Job, JobKey};
use domain::job_list::ListedJob;
use domain::ports::Ports;
use services::commands::{self, AppliedFile, ApplyOptions, Difference};

use crate::faulty::{Faulty, Moment, Plan};
use crate::world::{World, job, key};

const FILE: &str = "/etc/sexton/crontab";

/// The new build reads the file.
async fn upgrade_over(
    ports: &Ports,
    world: &World,
    jobs: &[Job],
    other_sources: &[String],
) -> services::Result<Difference> {
    let listed = |job: &Job| {
        let former_names = vec![JobKey::new("never", "stored"), key(job.name.trim_start_matches("new-"))];
        ListedJob { job: job.clone(), former_names, in_host_zone: false }
    };
    let jobs = jobs.iter().map(listed).collect();
    let file = AppliedFile { source: FILE, jobs: &jobs, former_sources: &[], replaced_sources: &[], other_sources };
    commands::apply_file(ports, &file, ApplyOptions { prune: true, dry_run: false }, world.now()).await
}

async fn upgrade(world: &World, jobs: &[Job]) -> Difference {
    upgrade_over(&world.ports, world, jobs, &[]).await.unwrap()
}

async fn apply_with_old_build(world: &World, jobs: &[Job]) {
    let how = ApplyOptions { prune: true, dry_run: false };
    commands::apply(&world.ports, FILE, jobs, how, world.now()).await.unwrap();
}

/// Under the old build, `dump` ran at 08:00. Then it stopped.
async fn stopped_after_08_00(dump: &Job) -> World {
    let world = World::new("2026-11-23T07:59:00Z");
    apply_with_old_build(&world, std::slice::from_ref(dump)).await;
    world.set("08:00");
    world.schedule().await;
    world.run_all(0).await;
    world.collect().await;
    world
}

fn renamed(dump: &Job) -> Job {
    Job { name: format!("new-{}", dump.name), ..dump.clone() }
}

/// Each firing of both names, until 08:40.
async fn histories(world: &World) -> (Vec<String>, Vec<String>) {
    for minute in ["08:30", "08:40"] {
        world.set(minute);
        world.schedule().await;
        world.run_all(0).await;
        world.collect().await;
    }
    (world.history("dump").await, world.history("new-dump").await)
}

#[tokio::test]
async fn no_firing_is_lost_or_doubled_when_a_job_gets_its_new_name() {
    let dump = job("dump", "*/10 * * * *");
    let world = stopped_after_08_00(&dump).await;
    world.set("08:25");
    let difference = upgrade(&world, &[renamed(&dump)]).await;
    assert_eq!(difference.renamed, [(key("dump"), key("new-dump"))]);
    assert!(difference.added.is_empty() && difference.removed.is_empty(), "{difference:?}");
    let (old, new) = histories(&world).await;
    assert_eq!(old, ["08:00 succeeded"], "its runs stay under the old name");
    assert_eq!(new, ["08:10 missed", "08:20 missed", "08:30 succeeded", "08:40 succeeded"]);
    assert_eq!(upgrade(&world, &[renamed(&dump)]).await.unchanged, 1);
    assert!(commands::get(&world.ports, &key("dump")).await.is_err());
}

#[tokio::test]
async fn a_death_in_any_call_of_the_upgrade_loses_and_doubles_no_firing() {
    let mut dump = job("dump", "*/10 * * * *");
    dump.concurrency = Concurrency::Forbid;
    let story = async |plan: &std::sync::Arc<Plan>| {
        let world = stopped_after_08_00(&dump).await;
        let ports = Faulty::ports(&world.ports, plan);
        world.set("08:25");
        while upgrade_over(&ports, &world, &[renamed(&dump)], &[]).await.is_err() {}
        histories(&world).await
    };
    let whole = Plan::new(usize::MAX, Moment::Before);
    let wanted = story(&whole).await;
    assert_eq!(wanted.1, ["08:10 missed", "08:20 missed", "08:30 succeeded", "08:40 succeeded"]);
    assert!(whole.made() > 10, "{}", whole.made());
    for call in 0..whole.made() {
        for moment in [Moment::Before, Moment::After] {
            assert_eq!(story(&Plan::new(call, moment)).await, wanted, "after dying {moment:?} call {call}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_applied_to_a_running_scheduler_fires_each_instant_once() {
    let dump = job("dump", "*/10 * * * *");
    let world = stopped_after_08_00(&dump).await;
    // Started and not reported yet.
    world.set("08:10");
    world.schedule().await;
    upgrade(&world, &[renamed(&dump)]).await;
    world.schedule().await;
    assert_eq!((world.runs("dump").await.len(), world.runs("new-dump").await.len()), (2, 0));
    world.run_all(0).await;
    world.collect().await;
    let (old, new) = histories(&world).await;
    assert_eq!(old, ["08:00 succeeded", "08:10 succeeded"]);
    assert_eq!(new, ["08:20 missed", "08:30 succeeded", "08:40 succeeded"]);
}

#[tokio::test]
async fn pause_anchor_and_alert_state_pass_to_the_new_name() {
    let dump = job("dump", "@every 7m");
    let world = World::new("2026-11-23T07:59:00Z");
    apply_with_old_build(&world, std::slice::from_ref(&dump)).await;
    commands::run_now(&world.ports, &key("dump"), [1; 6], world.now()).await.unwrap();
    world.run_all(1).await;
    world.collect().await;
    assert_eq!(world.send_alert_kinds().await, [AlertKind::Failed]);
    commands::pause(&world.ports, &key("dump"), domain::job::Pause::new(world.now(), None, "noise")).await.unwrap();
    world.set("08:01");
    upgrade(&world, &[renamed(&dump)]).await;
    let stored = commands::get(&world.ports, &key("new-dump")).await.unwrap().job.unwrap();
    assert_eq!(stored.paused.map(|pause| pause.why), Some("noise".to_owned()));
    assert_eq!(stored.anchor, Some("2026-11-23T07:59:00Z".parse().unwrap()));
    let status = async |name| world.ports.alerts.state(&key(name)).await.unwrap().record.status;
    assert_eq!((status("dump").await, status("new-dump").await), (Status::Good, Status::Bad));
    commands::resume(&world.ports, &key("new-dump"), world.now()).await.unwrap();
    commands::run_now(&world.ports, &key("new-dump"), [2; 6], world.now()).await.unwrap();
    world.run_all(0).await;
    world.collect().await;
    assert_eq!(world.send_alert_kinds().await, [AlertKind::Recovered], "the failure had been alerted");
}

#[tokio::test]
async fn a_run_that_is_open_or_held_during_the_upgrade_ends_by_the_definition_of_its_job() {
    let mut dump = job("dump", "*/10 * * * *");
    dump.concurrency = Concurrency::Queue;
    let world = stopped_after_08_00(&dump).await;
    for minute in ["08:10", "08:20"] {
        world.set(minute);
        world.schedule().await;
    }
    world.set("08:21");
    upgrade(&world, &[renamed(&dump)]).await;
    world.run_all(0).await;
    world.collect().await;
    world.run_all(0).await;
    world.collect().await;
    let (old, new) = histories(&world).await;
    assert_eq!(old, ["08:00 succeeded", "08:10 succeeded", "08:20 succeeded"]);
    assert_eq!(new, ["08:30 succeeded", "08:40 succeeded"]);
    upgrade(&world, &[renamed(&dump)]).await;
    assert!(commands::get(&world.ports, &key("dump")).await.is_err(), "deleted with its last run");
}

#[tokio::test]
async fn a_job_of_another_file_keeps_its_name_and_two_files_with_one_entry_get_two_jobs() {
    let dump = job("dump", "*/10 * * * *");
    let world = World::new("2026-11-23T07:59:00Z");
    let how = ApplyOptions { prune: true, dry_run: false };
    commands::apply(&world.ports, "/other", std::slice::from_ref(&dump), how, world.now()).await.unwrap();
    let others = ["/other".to_owned()];
    let difference = upgrade_over(&world.ports, &world, &[renamed(&dump)], &others).await.unwrap();
    assert_eq!((difference.added.len(), difference.renamed.len()), (1, 0));
    assert!(commands::get(&world.ports, &key("dump")).await.is_ok());
    // A file that is not named any longer: the entry moved.
    let difference = upgrade_over(&world.ports, &world, &[renamed(&dump)], &[]).await.unwrap();
    assert_eq!(difference.unchanged, 1);
    assert!(commands::get(&world.ports, &key("dump")).await.is_err());
}

#[tokio::test]
async fn jobs_of_a_former_source_belong_to_the_file() {
    let world = World::new("2026-11-23T07:59:00Z");
    let how = ApplyOptions { prune: true, dry_run: false };
    let stored = [job("kept", "0 1 * * *"), job("dropped", "0 1 * * *")];
    commands::apply(&world.ports, "/releases/2/crontab", &stored, how, world.now()).await.unwrap();
    let former = ["/releases/2/crontab".to_owned()];
    let file = AppliedFile {
        source: "/current/crontab",
        jobs: &stored[..1].into(),
        former_sources: &former,
        replaced_sources: &[],
        other_sources: &[],
    };
    let difference = commands::apply_file(&world.ports, &file, how, world.now()).await.unwrap();
    assert_eq!((difference.changed, difference.removed), (vec![key("kept")], vec![key("dropped")]));
    assert!(difference.taken_over.is_empty());
    let kept = commands::get(&world.ports, &key("kept")).await.unwrap().job.unwrap();
    assert_eq!(kept.source.as_deref(), Some("/current/crontab"));
}
