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
use crate::failure::{Failure, print_error_line};
use crate::file_watch::{FileWatch, POLL_INTERVAL};
use crate::jobs_source::{JobsSource, read_valid_jobs};
use crate::local_runner::SharedPacks;
use crate::state::StateDirectory;

/// Jobs read together.
const PAGE_JOBS_MAX: usize = 1000;

/// Jobs that are named in one line.
const LISTED_JOBS_MAX: usize = 5;

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
    pub async fn new(args: JobFileArgs, state: &StateDirectory, ports: &Ports) -> Result<JobFiles, Failure> {
        let sample = JobsSource::new(state.sample_crontab()).name();
        let mut paths = [args.crontabs, args.jobs].concat();
        if paths.is_empty() && stored_jobs_by_source(ports).await?.keys().all(|source| source.as_ref() == Some(&sample))
        {
            paths.push(sample::write_crontab(state)?);
        }
        let sources = paths.iter().map(|path| JobsSource { system: args.system, ..JobsSource::new(path) }).collect();
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
            let line = match apply_file(source, ports, packs).await {
                Ok((count, _)) => format!("{count} of {}", source.path.display()),
                Err(failure) if !has_stored_jobs(&source.name(), ports).await? => return Err(failure),
                Err(failure) => {
                    failure.print();
                    format!("those of {} as they were: the file is faulty", source.path.display())
                }
            };
            lines.push(line);
        }
        lines.extend(self.handle_other_sources(ports).await?);
        Ok(lines)
    }

    /// The stored jobs of files that are not named now.
    async fn handle_other_sources(&self, ports: &Ports) -> Result<Vec<String>, Failure> {
        let own: Vec<String> = self.sources.iter().map(JobsSource::name).collect();
        let mut lines = Vec::new();
        for (source, keys) in stored_jobs_by_source(ports).await? {
            let Some(source) = source.filter(|source| !own.contains(source)) else { continue };
            if source == self.sample {
                let how = Apply { prune: true, dry_run: false };
                apply(ports, &source, &[], how, Timestamp::now())
                    .await
                    .map_err(|error| Failure::failed(format!("the sample's jobs cannot be removed: {error}")))?;
                lines.push(format!("{} of the sample are removed, now that there are others", keys.len()));
                continue;
            }
            let named: Vec<String> = keys.iter().take(LISTED_JOBS_MAX).map(ToString::to_string).collect();
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
    pub async fn apply_on_change(
        mut self,
        ports: Ports,
        packs: SharedPacks,
        nudge: Arc<Notify>,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
            for path in self.watch.take_changed() {
                let Some(source) = self.sources.iter().find(|source| source.path == path) else { continue };
                match apply_file(source, &ports, &packs.current()).await {
                    Ok((_, difference)) => print_error_line(&change_summary(source, &difference)),
                    Err(failure) => {
                        failure.print();
                        print_error_line(&format!("{}: nothing of this change was applied", path.display()));
                    }
                }
                nudge.notify_one();
            }
        }
    }
}

/// How many jobs the file holds, and what applying it changed.
async fn apply_file(source: &JobsSource, ports: &Ports, packs: &Packs) -> Result<(usize, Difference), Failure> {
    let read = read_valid_jobs(source)?;
    for warning in &read.warnings.0 {
        print_error_line(&warning.to_string());
    }
    for job in &read.jobs {
        // Not a fault of the file: the pack may come later, and until then the job's other rules judge.
        if let Err(error) = choose(packs, &job.rules, &job.command) {
            print_error_line(&format!("{}: warning: {}: {error}", source.path.display(), job.key()));
        }
    }
    let how = Apply { prune: true, dry_run: false };
    let difference = apply(ports, &read.name, &read.jobs, how, Timestamp::now())
        .await
        .map_err(|error| Failure::failed(format!("{}: {error}", source.path.display())))?;
    for key in &difference.taken_over {
        print_error_line(&format!("{}: {key} was not of this file until now", source.path.display()));
    }
    Ok((read.jobs.len(), difference))
}

fn change_summary(source: &JobsSource, difference: &Difference) -> String {
    format!(
        "{} changed: {} jobs added, {} changed, {} removed",
        source.path.display(),
        difference.added.len(),
        difference.changed.len(),
        difference.removed.len()
    )
}

/// Whether a job of this file is stored.
async fn has_stored_jobs(source: &str, ports: &Ports) -> Result<bool, Failure> {
    Ok(stored_jobs_by_source(ports).await?.keys().flatten().any(|stored| stored == source))
}

/// The stored jobs by the file they came from; one that cannot be read came from none.
async fn stored_jobs_by_source(ports: &Ports) -> Result<BTreeMap<Option<String>, Vec<JobKey>>, Failure> {
    let mut by_source: BTreeMap<Option<String>, Vec<JobKey>> = BTreeMap::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = ports.jobs.list(None, after.as_ref(), PAGE_JOBS_MAX).await;
        let page = page.map_err(|error| Failure::failed(format!("the stored jobs cannot be read: {error}")))?;
        for stored in page.records {
            by_source.entry(stored.job.ok().and_then(|job| job.source)).or_default().push(stored.key);
        }
        after = page.next;
        if after.is_none() {
            return Ok(by_source);
        }
    }
}
