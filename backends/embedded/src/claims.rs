//! Claims of runs, and heartbeats of runners.

use async_trait::async_trait;
use domain::ports::{Claim, Claimant, Claims, HEARTBEAT_REORDER_MAX, Heartbeat, HeartbeatAnswer, PortResult};
use domain::run::{RunId, RunKey};
use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use crate::database::Durability;
use crate::row::{self, stamp};
use crate::{Embedded, runs};

#[async_trait]
impl Claims for Embedded {
    async fn claim(&self, run: &RunKey, attempt: u32, by: Claimant<'_>, at: Timestamp) -> PortResult<Claim> {
        let (run_id, runner, host) = (run.run_id.clone(), by.runner.to_owned(), by.host.to_owned());
        let id = by.id.map(str::to_owned);
        let write = move |connection: &rusqlite::Connection| {
            let Some(mut stored) = runs::read_run(connection, &run_id)? else { return Ok(Claim::Refused) };
            let before = stored.record.state;
            let claim = stored.record.claim(attempt, Claimant { runner: &runner, host: &host, id: id.as_deref() }, at);
            if stored.record.state != before {
                runs::update(connection, &stored.record, stored.version)?;
            }
            Ok(claim)
        };
        self.database.write(Durability::Normal, write).await
    }

    async fn heartbeat(&self, beat: &Heartbeat) -> PortResult<HeartbeatAnswer> {
        let beat = beat.clone();
        let overtaken_max_ns = HEARTBEAT_REORDER_MAX.as_nanos() as i64;
        let write = move |connection: &rusqlite::Connection| {
            let stored = connection
                .prepare_cached("SELECT body FROM beats WHERE runner = ?1")?
                .query_row([&beat.runner], |columns| row::text(columns, 0))
                .optional()?;
            // An unreadable heartbeat is replaced.
            let stored: Option<Heartbeat> = stored.and_then(|body| row::parse(&body).ok());
            if let Some(rival) = stored.and_then(|stored| beat.has_rival(&stored)) {
                return Ok(HeartbeatAnswer::NameInUse(rival));
            }
            connection
                .prepare_cached(
                    "INSERT INTO beats (runner, at, body) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET at = excluded.at, body = excluded.body WHERE excluded.at >= at
                     OR excluded.at + ?4 < at",
                )?
                .execute(params![beat.runner, stamp(beat.at), serde_json::to_string(&beat)?, overtaken_max_ns])?;
            let mut select = connection.prepare_cached("SELECT run_id FROM runs WHERE stopping = 1 AND runner = ?1")?;
            let found = select.query_map([&beat.runner], |columns| Ok(RunId(columns.get(0)?)))?;
            Ok(HeartbeatAnswer::Stops(found.collect::<Result<_, _>>()?))
        };
        self.database.write(Durability::Normal, write).await
    }
}
