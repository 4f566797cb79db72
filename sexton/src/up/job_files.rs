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
use domain::zones::HostZone;
use jiff::Timestamp;
use rules::{Packs, choose_packs};
use services::commands::{AppliedFile, ApplyOptions, Difference, apply, apply_file};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::sample;
use crate::failure::{Failure, print_error_line};
use crate::file_watch::{FileWatch, POLL_INTERVAL};
use crate::host_zone::HostZoneWatch;
use crate::jobs_source::{JobsSource, Purpose, read_valid_jobs};
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
    /// The sample, whose jobs are deleted as soon as there are others.
    sample: JobsSource,
    watch: FileWatch,
    host_zone: HostZoneWatch,
}

impl JobFiles {
    /// The files to apply; the sample if no file is named and only jobs of the sample are stored.
    ///
    /// # Errors
    /// Fails if the stored jobs cannot be read, or if the sample cannot be written.
    pub(crate) async fn new(args: JobFileArgs, state: &StateDirectory, ports: &Ports) -> Result<JobFiles, Failure> {
        let sample = JobsSource::new(state.sample_crontab(), Purpose::Run);
        let mut paths = [args.crontabs, args.jobs].concat();
        let is_sample = |source: &Option<String>| source.as_ref().is_some_and(|source| sample.is_stored_as(source));
        if paths.is_empty() && stored_jobs_by_source(ports).await?.keys().all(is_sample) {
            paths.push(sample::write_crontab(state)?);
        }
        let sources = paths
            .iter()
            .map(|path| JobsSource {
                system: args.system,
                mail_owners: args.mail_owners,
                ..JobsSource::new(path, Purpose::Run)
            })
            .collect();
        Ok(JobFiles { watch: FileWatch::new(paths), host_zone: HostZoneWatch::new(), sample, sources })
    }

    /// Applies all files. Returns one line per file, and one per other source of stored jobs.
    ///
    /// # Errors
    /// Exit 2 if a file is faulty and none of its jobs is stored: an operator tries it for the first time. A file that
    /// was valid before keeps its stored jobs.
    pub(crate) async fn apply_all(&self, ports: &Ports, packs: &Packs) -> Result<Vec<String>, Failure> {
        let mut lines = Vec::new();
        for source in &self.sources {
            let line = match self.apply_source(source, ports, packs).await {
                Ok(applied) => applied.summary(source),
                Err(failure) if !has_stored_jobs(source, ports).await? => return Err(failure),
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
        let mut lines = Vec::new();
        for (source, keys) in stored_jobs_by_source(ports).await? {
            let Some(source) = source else { continue };
            if self.sources.iter().any(|own| own.is_stored_as(&source)) {
                continue;
            }
            if self.sample.is_stored_as(&source) {
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

    /// Applies each file when it changes, and all when the zone of this host changes, until `stop`.
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
            let mut changed = self.watch.take_changed();
            if let Some(zone) = self.host_zone.take_changed() {
                print_error_line(&zone_summary(&zone));
                changed = self.sources.iter().map(|source| source.path.clone()).collect();
            }
            for path in changed {
                let Some(source) = self.sources.iter().find(|source| source.path == path) else { continue };
                match self.apply_source(source, &ports, &packs.current()).await {
                    Ok(applied) => print_error_line(&change_summary(source, &applied.difference)),
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

    /// Applies a file: the stored jobs are then those of the file.
    async fn apply_source(&self, source: &JobsSource, ports: &Ports, packs: &Packs) -> Result<Applied, Failure> {
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
        let others = self.sources.iter().filter(|other| *other != source);
        let file = AppliedFile {
            source: &read.name,
            jobs: &read.jobs,
            former_names: &read.former_names,
            former_sources: &self.former_sources(source),
            other_sources: &others
                .flat_map(|other| [Some(other.name()), other.former_name()])
                .flatten()
                .collect::<Vec<_>>(),
        };
        let difference = apply_file(ports, &file, how, Timestamp::now())
            .await
            .map_err(|error| Failure::failed(format!("{}: {error}", source.path.display())))?;
        for key in &difference.taken_over {
            print_error_line(&format!(
                "{}: takes over job {key}, which came from another source",
                source.path.display()
            ));
        }
        print_renamed(source, &difference);
        Ok(Applied { jobs: read.jobs.len(), zone: read.host_zone.note(), difference })
    }

    /// The name under which an older build stored the jobs of a file, unless it is another file of this `up`.
    fn former_sources(&self, source: &JobsSource) -> Vec<String> {
        let is_free = |former: &String| self.sources.iter().all(|own| own.name() != *former);
        source.former_name().into_iter().filter(is_free).collect()
    }
}

/// The result of applying a file.
struct Applied {
    jobs: usize,
    /// Names the zone of this host, if jobs have it.
    zone: Option<String>,
    difference: Difference,
}

impl Applied {
    fn summary(&self, source: &JobsSource) -> String {
        let zone = self.zone.as_ref().map_or_else(String::new, |zone| format!(" ({zone})"));
        format!("{} of {}{zone}", self.jobs, source.path.display())
    }
}

fn zone_summary(zone: &HostZone) -> String {
    match &zone.0 {
        Ok(name) => format!("the zone of this host is {name} now; applying all files again"),
        Err(why) => format!("{why}; applying all files again"),
    }
}

fn print_renamed(source: &JobsSource, difference: &Difference) {
    let renamed = &difference.renamed;
    if renamed.is_empty() {
        return;
    }
    let named: Vec<String> =
        renamed.iter().take(LISTED_JOBS_MAX).map(|(from, to)| format!("{from} is now {to}")).collect();
    let more = if renamed.len() > named.len() { ", ..." } else { "" };
    print_error_line(&format!(
        "{}: {} entries without a name have new names; their earlier runs stay under the old ones: {}{more}",
        source.path.display(),
        renamed.len(),
        named.join(", ")
    ));
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
async fn has_stored_jobs(source: &JobsSource, ports: &Ports) -> Result<bool, Failure> {
    Ok(stored_jobs_by_source(ports).await?.keys().flatten().any(|stored| source.is_stored_as(stored)))
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
