//! Commands of operators: apply a file, run now, and their refusals.

use domain::job::{Concurrency, JobKey};
use domain::run::{Outcome, Trigger};
use services::Error;
use services::commands::{self, ApplyOptions, Difference};

use crate::world::{World, job, key};

fn names(keys: &[JobKey]) -> Vec<&str> {
    keys.iter().map(|key| key.name.as_str()).collect()
}

async fn apply(world: &World, source: &str, jobs: &[domain::job::Job], how: ApplyOptions) -> Difference {
    commands::apply(&world.ports, source, jobs, how, world.now()).await.unwrap()
}

#[tokio::test]
async fn applying_a_file_makes_the_stored_jobs_equal_to_it() {
    let world = World::new("2026-11-23T08:00:00Z");
    let first = [job("a", "0 1 * * *"), job("b", "@every 7m"), job("c", "0 3 * * *")];
    let dry = apply(&world, "one.toml", &first, ApplyOptions { dry_run: true, ..ApplyOptions::default() }).await;
    assert_eq!(names(&dry.added), ["a", "b", "c"]);
    assert_eq!(apply(&world, "one.toml", &first, ApplyOptions::default()).await, dry, "a dry run stored nothing");
    apply(&world, "two.toml", &[job("other", "0 1 * * *")], ApplyOptions::default()).await;
    commands::pause(&world.ports, &key("b"), domain::job::Pause::new(world.now(), None, "")).await.unwrap();
    world.pass(100);
    let second = [job("a", "0 2 * * *"), job("b", "@every 7m"), job("d", "0 3 * * *")];
    let difference = apply(&world, "one.toml", &second, ApplyOptions::default()).await;
    assert_eq!((names(&difference.added), names(&difference.changed)), (vec!["d"], vec!["a"]));
    assert_eq!((difference.unchanged, names(&difference.kept)), (1, vec!["c"]));
    let difference = apply(&world, "one.toml", &second, ApplyOptions { prune: true, ..ApplyOptions::default() }).await;
    assert_eq!(names(&difference.removed), ["c"]);
    assert_eq!(difference.unchanged, 3);
    let b = commands::get(&world.ports, &key("b")).await.unwrap().job.unwrap();
    assert!(b.paused.is_some() && b.anchor == Some("2026-11-23T08:00:00Z".parse().unwrap()), "{b:?}");
    assert!(commands::get(&world.ports, &key("other")).await.is_ok(), "jobs of other files stay");
    let taken = apply(&world, "three.toml", &[job("other", "0 1 * * *")], ApplyOptions::default()).await;
    assert_eq!((names(&taken.changed), names(&taken.taken_over)), (vec!["other"], vec!["other"]));
}

#[tokio::test]
async fn an_invalid_job_in_a_file_stores_no_job() {
    let world = World::new("2026-11-23T08:00:00Z");
    let jobs = [job("a", "0 1 * * *"), job("b", "99 1 * * *")];
    let error =
        commands::apply(&world.ports, "one.toml", &jobs, ApplyOptions::default(), world.now()).await.unwrap_err();
    assert!(matches!(&error, Error::BadJob { key, .. } if key.name == "b"), "{error}");
    assert!(matches!(commands::get(&world.ports, &key("a")).await, Err(Error::NoSuchJob(_))));
}

#[tokio::test]
async fn a_manual_start_ignores_the_schedule_but_keeps_concurrency() {
    let world = World::new("2026-11-23T08:00:20Z");
    let mut dump = job("dump", "@manually");
    dump.concurrency = Concurrency::Forbid;
    world.put(&dump).await;
    commands::pause(&world.ports, &key("dump"), domain::job::Pause::new(world.now(), None, "")).await.unwrap();
    let run = commands::run_now(&world.ports, &key("dump"), [0xab; 6], world.now()).await.unwrap();
    assert_eq!((run.run_id.as_str(), run.trigger), ("20261123T080020Z-abababababab", Trigger::Manual));
    let second = commands::run_now(&world.ports, &key("dump"), [0xcd; 6], world.now()).await.unwrap();
    assert_eq!(second.outcome, Some(Outcome::Skipped));
    assert_eq!(world.run_all(0).await.len(), 1);
    world.collect().await;
    assert_eq!(world.run(&run.run_id).await.outcome, Some(Outcome::Succeeded));
    let error = commands::run_now(&world.ports, &key("absent"), [1; 6], world.now()).await.unwrap_err();
    assert_eq!(error.to_string(), "no job db/absent; `sexton jobs` lists all jobs");
}

#[tokio::test]
async fn a_deleted_job_no_longer_fires() {
    let world = World::new("2026-11-23T08:00:20Z");
    world.put(&job("dump", "* * * * *")).await;
    commands::remove(&world.ports, &key("dump"), world.now()).await.unwrap();
    world.pass(120);
    world.schedule().await;
    assert!(world.runs("dump").await.is_empty());
    let error = commands::remove(&world.ports, &key("dump"), world.now()).await.unwrap_err();
    assert!(matches!(error, Error::NoSuchJob(_)));
}
