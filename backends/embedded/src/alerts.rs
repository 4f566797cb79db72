//! Alert states of jobs, and transitions with their alerts.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use domain::alert::{DeliveryState, JobState, Transition};
use domain::job::JobKey;
use domain::ports::{AlertStep, AlertStore, Cursor, Page, PortResult, Stored};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use crate::database::Durability;
use crate::row::{self, stamp};
use crate::{Embedded, Outcome};

/// Retention of a settled transition: 90 days. Chosen: error budgets cover at most a quarter.
const SETTLED_RETENTION: Duration = Duration::from_secs(90 * 86_400);

#[async_trait]
impl AlertStore for Embedded {
    async fn states(&self, keys: &[JobKey]) -> PortResult<Vec<Stored<JobState>>> {
        let keys = keys.to_vec();
        self.database.read(move |connection| keys.iter().map(|key| read_state(connection, key)).collect()).await
    }

    async fn raise(&self, step: &AlertStep) -> PortResult<bool> {
        let step = step.clone();
        let write = move |connection: &Connection| {
            if !is_current(connection, &step)? {
                return Ok(false);
            }
            store_step(connection, &step)?;
            Ok(true)
        };
        self.database.write(Durability::Normal, write).await
    }

    async fn claim(&self, worker: &str, at: Timestamp, until: Timestamp, most: usize) -> PortResult<Vec<Transition>> {
        let worker = worker.to_owned();
        // Claims of this worker from before the file was opened belong to a process that has exited.
        let is_first = !self.has_claimed.swap(true, Ordering::Relaxed);
        let write = move |connection: &Connection| {
            row::release_void_leases(connection, "transitions", at)?;
            let mut select = connection.prepare_cached(
                "SELECT id, body FROM transitions WHERE pending = 1 AND (ready <= ?1 OR (?3 AND worker = ?4))
                 ORDER BY ready, id LIMIT ?2",
            )?;
            let rows = select.query_map(params![stamp(at), most as i64, is_first, worker], |columns| {
                Ok((columns.get::<_, String>(0)?, row::text(columns, 1)?))
            })?;
            let rows = rows.collect::<Result<Vec<_>, _>>()?;
            let mut claim = connection
                .prepare_cached("UPDATE transitions SET ready = ?2, worker = ?3, leased_at = ?4 WHERE id = ?1")?;
            let mut claimed = Vec::with_capacity(rows.len());
            for (id, body) in rows {
                match row::parse(&body) {
                    Ok(transition) => {
                        claim.execute(params![id, stamp(until), worker, stamp(at)])?;
                        claimed.push(transition);
                    }
                    Err(why) => {
                        connection.execute("UPDATE transitions SET pending = 0 WHERE id = ?1", [&id])?;
                        row::quarantine(connection, "alert", &id, &why, at)?;
                    }
                }
            }
            Ok(claimed)
        };
        self.database.write(Durability::Normal, write).await
    }

    async fn settle(&self, worker: &str, transitions: &[Transition], kept_until: Option<Timestamp>) -> PortResult<()> {
        let (worker, transitions) = (worker.to_owned(), transitions.to_vec());
        let write = move |connection: &Connection| {
            let mut update = connection.prepare_cached(
                "UPDATE transitions SET pending = ?3, ready = ?4, body = ?5, worker = CASE WHEN ?6 THEN worker END,
                 leased_at = CASE WHEN ?6 THEN leased_at END WHERE id = ?1 AND worker = ?2",
            )?;
            let mut newest = Timestamp::MIN;
            for transition in &transitions {
                update.execute(params![
                    transition.id,
                    worker,
                    transition.delivery == DeliveryState::Pending,
                    stamp(kept_until.unwrap_or(transition.not_before)),
                    serde_json::to_string(transition)?,
                    kept_until.is_some(),
                ])?;
                newest = newest.max(transition.at);
            }
            if let Ok(before) = newest.checked_sub(SETTLED_RETENTION) {
                connection
                    .prepare_cached("DELETE FROM transitions WHERE at < ?1 AND pending = 0")?
                    .execute([stamp(before)])?;
            }
            Ok(())
        };
        self.database.write(Durability::Normal, write).await
    }

    async fn list(&self, after: Option<&Cursor>, most: usize) -> PortResult<Page<Transition>> {
        let after: Option<(i64, String)> = after.and_then(|cursor| serde_json::from_str(&cursor.0).ok());
        let read = move |connection: &Connection| {
            let (at, id) = after.unwrap_or((i64::MAX, String::new()));
            let mut select = connection.prepare_cached(
                "SELECT at, id, body FROM transitions WHERE (at, id) < (?1, ?2) ORDER BY at DESC, id DESC LIMIT ?3",
            )?;
            let mut rows = select.query(params![at, id, most as i64])?;
            let (mut records, mut last, mut seen) = (Vec::new(), None, 0);
            while let Some(columns) = rows.next()? {
                let place: (i64, String) = (columns.get(0)?, columns.get(1)?);
                // An unreadable transition was quarantined when it was claimed.
                records.extend(row::parse::<Transition>(&row::text(columns, 2)?).ok());
                last = Some(place);
                seen += 1;
            }
            let next = match last {
                Some(place) if seen == most => Some(Cursor(serde_json::to_string(&place)?)),
                _ => None,
            };
            Ok(Page { records, next })
        };
        self.database.read(read).await
    }
}

fn read_state(connection: &Connection, key: &JobKey) -> Outcome<Stored<JobState>> {
    let found = connection
        .prepare_cached("SELECT body, version FROM alert_states WHERE grp = ?1 AND job = ?2")?
        .query_row([&key.group, &key.name], |columns| Ok((row::text(columns, 0)?, columns.get::<_, i64>(1)?)))
        .optional()?;
    Ok(match found {
        // An unreadable state counts as that of a new job: at worst, one alert is repeated.
        Some((body, version)) => Stored { record: row::parse(&body).unwrap_or_default(), version: version as u64 },
        None => Stored { record: JobState::default(), version: 0 },
    })
}

/// Whether the step was made from the stored state.
pub(crate) fn is_current(connection: &Connection, step: &AlertStep) -> Outcome<bool> {
    let Some(change) = &step.state else { return Ok(true) };
    let version: Option<i64> = connection
        .prepare_cached("SELECT version FROM alert_states WHERE grp = ?1 AND job = ?2")?
        .query_row([&change.key.group, &change.key.name], |columns| columns.get(0))
        .optional()?;
    Ok(version.unwrap_or(0) as u64 == change.expected)
}

/// Stores a step for which [`is_current`] holds.
pub(crate) fn store_step(connection: &Connection, step: &AlertStep) -> Outcome<()> {
    if let Some(change) = &step.state {
        connection
            .prepare_cached(
                "INSERT INTO alert_states (grp, job, version, body) VALUES (?1, ?2, 1, ?3)
                 ON CONFLICT DO UPDATE SET version = version + 1, body = excluded.body",
            )?
            .execute(params![change.key.group, change.key.name, serde_json::to_string(&change.state)?])?;
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO transitions (id, at, pending, ready, body) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
    )?;
    for transition in &step.transitions {
        insert.execute(params![
            transition.id,
            stamp(transition.at),
            transition.delivery == DeliveryState::Pending,
            stamp(transition.not_before),
            serde_json::to_string(transition)?,
        ])?;
    }
    Ok(())
}
