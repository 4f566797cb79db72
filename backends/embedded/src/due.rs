//! The due index, with one shard.

use async_trait::async_trait;
use domain::job::JobKey;
use domain::ports::{Due, DueIndex, PortResult};
use jiff::Timestamp;
use rusqlite::{Connection, params};

use crate::database::Durability;
use crate::row::{instant, stamp};
use crate::{Embedded, Outcome};

#[async_trait]
impl DueIndex for Embedded {
    fn shards(&self) -> u32 {
        1
    }

    async fn put(&self, entries: &[Due]) -> PortResult<()> {
        let entries = entries.to_vec();
        self.database.write(Durability::Normal, move |connection| insert(connection, &entries)).await
    }

    async fn list(&self, shard: u32, from: Timestamp, until: Timestamp, most: usize) -> PortResult<Vec<Due>> {
        if shard > 0 {
            return Ok(Vec::new());
        }
        let read = move |connection: &rusqlite::Connection| {
            let mut select = connection.prepare_cached(
                "SELECT at, grp, name, timing FROM due WHERE at BETWEEN ?1 AND ?2 ORDER BY at, grp, name LIMIT ?3",
            )?;
            let found = select.query_map(params![stamp(from), stamp(until), most as i64], entry_from_row)?;
            Ok(found.collect::<Result<_, _>>()?)
        };
        self.database.read(read).await
    }

    async fn list_from(
        &self,
        shard: u32,
        from: Timestamp,
        job: &JobKey,
        until: Timestamp,
        most: usize,
    ) -> PortResult<Vec<Due>> {
        if shard > 0 {
            return Ok(Vec::new());
        }
        let job = job.clone();
        let read = move |connection: &rusqlite::Connection| {
            let mut select = connection.prepare_cached(
                "SELECT at, grp, name, timing FROM due WHERE (at, grp, name) >= (?1, ?2, ?3) AND at <= ?4 \
                 ORDER BY at, grp, name LIMIT ?5",
            )?;
            let found = select
                .query_map(params![stamp(from), job.group, job.name, stamp(until), most as i64], entry_from_row)?;
            Ok(found.collect::<Result<_, _>>()?)
        };
        self.database.read(read).await
    }

    async fn remove(&self, entries: &[Due]) -> PortResult<()> {
        let entries = entries.to_vec();
        self.database.write(Durability::Normal, move |connection| delete(connection, &entries)).await
    }
}

fn entry_from_row(columns: &rusqlite::Row<'_>) -> rusqlite::Result<Due> {
    let key = JobKey::new(columns.get::<_, String>(1)?, columns.get::<_, String>(2)?);
    Ok(Due { at: instant(columns.get(0)?), key, timing: columns.get(3)? })
}

pub(crate) fn insert(connection: &Connection, entries: &[Due]) -> Outcome<()> {
    let mut insert = connection
        .prepare_cached("INSERT INTO due (at, grp, name, timing) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?;
    for entry in entries {
        insert.execute(params![stamp(entry.at), entry.key.group, entry.key.name, entry.timing])?;
    }
    Ok(())
}

pub(crate) fn delete(connection: &Connection, entries: &[Due]) -> Outcome<()> {
    let mut delete =
        connection.prepare_cached("DELETE FROM due WHERE at = ?1 AND grp = ?2 AND name = ?3 AND timing = ?4")?;
    for entry in entries {
        delete.execute(params![stamp(entry.at), entry.key.group, entry.key.name, entry.timing])?;
    }
    Ok(())
}
