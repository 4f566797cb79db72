//! The runs table. A run and its alert step are written together.

use async_trait::async_trait;
use domain::ledger::Ledger;
use domain::ports::{Cursor, Page, PortResult, RunFilter, RunQuery, RunStore, RunWrite, Stored, WriteResult};
use domain::run::{Outcome as RunOutcome, Run, RunId, RunKey};
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use crate::database::Durability;
use crate::{Embedded, Outcome, alerts, row};

#[async_trait]
impl RunStore for Embedded {
    async fn get(&self, runs: &[RunKey]) -> PortResult<Vec<Stored<Run>>> {
        let runs = runs.to_vec();
        let read = move |connection: &Connection| {
            let mut found = Vec::with_capacity(runs.len());
            for run in &runs {
                found.extend(read_run(connection, &run.run_id)?.filter(|stored| stored.record.group == run.group));
            }
            Ok(found)
        };
        self.database.read(read).await
    }

    async fn write(&self, writes: &[RunWrite]) -> PortResult<Vec<WriteResult>> {
        let writes = writes.to_vec();
        let write = move |connection: &Connection| writes.iter().map(|write| write_one(connection, write)).collect();
        self.database.write(Durability::Normal, write).await
    }

    async fn list(&self, query: &RunQuery, after: Option<&Cursor>, most: usize) -> PortResult<Page<Stored<Run>>> {
        let (mut filter, after) = (Filter::new(query), after.cloned());
        let read = move |connection: &Connection| -> Outcome<(Page<Stored<Run>>, Vec<(String, String)>)> {
            if let Some(after) = after {
                filter.add("run_id < ?", after.0.into());
            }
            let text = format!(
                "SELECT run_id, body, version FROM {} WHERE {} ORDER BY run_id DESC LIMIT {most}",
                filter.table,
                filter.terms.join(" AND ")
            );
            let mut select = connection.prepare_cached(&text)?;
            let mut rows = select.query(params_from_iter(&filter.values))?;
            let (mut records, mut broken, mut last, mut seen) = (Vec::new(), Vec::new(), None, 0);
            while let Some(columns) = rows.next()? {
                let run_id: String = columns.get(0)?;
                match row::parse(&row::text(columns, 1)?) {
                    Ok(record) => records.push(Stored { record, version: columns.get::<_, i64>(2)? as u64 }),
                    Err(why) => broken.push((run_id.clone(), why)),
                }
                seen += 1;
                last = Some(run_id);
            }
            let next = last.filter(|_| seen == most).map(Cursor);
            Ok((Page { records, next }, broken))
        };
        let (page, broken) = self.database.read(read).await?;
        if !broken.is_empty() {
            self.quarantine_runs(broken).await?;
        }
        Ok(page)
    }

    async fn count(&self, query: &RunQuery) -> PortResult<Ledger> {
        let filter = Filter::new(query);
        let read = move |connection: &Connection| {
            let text = format!(
                "SELECT outcome, open, count(*) FROM {} WHERE {} GROUP BY outcome, open",
                filter.table,
                filter.terms.join(" AND ")
            );
            let mut select = connection.prepare_cached(&text)?;
            let mut rows = select.query(params_from_iter(&filter.values))?;
            let mut ledger = Ledger::default();
            while let Some(columns) = rows.next()? {
                let (outcome, open): (Option<String>, bool) = (columns.get(0)?, columns.get(1)?);
                let count = columns.get::<_, i64>(2)? as u64;
                ledger.scheduled += count;
                if open {
                    ledger.open += count;
                }
                if let Some(outcome) = outcome.as_deref().and_then(RunOutcome::parse) {
                    *ledger.outcomes.entry(outcome).or_default() += count;
                }
            }
            Ok(ledger)
        };
        self.database.read(read).await
    }

    async fn remove(&self, runs: &[RunKey]) -> PortResult<()> {
        let runs = runs.to_vec();
        let write = move |connection: &Connection| {
            let mut delete = connection.prepare_cached("DELETE FROM runs WHERE run_id = ?1 AND grp = ?2")?;
            for run in &runs {
                delete.execute([run.run_id.as_str(), &run.group])?;
            }
            Ok(())
        };
        self.database.write(Durability::Normal, write).await
    }
}

impl Embedded {
    async fn quarantine_runs(&self, broken: Vec<(String, String)>) -> PortResult<()> {
        let write = move |connection: &Connection| {
            for (run_id, why) in &broken {
                row::quarantine(connection, "run", run_id, why, Timestamp::UNIX_EPOCH)?;
            }
            Ok(())
        };
        self.database.write(Durability::Normal, write).await
    }
}

