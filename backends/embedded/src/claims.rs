//! Claims of runs, and heartbeats of runners.

use async_trait::async_trait;
use domain::ports::{Claim, Claims, HEARTBEAT_REORDER_MAX, Heartbeat, PortResult};
use domain::run::{RunId, RunKey};
use jiff::Timestamp;
use rusqlite::params;

use crate::database::Durability;
use crate::row::stamp;
use crate::{Embedded, runs};

#[async_trait]
impl Claims for Embedded {
    async fn claim(&self, run: &RunKey, attempt: u32, runner: &str, host: &str, at: Timestamp) -> PortResult<Claim> {
        let (run_id, runner, host) = (run.run_id.clone(), runner.to_owned(), host.to_owned());
        let write = move |connection: &rusqlite::Connection| {
            let Some(mut stored) = runs::read_run(connection, &run_id)? else { return Ok(Claim::Refused) };
            let before = stored.record.state;
            let claim = stored.record.claim(attempt, &runner, &host, at);
            if stored.record.state != before {
                runs::update(connection, &stored.record, stored.version)?;
            }
            Ok(claim)
        };
        self.database.write(Durability::Normal, write).await
    }

    async fn heartbeat(&self, beat: &Heartbeat) -> PortResult<Vec<RunId>> {
        let beat = beat.clone();
        let overtaken_max_ns = HEARTBEAT_REORDER_MAX.as_nanos() as i64;
        let write = move |connection: &rusqlite::Connection| {
            connection
                .prepare_cached(
                    "INSERT INTO beats (runner, at, body) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET at = excluded.at, body = excluded.body WHERE excluded.at >= at
                     OR excluded.at + ?4 < at",
                )?
                .execute(params![beat.runner, stamp(beat.at), serde_json::to_string(&beat)?, overtaken_max_ns])?;
            let mut select = connection.prepare_cached("SELECT run_id FROM runs WHERE stopping = 1 AND runner = ?1")?;
            let found = select.query_map([&beat.runner], |columns| Ok(RunId(columns.get(0)?)))?;
            Ok(found.collect::<Result<_, _>>()?)
        };
        self.database.write(Durability::Normal, write).await
    }
}
