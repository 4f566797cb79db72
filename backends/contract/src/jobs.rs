//! Contract tests of the job store.

use std::collections::BTreeSet;

use domain::job::JobKey;
use domain::ports::{Due, JobWrite, Ports};
use tokio::task::JoinSet;

use crate::samples::{at, job, key};

pub async fn a_job_comes_back_as_it_was_put(ports: &Ports) {
    let stored = job(&key("dump"));
    assert!(ports.jobs.put(&stored, None).await.unwrap());
    let found = ports.jobs.get(&[key("dump"), key("absent")]).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].key, found[0].job.as_ref().unwrap()), (&key("dump"), &stored));
}

pub async fn concurrent_creates_of_a_job_have_one_winner(ports: &Ports) {
    let mut creators = JoinSet::new();
    for number in 0..16 {
        let jobs = ports.jobs.clone();
        creators.spawn(async move {
            let mut mine = job(&key("dump"));
            mine.owner = number.to_string();
            (number, jobs.put(&mine, None).await.unwrap())
        });
    }
    let answers = creators.join_all().await;
    let winners: Vec<i32> = answers.into_iter().filter(|(_, won)| *won).map(|(number, _)| number).collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    let found = ports.jobs.get(&[key("dump")]).await.unwrap().remove(0);
    assert_eq!(found.job.unwrap().owner, winners[0].to_string());
}

pub async fn a_job_changes_only_at_its_latest_version(ports: &Ports) {
    let mut wanted = job(&key("dump"));
    assert!(!ports.jobs.put(&wanted, Some(1)).await.unwrap(), "there is no job yet");
    assert!(ports.jobs.put(&wanted, None).await.unwrap());
    let version = ports.jobs.get(&[key("dump")]).await.unwrap()[0].version;
    wanted.owner = "first".to_owned();
    assert!(ports.jobs.put(&wanted, Some(version)).await.unwrap());
    wanted.owner = "second".to_owned();
    assert!(!ports.jobs.put(&wanted, Some(version)).await.unwrap());
    assert!(!ports.jobs.put(&wanted, None).await.unwrap());
    let found = ports.jobs.get(&[key("dump")]).await.unwrap().remove(0);
    assert!(found.version > version);
    assert_eq!(found.job.unwrap().owner, "first");
}

pub async fn removing_a_job_twice_is_harmless(ports: &Ports) {
    assert!(ports.jobs.put(&job(&key("dump")), None).await.unwrap());
    assert!(ports.jobs.put(&job(&key("other")), None).await.unwrap());
    let both = [key("dump"), key("other")];
    ports.jobs.remove(&both).await.unwrap();
    ports.jobs.remove(&both).await.unwrap();
    ports.jobs.remove(&[]).await.unwrap();
    assert!(ports.jobs.get(&both).await.unwrap().is_empty());
    assert!(ports.jobs.put(&job(&key("dump")), None).await.unwrap(), "a removed job can be created again");
}

pub async fn all_jobs_are_listed_page_by_page_and_group_by_group(ports: &Ports) {
    let mut all = BTreeSet::new();
    for group in ["a", "b", "c"] {
        for number in 0..7 {
            let key = JobKey::new(group, format!("job-{number}"));
            assert!(ports.jobs.put(&job(&key), None).await.unwrap());
            all.insert(key);
        }
    }
    let of_b = all.iter().filter(|key| key.group == "b").cloned().collect();
    for (group, wanted) in [(None, all), (Some("b"), of_b), (Some("absent"), BTreeSet::new())] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = ports.jobs.list(group, after.as_ref(), 4).await.unwrap();
            assert!(page.records.len() <= 4);
            seen.extend(page.records.into_iter().map(|stored| stored.key));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, wanted.into_iter().collect::<Vec<_>>(), "{group:?}");
    }
}

pub async fn a_batch_of_jobs_is_written_with_its_due_entries(ports: &Ports) {
    let write = |name: &str, expected: Option<u64>, second: i64| {
        let job = job(&key(name));
        let entry = Due { at: at(second), key: job.key(), timing: job.timing() };
        JobWrite { job, expected, entry: Some(entry), former_entry: None }
    };
    assert!(ports.jobs.put(&job(&key("stored")), None).await.unwrap());
    let writes = vec![write("new", None, 60), write("stored", None, 120), write("stored", Some(1), 180)];
    assert_eq!(ports.jobs.put_all(writes).await.unwrap(), [true, false, true], "each is written on its own");
    let mut entries = Vec::new();
    for shard in 0..ports.due.shards() {
        entries.extend(ports.due.list(shard, at(0), at(600), 10).await.unwrap());
    }
    entries.sort();
    let found: Vec<(&str, jiff::Timestamp)> = entries.iter().map(|entry| (&*entry.key.name, entry.at)).collect();
    assert_eq!(found, [("new", at(60)), ("stored", at(180))]);
    let former = JobWrite { entry: None, former_entry: Some(entries[0].clone()), ..write("new", Some(1), 0) };
    assert_eq!(ports.jobs.put_all(vec![former]).await.unwrap(), [true]);
    assert_eq!(ports.jobs.get(&[key("new")]).await.unwrap()[0].version, 2);
}