/// Terms of a `WHERE` with their values.
struct Filter {
    table: &'static str,
    terms: Vec<&'static str>,
    values: Vec<Value>,
}

impl Filter {
    fn new(query: &RunQuery) -> Filter {
        let mut filter = Filter { table: "runs", terms: vec!["1"], values: Vec::new() };
        match (&query.group, &query.job) {
            (Some(group), Some(job)) => {
                filter.add("grp = ?", group.clone().into());
                filter.add("job = ?", job.clone().into());
            }
            // Without `+`, SQLite would use the index by job and sort the whole group for one page.
            (Some(group), None) if query.filter == RunFilter::All => filter.add("+grp = ?", group.clone().into()),
            (Some(group), None) => filter.add("grp = ?", group.clone().into()),
            (None, _) => {}
        }
        match query.filter {
            RunFilter::All => {}
            RunFilter::Open => {
                // By default, SQLite scans all runs, because they are already in the order of the listing.
                filter.table = "runs INDEXED BY runs_open";
                filter.terms.push("open = 1");
            }
            RunFilter::Ended(RunOutcome::Succeeded) => filter.terms.push("outcome = 'succeeded'"),
            RunFilter::Ended(outcome) => {
                // SQLite uses the partial index only with this redundant term.
                filter.terms.push("outcome <> 'succeeded'");
                filter.add("outcome = ?", outcome.name().to_owned().into());
            }
        }
        if let Some(run_id) = &query.run_id {
            filter.add("run_id = ?", run_id.0.clone().into());
        }
        if let Some(since) = query.since {
            filter.add("run_id >= ?", first_run_id_at(since).into());
        }
        if let Some(until) = query.until {
            filter.add("run_id < ?", first_run_id_at(until).into());
        }
        filter
    }

    fn add(&mut self, term: &'static str, value: Value) {
        self.terms.push(term);
        self.values.push(value);
    }
}

/// Returns a text that sorts before the ids of all runs of this instant, rounded up to a second, and after those of
/// earlier runs.
fn first_run_id_at(at: Timestamp) -> String {
    let second = at.as_second() + i64::from(at.subsec_nanosecond() > 0);
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX).strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// Reads a run. An unreadable one counts as absent; a listing quarantines it.
pub(crate) fn read_run(connection: &Connection, run_id: &RunId) -> Outcome<Option<Stored<Run>>> {
    let found = connection
        .prepare_cached("SELECT body, version FROM runs WHERE run_id = ?1")?
        .query_row([run_id.as_str()], |columns| Ok((row::text(columns, 0)?, columns.get::<_, i64>(1)?)))
        .optional()?;
    Ok(found.and_then(|(body, version)| {
        let record = row::parse(&body).ok()?;
        Some(Stored { record, version: version as u64 })
    }))
}

/// Updates a run; false if its stored version is another one.
pub(crate) fn update(connection: &Connection, run: &Run, version: u64) -> Outcome<bool> {
    let open = run.is_open();
    let changed = connection
        .prepare_cached(
            "UPDATE runs SET version = version + 1, open = ?3, outcome = ?4, runner = ?5, stopping = ?6, body = ?7
             WHERE run_id = ?1 AND version = ?2",
        )?
        .execute(params![
            run.run_id.as_str(),
            version as i64,
            open,
            run.outcome.map(RunOutcome::name),
            run.runner,
            run.needs_stop_request(),
            serde_json::to_string(run)?,
        ])?;
    Ok(changed > 0)
}

fn insert(connection: &Connection, run: &Run) -> Outcome<bool> {
    let changed = connection
        .prepare_cached(
            "INSERT INTO runs (run_id, version, grp, job, open, outcome, runner, stopping, body)
             VALUES (?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            run.run_id.as_str(),
            run.group,
            run.job,
            run.is_open(),
            run.outcome.map(RunOutcome::name),
            run.runner,
            run.needs_stop_request(),
            serde_json::to_string(run)?,
        ])?;
    Ok(changed > 0)
}

fn write_one(connection: &Connection, write: &RunWrite) -> Outcome<WriteResult> {
    if let Some(step) = &write.alert
        && !alerts::is_current(connection, step)?
    {
        return Ok(WriteResult::AlertConflict);
    }
    let written = match write.expected {
        None => insert(connection, &write.run)?,
        Some(version) => update(connection, &write.run, version)?,
    };
    if !written {
        return Ok(WriteResult::Conflict(read_run(connection, &write.run.run_id)?.map(Box::new)));
    }
    if let Some(step) = &write.alert {
        alerts::store_step(connection, step)?;
    }
    Ok(WriteResult::Done)
}
