//! State of the services, heartbeats of runners, and notes about quarantined records.

use async_trait::async_trait;
use domain::ports::{Heartbeat, PortResult, Quarantined, Settings, Stored};
use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use crate::database::Durability;
use crate::row::{self, instant, stamp};
use crate::{Embedded, Outcome};

/// Quarantine notes in one listing. Chosen, not measured.
const SET_ASIDE_SHOWN_MAX: usize = 100;

#[async_trait]
impl Settings for Embedded {
    async fn read(&self, name: &str) -> PortResult<Option<Stored<Value>>> {
        let name = name.to_owned();
        let read = move |connection: &rusqlite::Connection| -> Outcome<Option<Stored<Value>>> {
            let found = connection
                .prepare_cached("SELECT body, version FROM settings WHERE name = ?1")?
                .query_row([&name], |columns| Ok((row::text(columns, 0)?, columns.get::<_, i64>(1)?)))
                .optional()?;
            // An unreadable setting is null; the service then starts as in a new installation.
            Ok(found.map(|(body, version)| Stored {
                record: serde_json::from_str(&body).unwrap_or(Value::Null),
                version: version as u64,
            }))
        };
        self.database.read(read).await
    }

    async fn write(&self, name: &str, value: &Value, expected: Option<u64>) -> PortResult<bool> {
        let (name, body) = (name.to_owned(), value.to_string());
        let write = move |connection: &rusqlite::Connection| {
            let changed = match expected {
                None => connection
                    .prepare_cached(
                        "INSERT INTO settings (name, version, body) VALUES (?1, 1, ?2) ON CONFLICT DO NOTHING",
                    )?
                    .execute(params![name, body])?,
                Some(version) => connection
                    .prepare_cached(
                        "UPDATE settings SET version = version + 1, body = ?2 WHERE name = ?1 AND version = ?3",
                    )?
                    .execute(params![name, body, version as i64])?,
            };
            Ok(changed > 0)
        };
        self.database.write(Durability::Normal, write).await
    }

    async fn heartbeats(&self) -> PortResult<Vec<Heartbeat>> {
        let read = move |connection: &rusqlite::Connection| -> Outcome<Vec<Heartbeat>> {
            let mut select = connection.prepare_cached("SELECT body FROM beats ORDER BY runner")?;
            let bodies = select.query_map([], |columns| row::text(columns, 0))?.collect::<Result<Vec<_>, _>>()?;
            // An unreadable heartbeat is replaced by the runner's next one.
            Ok(bodies.iter().filter_map(|body| row::parse(body).ok()).collect())
        };
        self.database.read(read).await
    }

    async fn delete_heartbeats(&self, before: Timestamp) -> PortResult<()> {
        let write = move |connection: &rusqlite::Connection| {
            connection.prepare_cached("DELETE FROM beats WHERE at < ?1")?.execute([stamp(before)])?;
            Ok(())
        };
        self.database.write(Durability::Normal, write).await
    }

    async fn quarantined(&self) -> PortResult<Vec<Quarantined>> {
        let read = move |connection: &rusqlite::Connection| {
            let mut select =
                connection.prepare_cached("SELECT kind, key, why, at FROM set_aside ORDER BY at DESC LIMIT ?1")?;
            let found = select.query_map([SET_ASIDE_SHOWN_MAX as i64], |columns| {
                let at = instant(columns.get(3)?);
                Ok(Quarantined { kind: columns.get(0)?, key: columns.get(1)?, why: columns.get(2)?, at })
            })?;
            Ok(found.collect::<Result<_, _>>()?)
        };
        self.database.read(read).await
    }
}
