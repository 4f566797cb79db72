//! The crontabs and jobs files of an `up`: applied at the start, and again whenever they change. The stored jobs of a
//! file are what the file says; a file with a fault changes nothing, and is told once.
//!
//! Jobs of a file that is not named any more may have come by `sexton apply` just as well, so they stay and are told.
//! Those of the sample go as soon as there are others.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use domain::job::JobKey;
use domain::ports::{Cursor, Ports};
use jiff::Timestamp;
use rules::{Packs, choose};
use services::commands::{Apply, Difference, apply};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::sample;
use crate::failure::{Failure, tell_line};
use crate::file_watch::{FileWatch, LOOK_INTERVAL};
use crate::jobs_source::{JobsSource, read_source};
use crate::local_runner::SharedPacks;
use crate::state::StateDirectory;

/// Jobs read together.
const PAGE_MAX: usize = 1000;

/// Jobs that are named in one line.
const NAMED_MAX: usize = 5;

/// The files that were named.
pub struct JobFileArgs {
    pub crontabs: Vec<PathBuf>,
    pub jobs: Vec<PathBuf>,
    /// The crontabs have a user column.
    pub system: bool,
}

pub struct JobFiles {
    sources: Vec<JobsSource>,
    /// What the sample's jobs name as their source.
    sample: String,
    watch: FileWatch,
}

impl JobFiles {
    /// With no file named, and no job stored but the sample's, there is the sample.
    ///
    /// # Errors
    /// When the stored jobs cannot be read, or the sample cannot be written.
    pub async fn new(named: JobFileArgs, state: &StateDirectory, ports: &Ports) -> Result<JobFiles, Failure> {
        let sample = JobsSource::new(state.sample_crontab()).name();
        let mut paths = [named.crontabs, named.jobs].concat();
        if paths.is_empty() && stored_by_source(ports).await?.keys().all(|source| source.as_ref() == Some(&sample)) {
            paths.push(sample::crontab(state)?);
        }
        let sources = paths.iter().map(|path| JobsSource { system: named.system, ..JobsSource::new(path) }).collect();
        Ok(JobFiles { watch: FileWatch::new(paths), sample, sources })
    }

    /// Applies all files; says one line about each, and about the jobs of others.
    ///
    /// # Errors
    /// Exit 2 when a file is faulty and nothing of it was ever stored: somebody is trying it for the first time. One that
    /// was good before keeps its last good state.
    pub async fn apply_all(&self, ports: &Ports, packs: &Packs) -> Result<Vec<String>, Failure> {
        let mut lines = Vec::new();
        for source in &self.sources {
            let line = match apply_one(source, ports, packs).await {
                Ok((count, _)) => format!("{count} of {}", source.path.display()),
                Err(failure) if !was_stored(&source.name(), ports).await? => return Err(failure),
                Err(failure) => {
                    failure.tell();
                    format!("those of {} as they were: the file is faulty", source.path.display())
                }
            };
            lines.push(line);
        }
        lines.extend(self.others(ports).await?);
        Ok(lines)
    }

    /// The stored jobs of files that are not named now.
    async fn others(&self, ports: &Ports) -> Result<Vec<String>, Failure> {
        let own: Vec<String> = self.sources.iter().map(JobsSource::name).collect();
        let mut lines = Vec::new();
        for (source, keys) in stored_by_source(ports).await? {
            let Some(source) = source.filter(|source| !own.contains(source)) else { continue };
            if source == self.sample {
                let how = Apply { prune: true, dry_run: false };
                apply(ports, &source, &[], how, Timestamp::now())
                    .await
                    .map_err(|error| Failure::bad(format!("the sample's jobs cannot be removed: {error}")))?;
                lines.push(format!("{} of the sample are removed, now that there are others", keys.len()));
                continue;
            }
            let named: Vec<String> = keys.iter().take(NAMED_MAX).map(ToString::to_string).collect();
            let more = if keys.len() > named.len() { ", ..." } else { "" };
            lines.push(format!(
                "{} of {source}, which is not named now, stay and fire: {}{more}; \
                 `sexton job remove GROUP/NAME` removes one",
                keys.len(),
                named.join(", ")
            ));
        }
        Ok(lines)
    }

    /// Applies a file whenever it changes, until `stop`.
    pub async fn watch(mut self, ports: Ports, packs: SharedPacks, nudge: Arc<Notify>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            for path in self.watch.changed() {
                let Some(source) = self.sources.iter().find(|source| source.path == path) else { continue };
                match apply_one(source, &ports, &packs.now()).await {
                    Ok((_, difference)) => tell_line(&changed_line(source, &difference)),
                    Err(failure) => {
                        failure.tell();
                        tell_line(&format!("{}: nothing of this change was applied", path.display()));
                    }
                }
                nudge.notify_one();
            }
        }
    }
}

/// How many jobs the file holds, and what applying it changed.
async fn apply_one(source: &JobsSource, ports: &Ports, packs: &Packs) -> Result<(usize, Difference), Failure> {
    let read = read_source(source)?;
    for warning in &read.warnings.0 {
        tell_line(&warning.to_string());
    }
    for job in &read.jobs {
        // Not a fault of the file: the pack may come later, and until then the job's other rules judge.
        if let Err(error) = choose(packs, &job.rules, &job.command) {
            tell_line(&format!("{}: warning: {}: {error}", source.path.display(), job.key()));
        }
    }
    let how = Apply { prune: true, dry_run: false };
    let difference = apply(ports, &read.name, &read.jobs, how, Timestamp::now())
        .await
        .map_err(|error| Failure::bad(format!("{}: {error}", source.path.display())))?;
    for key in &difference.taken_over {
        tell_line(&format!("{}: {key} was not of this file until now", source.path.display()));
    }
    Ok((read.jobs.len(), difference))
}

fn changed_line(source: &JobsSource, difference: &Difference) -> String {
    format!(
        "{} changed: {} jobs added, {} changed, {} removed",
        source.path.display(),
        difference.added.len(),
        difference.changed.len(),
        difference.removed.len()
    )
}

/// Whether a job of this file is stored.
async fn was_stored(source: &str, ports: &Ports) -> Result<bool, Failure> {
    Ok(stored_by_source(ports).await?.keys().flatten().any(|stored| stored == source))
}

/// The stored jobs by the file they came from; one that cannot be read came from none.
async fn stored_by_source(ports: &Ports) -> Result<BTreeMap<Option<String>, Vec<JobKey>>, Failure> {
    let mut by_source: BTreeMap<Option<String>, Vec<JobKey>> = BTreeMap::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = ports.jobs.list(None, after.as_ref(), PAGE_MAX).await;
        let page = page.map_err(|error| Failure::bad(format!("the stored jobs cannot be read: {error}")))?;
        for stored in page.records {
            by_source.entry(stored.job.ok().and_then(|job| job.source)).or_default().push(stored.key);
        }
        after = page.next;
        if after.is_none() {
            return Ok(by_source);
        }
    }
}
