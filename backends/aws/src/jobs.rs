//! The jobs, one item each, which operators can read and edit in the AWS console.

use async_trait::async_trait;
use domain::job::{Job, JobKey};
use domain::ports::{Cursor, DueIndex, JobStore, JobWrite, Page, PortResult, StoredJob};

use crate::Backend;
use crate::dynamo::{Dynamo, ItemWriteResult, Query, QueryPage};
use crate::item::{Item, n, number_at, s, text_at};
use crate::job_item::{VERSION, job_from_item, job_to_item};
use crate::names::check_group_for_port;

const JOBS: &str = "jobs";

/// Sorts after all names, which are ASCII.
const AFTER_ALL_NAMES: &str = "\u{7f}";

#[async_trait]
impl JobStore for Backend {
    async fn get(&self, keys: &[JobKey]) -> PortResult<Vec<StoredJob>> {
        let mut wanted: Vec<&JobKey> =
            keys.iter().filter(|key| !key.group.is_empty() && !key.name.is_empty()).collect();
        wanted.sort();
        wanted.dedup();
        let items = self.dynamo.batch_get(JOBS, wanted.into_iter().map(item_key).collect()).await?;
        Ok(items.iter().map(|item| self.stored_job(item)).collect())
    }

    async fn put(&self, job: &Job, expected: Option<u64>) -> PortResult<bool> {
        check_group_for_port(&self.names, &job.group)?;
        let mut item = job_to_item(job)?;
        item.insert(VERSION.to_owned(), n(expected.unwrap_or(0) + 1));
        let put = match expected {
            None => self.dynamo.put(JOBS, item, "attribute_not_exists(#name)", vec![]).await?,
            // An item written by hand has no version.
            Some(0) => {
                let condition = "attribute_exists(#name) AND attribute_not_exists(#version)";
                self.dynamo.put(JOBS, item, condition, vec![]).await?
            }
            Some(version) => self.dynamo.put(JOBS, item, "#version = :version", vec![(":version", n(version))]).await?,
        };
        Ok(matches!(put, ItemWriteResult::Done(_)))
    }

    async fn put_all(&self, writes: Vec<JobWrite>) -> PortResult<Vec<bool>> {
        let mut results = Vec::with_capacity(writes.len());
        for write in &writes {
            let is_written = JobStore::put(self, &write.job, write.expected).await?;
            if is_written {
                if let Some(entry) = &write.entry {
                    DueIndex::put(self, std::slice::from_ref(entry)).await?;
                }
                if let Some(former) = &write.former_entry {
                    DueIndex::remove(self, std::slice::from_ref(former)).await?;
                }
            }
            results.push(is_written);
        }
        Ok(results)
    }

    async fn remove(&self, keys: &[JobKey]) -> PortResult<()> {
        for key in keys {
            self.dynamo.delete(JOBS, item_key(key), "", vec![]).await?;
        }
        Ok(())
    }

    async fn list(&self, group: Option<&str>, after: Option<&Cursor>, most: usize) -> PortResult<Page<StoredJob>> {
        let after: Option<JobKey> = after.and_then(|cursor| serde_json::from_str(&cursor.0).ok());
        let groups = match group {
            Some(group) => vec![group.to_owned()],
            None => list_groups(&self.dynamo).await?,
        };
        let mut records: Vec<StoredJob> = Vec::new();
        for group in groups {
            if after.as_ref().is_some_and(|after| group < after.group) {
                continue;
            }
            let mut start = after.as_ref().filter(|after| after.group == group).map(item_key);
            loop {
                let left = most - records.len();
                let QueryPage { items, next } = self.dynamo.query(JOBS, group_query(&group, left, start)).await?;
                records.extend(items.iter().map(|item| self.stored_job(item)));
                if records.len() >= most {
                    let last = records.last().and_then(|last| serde_json::to_string(&last.key).ok());
                    return Ok(Page { records, next: last.map(Cursor) });
                }
                if next.is_none() {
                    break;
                }
                start = next;
            }
        }
        Ok(Page { records, next: None })
    }
}

impl Backend {
    pub(crate) async fn put_jobs(&self, jobs: &[Job]) -> PortResult<()> {
        let mut items = Vec::with_capacity(jobs.len());
        for job in jobs {
            check_group_for_port(&self.names, &job.group)?;
            let mut item = job_to_item(job)?;
            item.insert(VERSION.to_owned(), n(1));
            items.push(item);
        }
        self.dynamo.batch_put(JOBS, items).await
    }

    fn stored_job(&self, item: &Item) -> StoredJob {
        let key = JobKey::new(text_at(item, "group").unwrap_or_default(), text_at(item, "name").unwrap_or_default());
        let job = crate::names::check_group(&self.names, &key.group).and_then(|()| job_from_item(item));
        StoredJob { key, job, version: number_at(item, VERSION).unwrap_or(0) }
    }
}

fn item_key(key: &JobKey) -> Item {
    Item::from([("group".to_owned(), s(&key.group)), ("name".to_owned(), s(&key.name))])
}

fn group_query(group: &str, limit: usize, start: Option<Item>) -> Query {
    Query {
        condition: "#group = :group".to_owned(),
        values: vec![(":group", s(group))],
        consistent: true,
        limit: Some(limit),
        start,
        ..Query::default()
    }
}

/// Returns the groups that have jobs, sorted. Each scan begins after the last job of the previous group, so this takes
/// one read per group, for any number of jobs.
async fn list_groups(dynamo: &Dynamo) -> PortResult<Vec<String>> {
    let mut groups: Vec<String> = Vec::new();
    let mut start = None;
    loop {
        let found = dynamo.scan(JOBS, start, Some(1)).await?;
        let group = found.items.first().and_then(|item| text_at(item, "group"));
        match (group, found.next) {
            (Some(group), _) => {
                start = Some(item_key(&JobKey::new(group, AFTER_ALL_NAMES)));
                groups.push(group.to_owned());
            }
            (None, Some(next)) => start = Some(next),
            (None, None) => break,
        }
    }
    groups.sort();
    groups.dedup();
    Ok(groups)
}
