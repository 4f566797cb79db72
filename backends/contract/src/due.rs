//! Contract tests of the due index.

use std::collections::BTreeMap;

use domain::job::JobKey;
use domain::ports::{Due, Ports};
use jiff::Timestamp;

use crate::samples::{at, due};

async fn list_all(ports: &Ports, from: Timestamp, until: Timestamp) -> Vec<Due> {
    let mut found = Vec::new();
    for shard in 0..ports.due.shards() {
        found.extend(ports.due.list(shard, from, until, 1000).await.unwrap());
    }
    found.sort();
    found
}

pub async fn an_entry_is_listed_when_its_instant_is_within_both_bounds(ports: &Ports) {
    let entries = [due("a", 0), due("a", 59), due("b", 60), due("c", 61), due("c", 3600)];
    ports.due.put(&entries).await.unwrap();
    assert_eq!(list_all(ports, at(0), at(3600)).await, entries);
    assert_eq!(list_all(ports, at(59), at(60)).await, entries[1..3]);
    assert_eq!(list_all(ports, at(62), at(3599)).await, []);
    assert_eq!(list_all(ports, at(-86_400), at(0)).await, entries[..1]);
}

pub async fn an_entry_put_twice_is_there_once(ports: &Ports) {
    ports.due.put(&[due("a", 0)]).await.unwrap();
    ports.due.put(&[due("a", 0), due("b", 0)]).await.unwrap();
    assert_eq!(list_all(ports, at(0), at(0)).await, [due("a", 0), due("b", 0)]);
}

pub async fn every_entry_is_in_exactly_one_shard(ports: &Ports) {
    let entries: Vec<Due> = (0..50).map(|number| due(&format!("job-{number:02}"), 0)).collect();
    ports.due.put(&entries).await.unwrap();
    let mut shards: BTreeMap<Due, u32> = BTreeMap::new();
    for shard in 0..ports.due.shards() {
        for entry in ports.due.list(shard, at(0), at(0), 1000).await.unwrap() {
            assert_eq!(shards.insert(entry, shard), None);
        }
    }
    assert_eq!(shards.len(), entries.len());
    let later: Vec<Due> = entries.iter().map(|entry| Due { at: at(60), ..entry.clone() }).collect();
    ports.due.put(&later).await.unwrap();
    for shard in 0..ports.due.shards() {
        for entry in ports.due.list(shard, at(60), at(60), 1000).await.unwrap() {
            let first = Due { at: at(0), ..entry };
            assert_eq!(shards.get(&first), Some(&shard), "a job stays in its shard");
        }
    }
    assert!(ports.due.list(ports.due.shards(), at(0), at(60), 1000).await.unwrap().is_empty());
}

pub async fn a_listing_is_earliest_first_and_as_long_as_asked_for(ports: &Ports) {
    let entries: Vec<Due> = (0..9).rev().map(|number| due("a", number * 60)).collect();
    ports.due.put(&entries).await.unwrap();
    for shard in 0..ports.due.shards() {
        let found = ports.due.list(shard, at(0), at(9 * 60), 4).await.unwrap();
        if found.is_empty() {
            continue;
        }
        let instants: Vec<Timestamp> = found.iter().map(|entry| entry.at).collect();
        assert_eq!(instants, [at(0), at(60), at(120), at(180)]);
        return;
    }
    panic!("no shard has the job");
}

pub async fn a_listing_continues_at_a_job_of_an_instant(ports: &Ports) {
    // Texts of `GROUP/NAME` sort differently than their parts.
    let groups = ["a", "a-b", "a.b", "ab"].iter().flat_map(|group| [(*group, "x"), (*group, "y")]);
    let entries: Vec<Due> = groups.map(|(group, name)| Due { key: JobKey::new(group, name), ..due("a", 0) }).collect();
    ports.due.put(&entries).await.unwrap();
    ports.due.put(&[due("later", 60), due("too late", 120)]).await.unwrap();
    let mut count = 0;
    for shard in 0..ports.due.shards() {
        let all = ports.due.list(shard, at(0), at(60), 1000).await.unwrap();
        count += all.len();
        for (index, entry) in all.iter().enumerate() {
            let rest = ports.due.list_from(shard, entry.at, &entry.key, at(60), 1000).await.unwrap();
            assert_eq!(rest, all[index..]);
            let two = ports.due.list_from(shard, entry.at, &entry.key, at(60), 2).await.unwrap();
            assert_eq!(two, all[index..all.len().min(index + 2)]);
        }
    }
    assert_eq!(count, 9);
}

pub async fn removing_an_entry_twice_is_harmless(ports: &Ports) {
    ports.due.put(&[due("a", 0), due("b", 0)]).await.unwrap();
    ports.due.remove(&[due("a", 0)]).await.unwrap();
    ports.due.remove(&[due("a", 0)]).await.unwrap();
    assert!(list_all(ports, at(0), at(0)).await.contains(&due("b", 0)));
}
