//! Applies the crontabs and jobs files of an `up`, at the start and when they change. The stored jobs of a file equal
//! its content. A faulty file changes nothing and is reported once.
//!
//! Jobs of a file that is no longer named stay and are listed, because `sexton apply` may have stored them. Jobs of the
//! sample are deleted as soon as there are others.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use domain::job::JobKey;
use domain::ports::{Cursor, Ports};
use jiff::Timestamp;
use rules::{Packs, choose_packs};
use services::commands::{ApplyOptions, Difference, apply};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::sample;
use crate::failure::{Failure, print_error_line};
use crate::file_watch::{FileWatch, POLL_INTERVAL};
use crate::jobs_source::{JobsSource, read_valid_jobs};
use crate::local_runner::SharedPacks;
use crate::state::StateDirectory;

/// Jobs read by one call of the store. Chosen, not measured.
const PAGE_JOBS_MAX: usize = 1000;

/// Jobs listed by name on one line; the rest is only counted.
const LISTED_JOBS_MAX: usize = 5;

/// The files of flags and configuration.
pub(crate) struct JobFileArgs {
    pub(crate) crontabs: Vec<PathBuf>,
    pub(crate) jobs: Vec<PathBuf>,
    /// The crontabs have a user column.
    pub(crate) system: bool,
    /// Entries without MAILTO are mailed to their user.
    pub(crate) mail_owners: bool,
}

pub(crate) struct JobFiles {
    sources: Vec<JobsSource>,
    /// The `source` of the sample's jobs.
    sample: String,
    watch: FileWatch,
}

impl JobFiles {
    /// The files to apply; the sample if no file is named and only jobs of the sample are stored.
    ///
    /// # Errors
    /// Fails if the stored jobs cannot be read, or if the sample cannot be written.
    pub(crate) async fn new(args: JobFileArgs, state: &StateDirectory, ports: &Ports) -> Result<JobFiles, Failure> {
        let sample = JobsSource::new(state.sample_crontab()).name();
        let mut paths = [args.crontabs, args.jobs].concat();
        if paths.is_empty() && stored_jobs_by_source(ports).await?.keys().all(|source| source.as_ref() == Some(&sample))
        {
            paths.push(sample::write_crontab(state)?);
        }
        let sources = paths
            .iter()
            .map(|path| JobsSource { system: args.system, mail_owners: args.mail_owners, ..JobsSource::new(path) })
            .collect();
        Ok(JobFiles { watch: FileWatch::new(paths), sample, sources })
    }

    /// Applies all files. Returns one line per file, and one per other source of stored jobs.
    ///
    /// # Errors
    /// Exit 2 if a file is faulty and none of its jobs is stored: an operator tries it for the first time. A file that
    /// was valid before keeps its stored jobs.
    pub(crate) async fn apply_all(&self, ports: &Ports, packs: &Packs) -> Result<Vec<String>, Failure> {
        let mut lines = Vec::new();
        for source in &self.sources {
            let line = match apply_file(source, ports, packs).await {
                Ok((count, _)) => format!("{count} of {}", source.path.display()),
                Err(failure) if !has_stored_jobs(&source.name(), ports).await? => return Err(failure),
                Err(failure) => {
                    failure.print();
                    format!("{} has faults; its stored jobs are unchanged", source.path.display())
                }
            };
            lines.push(line);
        }
        lines.extend(self.handle_other_sources(ports).await?);
        Ok(lines)
    }

    /// Lists the stored jobs of files that are not named, and deletes those of the sample.
    async fn handle_other_sources(&self, ports: &Ports) -> Result<Vec<String>, Failure> {
        let own: Vec<String> = self.sources.iter().map(JobsSource::name).collect();
        let mut lines = Vec::new();
        for (source, keys) in stored_jobs_by_source(ports).await? {
            let Some(source) = source.filter(|source| !own.contains(source)) else { continue };
            if source == self.sample {
                let how = ApplyOptions { prune: true, dry_run: false };
                apply(ports, &source, &[], how, Timestamp::now())
                    .await
                    .map_err(|error| Failure::failed(format!("cannot delete the jobs of the sample: {error}")))?;
                lines.push(format!("{} of the sample deleted, because other jobs are stored", keys.len()));
                continue;
            }
            let named: Vec<String> = keys.iter().take(LISTED_JOBS_MAX).map(ToString::to_string).collect();
            let more = if keys.len() > named.len() { ", ..." } else { "" };
            lines.push(format!(
                "{} of {source}, which is not named now, keep running: {}{more}; \
                 `sexton job remove GROUP/NAME` deletes one",
                keys.len(),
                named.join(", ")
            ));
        }
        Ok(lines)
    }

    /// Applies each file when it changes, until `stop`.
    pub(crate) async fn apply_on_change(
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
                        print_error_line(&format!(
                            "{}: change not applied because of the faults above",
                            path.display()
                        ));
                    }
                }
                nudge.notify_one();
            }
        }
    }
}

/// Applies a file. Returns its number of jobs, and the difference to the stored ones.
async fn apply_file(source: &JobsSource, ports: &Ports, packs: &Packs) -> Result<(usize, Difference), Failure> {
    let read = read_valid_jobs(source)?;
    for warning in &read.warnings.0 {
        print_error_line(&warning.to_string());
    }
    for job in &read.jobs {
        // Only a warning: the pack can be added later, and the job's other rules are used until then.
        if let Err(error) = choose_packs(packs, &job.rules, &job.command) {
            print_error_line(&format!("{}: warning: {}: {error}", source.path.display(), job.key()));
        }
    }
    let how = ApplyOptions { prune: true, dry_run: false };
    let difference = apply(ports, &read.name, &read.jobs, how, Timestamp::now())
        .await
        .map_err(|error| Failure::failed(format!("{}: {error}", source.path.display())))?;
    for key in &difference.taken_over {
        print_error_line(&format!("{}: takes over job {key}, which came from another source", source.path.display()));
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

/// Whether a job with this source is stored.
async fn has_stored_jobs(source: &str, ports: &Ports) -> Result<bool, Failure> {
    Ok(stored_jobs_by_source(ports).await?.keys().flatten().any(|stored| stored == source))
}

/// The stored jobs by source. An unreadable job has no source.
async fn stored_jobs_by_source(ports: &Ports) -> Result<BTreeMap<Option<String>, Vec<JobKey>>, Failure> {
    let mut by_source: BTreeMap<Option<String>, Vec<JobKey>> = BTreeMap::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = ports.jobs.list(None, after.as_ref(), PAGE_JOBS_MAX).await;
        let page = page.map_err(|error| Failure::failed(format!("cannot read the stored jobs: {error}")))?;
        for stored in page.records {
            by_source.entry(stored.job.ok().and_then(|job| job.source)).or_default().push(stored.key);
        }
        after = page.next;
        if after.is_none() {
            return Ok(by_source);
        }
    }
}
