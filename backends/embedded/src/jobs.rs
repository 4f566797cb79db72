//! The jobs table.

use async_trait::async_trait;
use domain::job::{Job, JobKey};
use domain::ports::{Cursor, JobStore, JobWrite, Page, PortResult, StoredJob};
use rusqlite::{OptionalExtension, Row, params};

use crate::database::Durability;
use crate::{Embedded, Outcome, due, row};

#[async_trait]
impl JobStore for Embedded {
    async fn get(&self, keys: &[JobKey]) -> PortResult<Vec<StoredJob>> {
        let keys = keys.to_vec();
        let read = move |connection: &rusqlite::Connection| {
            let mut select =
                connection.prepare_cached("SELECT grp, name, version, body FROM jobs WHERE grp = ?1 AND name = ?2")?;
            let mut found = Vec::with_capacity(keys.len());
            for key in &keys {
                found.extend(select.query_row([&key.group, &key.name], stored_job).optional()?);
            }
            Ok(found)
        };
        self.database.read(read).await
    }

    async fn put(&self, job: &Job, expected: Option<u64>) -> PortResult<bool> {
        let job = job.clone();
        let write = move |connection: &rusqlite::Connection| put_job(connection, &job, expected);
        self.database.write(Durability::Full, write).await
    }

    async fn put_all(&self, writes: Vec<JobWrite>) -> PortResult<Vec<bool>> {
        let write = move |connection: &rusqlite::Connection| {
            let mut results = Vec::with_capacity(writes.len());
            for write in &writes {
                let is_written = put_job(connection, &write.job, write.expected)?;
                if is_written {
                    due::insert(connection, write.entry.as_slice())?;
                    due::delete(connection, write.former_entry.as_slice())?;
                }
                results.push(is_written);
            }
            Ok(results)
        };
        self.database.write(Durability::Full, write).await
    }

    async fn remove(&self, keys: &[JobKey]) -> PortResult<()> {
        let keys = keys.to_vec();
        let write = move |connection: &rusqlite::Connection| {
            let mut delete = connection.prepare_cached("DELETE FROM jobs WHERE grp = ?1 AND name = ?2")?;
            for key in &keys {
                delete.execute([&key.group, &key.name])?;
            }
            Ok(())
        };
        self.database.write(Durability::Full, write).await
    }

    async fn list(&self, group: Option<&str>, after: Option<&Cursor>, most: usize) -> PortResult<Page<StoredJob>> {
        let group = group.map(str::to_owned);
        let after: Option<JobKey> = after.and_then(|cursor| serde_json::from_str(&cursor.0).ok());
        let read = move |connection: &rusqlite::Connection| {
            let after = after.unwrap_or_else(|| JobKey::new("", ""));
            let mut select = connection.prepare_cached(
                "SELECT grp, name, version, body FROM jobs
                 WHERE (grp, name) > (?1, ?2) AND (?3 IS NULL OR grp = ?3) ORDER BY grp, name LIMIT ?4",
            )?;
            let found = select.query_map(params![after.group, after.name, group, most as i64], stored_job)?;
            let records = found.collect::<Result<Vec<_>, _>>()?;
            let next = match records.last() {
                Some(last) if records.len() == most => Some(Cursor(serde_json::to_string(&last.key)?)),
                _ => None,
            };
            Ok(Page { records, next })
        };
        self.database.read(read).await
    }
}

fn stored_job(columns: &Row<'_>) -> rusqlite::Result<StoredJob> {
    let key = JobKey::new(columns.get::<_, String>(0)?, columns.get::<_, String>(1)?);
    let version: i64 = columns.get(2)?;
    // A row edited by hand may hold a blob, a number or invalid JSON.
    let body = columns.get_ref(3)?.as_str().map_err(|error| error.to_string());
    let job = body.map_err(|error| format!("the stored record is not text: {error}")).and_then(|body| {
        let job: Job = row::parse(body)?;
        match job.key() == key {
            true => Ok(job),
            false => Err(format!("the record of {key} contains the name {}; make both equal", job.key())),
        }
    });
    Ok(StoredJob { key, job, version: version as u64 })
}

fn put_job(connection: &rusqlite::Connection, job: &Job, expected: Option<u64>) -> Outcome<bool> {
    let body = serde_json::to_string(job)?;
    let changed = match expected {
        None => connection
            .prepare_cached(
                "INSERT INTO jobs (grp, name, version, body) VALUES (?1, ?2, 1, ?3) ON CONFLICT DO NOTHING",
            )?
            .execute(params![job.group, job.name, body])?,
        Some(version) => connection
            .prepare_cached(
                "UPDATE jobs SET version = version + 1, body = ?3 WHERE grp = ?1 AND name = ?2 AND version = ?4",
            )?
            .execute(params![job.group, job.name, body, version as i64])?,
    };
    Ok(changed > 0)
}
