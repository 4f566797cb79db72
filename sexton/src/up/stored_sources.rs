//! Which files the stored jobs came from, and which of them never had a version without faults.

use std::collections::{BTreeMap, BTreeSet};

use domain::job::JobKey;
use domain::ports::{Cursor, Ports};

use crate::failure::Failure;

/// Jobs read by one call of the store. Chosen, not measured.
const PAGE_JOBS_MAX: usize = 1000;

/// The name of the setting.
const SETTING: &str = "incomplete_sources";

/// Writes of the setting, each against the version then stored. Chosen: only this process writes it.
const WRITES_MAX: usize = 8;

/// Jobs of a source that are kept by name; the rest is only counted. Chosen: a line of names stays readable.
pub(crate) const NAMED_JOBS_MAX: usize = 5;

/// The stored jobs of one source.
#[derive(Debug, Default)]
pub(crate) struct SourceJobs {
    pub(crate) count: usize,
    /// The first ones, by group and name.
    pub(crate) named: Vec<JobKey>,
}

/// The keys of the stored jobs, by source.
pub(crate) type StoredKeys = BTreeMap<Option<String>, BTreeSet<JobKey>>;

/// The stored jobs by source. An unreadable job has no source.
///
/// # Errors
/// Fails if the store cannot be read.
pub(crate) async fn stored_jobs_by_source(ports: &Ports) -> Result<BTreeMap<Option<String>, SourceJobs>, Failure> {
    let mut by_source: BTreeMap<Option<String>, SourceJobs> = BTreeMap::new();
    for_each_stored(ports, |source, key| {
        let jobs = by_source.entry(source).or_default();
        jobs.count += 1;
        if jobs.named.len() < NAMED_JOBS_MAX {
            jobs.named.push(key);
        }
    })
    .await?;
    Ok(by_source)
}

/// The keys of all stored jobs by source.
///
/// # Errors
/// As [`stored_jobs_by_source`].
pub(crate) async fn stored_keys_by_source(ports: &Ports) -> Result<StoredKeys, Failure> {
    let mut by_source = StoredKeys::new();
    for_each_stored(ports, |source, key| {
        by_source.entry(source).or_default().insert(key);
    })
    .await?;
    Ok(by_source)
}

async fn for_each_stored(ports: &Ports, mut use_job: impl FnMut(Option<String>, JobKey)) -> Result<(), Failure> {
    let mut after: Option<Cursor> = None;
    loop {
        let page = ports.jobs.list(None, after.as_ref(), PAGE_JOBS_MAX).await;
        let page = page.map_err(|error| Failure::failed(format!("cannot read the stored jobs: {error}")))?;
        for stored in page.records {
            use_job(stored.job.ok().and_then(|job| job.source), stored.key);
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Sources whose stored jobs are the good ones of a file that had faults in all of its versions. The stored jobs of any
/// other source are those of a version without faults.
pub(crate) struct IncompleteSources(BTreeSet<String>);

impl IncompleteSources {
    /// # Errors
    /// Fails if the store cannot be read.
    pub(crate) async fn read(ports: &Ports) -> Result<IncompleteSources, Failure> {
        Ok(IncompleteSources(read_setting(ports).await?.0))
    }

    pub(crate) fn contains(&self, source: &str) -> bool {
        self.0.contains(source)
    }

    /// # Errors
    /// Fails if the store cannot be changed.
    pub(crate) async fn insert(&mut self, source: &str, ports: &Ports) -> Result<(), Failure> {
        match self.0.insert(source.to_owned()) {
            true => change_setting(ports, |sources| sources.insert(source.to_owned())).await,
            false => Ok(()),
        }
    }

    /// # Errors
    /// Fails if the store cannot be changed.
    pub(crate) async fn remove(&mut self, source: &str, ports: &Ports) -> Result<(), Failure> {
        match self.0.remove(source) {
            true => change_setting(ports, |sources| sources.remove(source)).await,
            false => Ok(()),
        }
    }
}

async fn read_setting(ports: &Ports) -> Result<(BTreeSet<String>, Option<u64>), Failure> {
    let stored = ports.settings.read(SETTING).await;
    let stored = stored.map_err(|error| Failure::failed(format!("cannot read the setting `{SETTING}`: {error}")))?;
    let version = stored.as_ref().map(|stored| stored.version);
    let sources = stored.and_then(|stored| serde_json::from_value(stored.record).ok()).unwrap_or_default();
    Ok((sources, version))
}

async fn change_setting(ports: &Ports, edit: impl Fn(&mut BTreeSet<String>) -> bool) -> Result<(), Failure> {
    let failure = |why: String| Failure::failed(format!("cannot write the setting `{SETTING}`: {why}"));
    for _ in 0..WRITES_MAX {
        let (mut sources, version) = read_setting(ports).await?;
        if !edit(&mut sources) {
            return Ok(());
        }
        let value = serde_json::json!(sources);
        if ports.settings.write(SETTING, &value, version).await.map_err(|error| failure(error.to_string()))? {
            return Ok(());
        }
    }
    Err(failure("it was changed concurrently".to_owned()))
}
