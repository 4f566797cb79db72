//! A table as a queue with leases, for orders and reports. Delivers at least once. A send in the same process wakes
//! waiting receivers at once.
//!
//! An unreadable message is quarantined (column `parked`): it stays in the table, is logged, and is never received.

use std::sync::Arc;
use std::time::Duration;

use domain::ports::{Delivery, PortError, PortResult};
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::database::{Database, Durability};
use crate::row::{self, instant, stamp};
use crate::{Clock, Outcome};

/// Longest poll interval of a waiting receiver: no notification arrives when another process writes. Chosen, not
/// measured.
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Queue {
    database: Arc<Database>,
    table: &'static str,
    clock: Clock,
    arrived: Notify,
}

/// A message to send.
pub(crate) struct QueuedMessage {
    /// Equal for all copies of a message: a copy of a stored message is dropped.
    pub key: String,
    pub group: String,
    /// The message is hidden until then.
    pub ready: Timestamp,
    pub body: String,
}

impl Queue {
    pub(crate) fn new(database: Arc<Database>, table: &'static str, clock: Clock) -> Queue {
        Queue { database, table, clock, arrived: Notify::new() }
    }

    pub(crate) async fn send(&self, messages: Vec<QueuedMessage>, durability: Durability) -> PortResult<()> {
        let table = self.table;
        let write = move |connection: &Connection| {
            let mut insert = connection.prepare_cached(&format!(
                "INSERT INTO {table} (key, grp, ready, body) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING"
            ))?;
            for message in &messages {
                insert.execute(params![message.key, message.group, stamp(message.ready), message.body])?;
            }
            Ok(())
        };
        self.database.write(durability, write).await?;
        self.arrived.notify_waiters();
        Ok(())
    }

    /// Receives up to `most` messages of the groups (empty: all), leased; waits up to `wait` for the first.
    pub(crate) async fn receive<T: DeserializeOwned + Send + 'static>(
        &self,
        groups: &[String],
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery<T>>> {
        let groups = serde_json::to_string(groups).map_err(|error| PortError::Permanent(error.to_string()))?;
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let now = (self.clock)();
            let ready = self.next_ready_at(&groups, now).await?;
            if ready.is_some_and(|ready| ready <= now) {
                let claimed = self.claim_rows(groups.clone(), most, now, lease).await?;
                if !claimed.is_empty() {
                    return Ok(claimed);
                }
            }
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            if remaining.is_zero() {
                return Ok(Vec::new());
            }
            let until_ready = ready
                .and_then(|ready| Duration::try_from(ready.duration_since(now)).ok())
                .filter(|until| !until.is_zero())
                .unwrap_or(POLL_INTERVAL_MAX);
            // Woken or not, the table is read again.
            let _ = tokio::time::timeout(remaining.min(until_ready).min(POLL_INTERVAL_MAX), arrived).await;
        }
    }

    pub(crate) async fn delete(&self, receipts: &[String]) -> PortResult<()> {
        let ids: Vec<i64> = receipts.iter().filter_map(|receipt| receipt.parse().ok()).collect();
        let table = self.table;
        let write = move |connection: &Connection| {
            let mut delete = connection.prepare_cached(&format!("DELETE FROM {table} WHERE id = ?1"))?;
            for id in &ids {
                delete.execute([id])?;
            }
            Ok(())
        };
        self.database.write(Durability::Normal, write).await
    }

    /// Returns when the next message of these groups can be received; now if any lease is void.
    async fn next_ready_at(&self, groups: &str, now: Timestamp) -> PortResult<Option<Timestamp>> {
        let (table, groups) = (self.table, groups.to_owned());
        let read = move |connection: &Connection| {
            let mut select = connection.prepare_cached(&format!(
                "SELECT ready, EXISTS (SELECT 1 FROM {table} WHERE leased_at > ?2) FROM {table}
                 WHERE parked = 0 AND {IN_GROUPS} ORDER BY ready LIMIT 1"
            ))?;
            let found = select.query_row(params![groups, row::lease_void_after(now)], |columns| {
                let (ready, void): (i64, bool) = (columns.get(0)?, columns.get(1)?);
                Ok(if void { now } else { instant(ready) })
            });
            Ok(found.optional()?)
        };
        self.database.read(read).await
    }

    async fn claim_rows<T: DeserializeOwned + Send + 'static>(
        &self,
        groups: String,
        most: usize,
        now: Timestamp,
        lease: Duration,
    ) -> PortResult<Vec<Delivery<T>>> {
        let table = self.table;
        let until = SignedDuration::try_from(lease)
            .ok()
            .and_then(|lease| now.checked_add(lease).ok())
            .unwrap_or(Timestamp::MAX);
        let write = move |connection: &Connection| -> Outcome<Vec<Delivery<T>>> {
            row::release_void_leases(connection, table, now)?;
            let mut select = connection.prepare_cached(&format!(
                "SELECT id, key, body FROM {table} WHERE parked = 0 AND ready <= ?2 AND {IN_GROUPS}
                 ORDER BY ready, id LIMIT ?3"
            ))?;
            let rows = select.query_map(params![groups, stamp(now), most as i64], |columns| {
                Ok((columns.get::<_, i64>(0)?, columns.get::<_, String>(1)?, row::text(columns, 2)?))
            })?;
            let rows = rows.collect::<Result<Vec<_>, _>>()?;
            let mut lease =
                connection.prepare_cached(&format!("UPDATE {table} SET ready = ?2, leased_at = ?3 WHERE id = ?1"))?;
            let mut claimed = Vec::with_capacity(rows.len());
            for (id, key, body) in rows {
                match row::parse(&body) {
                    Ok(message) => {
                        lease.execute(params![id, stamp(until), stamp(now)])?;
                        claimed.push(Delivery { message, receipt: id.to_string() });
                    }
                    Err(why) => {
                        let quarantine = format!("UPDATE {table} SET parked = 1, leased_at = NULL WHERE id = ?1");
                        connection.execute(&quarantine, [id])?;
                        row::quarantine(connection, table, &key, &why, now)?;
                    }
                }
            }
            Ok(claimed)
        };
        self.database.write(Durability::Normal, write).await
    }
}

/// `?1` is a JSON list of groups; an empty list matches all.
const IN_GROUPS: &str = "(?1 = '[]' OR grp IN (SELECT value FROM json_each(?1)))";
