//! Applies the crontabs and jobs files of an `up`, at the start and when they change. The stored jobs of a file equal
//! its content. A faulty file keeps the jobs of its last good version; in a file that never had one, only the faulty
//! lines or jobs are left out.
//!
//! Jobs of a file that is no longer named stay and are listed, because `sexton apply` may have stored them. Jobs of the
//! sample are deleted as soon as there are others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::crontab::Place;
use domain::fault::Level;
use domain::ports::Ports;
use domain::units::format_count;
use domain::zones::HostZone;
use jiff::Timestamp;
use rules::Packs;
use services::commands::{AppliedFile, ApplyOptions, Difference, apply, apply_file};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::file_alerts::alert_lost_jobs;
use super::name_alerts;
use super::sample;
use super::stored_sources::{
    IncompleteSources, NAMED_JOBS_MAX, StoredKeys, stored_jobs_by_source, stored_keys_by_source,
};
use crate::failure::{Failure, print_error_line};
use crate::file_states::{FileKind, FileStates, reason};
use crate::file_watch::{Content, FileWatch, POLL_INTERVAL};
use crate::host_zone::HostZoneWatch;
use crate::jobs_source::{JobsSource, ParsedJobs, Purpose};
use crate::known_names::KnownNames;
use crate::local_runner::SharedPacks;
use crate::shared_names::NameClaims;
use crate::signals::ReloadRequests;
use crate::source_list::SourceList;
use crate::state::StateDirectory;

/// The files of flags and configuration.
pub(crate) struct JobFileArgs {
    pub(crate) crontabs: Vec<PathBuf>,
    pub(crate) jobs: Vec<PathBuf>,
    /// The crontabs have a user column.
    pub(crate) system: bool,
    /// Entries without MAILTO are mailed to their user.
    pub(crate) mail_owners: bool,
    /// Names of the configured channels.
    pub(crate) channels: Vec<String>,
}

pub(crate) struct JobFiles {
    named: SourceList,
    /// The files of the names. One that left its directory stays until its absence is certain.
    sources: Vec<JobsSource>,
    claims: NameClaims,
    /// The sample, whose jobs are deleted as soon as there are others.
    sample: JobsSource,
    watch: FileWatch,
    host_zone: HostZoneWatch,
    states: FileStates,
    channels: Vec<String>,
    /// The failure of each file that was printed last, so that it is printed once while it is retried.
    failures: BTreeMap<PathBuf, Failure>,
}

/// What the content of a file changed.
enum Applied {
    /// All jobs are stored. `zone` names the zone of this host, if jobs have it.
    Whole { jobs: usize, zone: Option<String>, difference: Difference },
    /// The file has faults and never had a good version: its good jobs are stored.
    Part { jobs: usize, faults: Vec<String> },
    /// The file has faults; nothing changed.
    Kept { faults: Vec<String> },
}

impl JobFiles {
    /// The files to apply; the sample if no file is named and only jobs of the sample are stored.
    ///
    /// # Errors
    /// Fails if the stored jobs cannot be read, or if the sample cannot be written.
    pub(crate) async fn new(
        args: JobFileArgs,
        state: &StateDirectory,
        ports: &Ports,
        states: &FileStates,
    ) -> Result<JobFiles, Failure> {
        let sample = JobsSource::new(state.sample_crontab(), Purpose::Run);
        let mut paths = [args.crontabs, args.jobs].concat();
        let is_sample = |source: &Option<String>| source.as_ref().is_some_and(|source| sample.is_stored_as(source));
        let stored = stored_jobs_by_source(ports).await?;
        if paths.is_empty() && stored.keys().all(is_sample) {
            paths.push(sample::write_crontab(state)?);
        }
        let source = |path| JobsSource {
            system: args.system,
            mail_owners: args.mail_owners,
            ..JobsSource::new(path, Purpose::Run)
        };
        let mut named = SourceList::with_stored(paths.iter().map(source).collect(), stored.keys().flatten());
        let sources = named.expand_and_print();
        Ok(JobFiles {
            watch: FileWatch::new(sources.iter().map(|source| source.path.clone())),
            named,
            host_zone: HostZoneWatch::new(),
            sample,
            sources,
            claims: NameClaims::default(),
            states: states.clone(),
            channels: args.channels,
            failures: BTreeMap::new(),
        })
    }

    /// Applies all files. Returns one line per file, and one per other source of stored jobs.
    ///
    /// # Errors
    /// Exit 2 if a file is faulty, no file has a good job, and no job is stored: an operator tries it for the first
    /// time.
    pub(crate) async fn apply_all(&mut self, ports: &Ports, packs: &Packs) -> Result<Vec<String>, Failure> {
        let watch = &mut self.watch;
        let read: BTreeMap<PathBuf, Content> =
            tokio::task::block_in_place(|| watch.read_at_start()).into_iter().collect();
        let (mut lines, mut all_faults, mut good) = (Vec::new(), Vec::new(), 0);
        let mut replaced: BTreeSet<&String> = BTreeSet::new();
        for source in &self.sources {
            let shown = source.path.display();
            let Some(content) = read.get(&source.path) else {
                let message = "being written; it is applied when it is complete";
                self.states.set(FileKind::Jobs, &source.name(), Err(format!("the file is {message}")));
                lines.push(format!("{shown} is {message}"));
                continue;
            };
            match self.apply_content(source, content, ports, packs).await? {
                Applied::Whole { jobs, zone, .. } => {
                    good += jobs;
                    replaced.extend(source.replaced.iter().filter(|_| jobs > 0));
                    let zone = zone.map_or_else(String::new, |zone| format!(" ({zone})"));
                    lines.push(format!("{jobs} of {shown}{zone}"));
                }
                Applied::Part { jobs, faults } => {
                    good += jobs;
                    replaced.extend(source.replaced.iter().filter(|_| jobs > 0));
                    all_faults.extend(faults);
                    lines.push(format!("{jobs} of {shown}; its faulty entries are left out"));
                }
                Applied::Kept { faults } => {
                    all_faults.extend(faults);
                    lines.push(format!("{shown} has faults; its stored jobs are unchanged"));
                }
            }
        }
        if !all_faults.is_empty() && good == 0 && stored_jobs_by_source(ports).await?.is_empty() {
            return Err(Failure::Usage(all_faults));
        }
        all_faults.iter().for_each(|fault| print_error_line(fault));
        lines.extend(self.handle_other_sources(ports, &replaced).await?);
        Ok(lines)
    }

    /// Lists the stored jobs of files that are not named, and deletes those of the sample when there are others.
    /// `replaced`: the sources whose jobs other files have now.
    async fn handle_other_sources(&self, ports: &Ports, replaced: &BTreeSet<&String>) -> Result<Vec<String>, Failure> {
        let mut lines = Vec::new();
        let stored = stored_jobs_by_source(ports).await?;
        let is_sample = |source: &str| self.sample.is_stored_as(source);
        let are_others_stored = stored.keys().any(|source| !source.as_deref().is_some_and(is_sample));
        for (source, jobs) in stored {
            let Some(source) = source else { continue };
            if self.sources.iter().any(|own| own.is_stored_as(&source)) {
                continue;
            }
            if is_sample(&source) && are_others_stored {
                self.delete_jobs_of(&source, ports).await?;
                lines.push(format!("{} of the sample deleted, because other jobs are stored", jobs.count));
                continue;
            }
            if replaced.contains(&source) {
                self.delete_jobs_of(&source, ports).await?;
                let what = if Path::new(&source).is_dir() { "it is a directory" } else { "its directory is a file" };
                let count = format_count(jobs.count, "job");
                lines.push(format!("{count} of {source} deleted, because {what} now"));
                continue;
            }
            if self.named.has_lost(&source) {
                self.delete_jobs_of(&source, ports).await?;
                lines.push(format!(
                    "{} of {source} deleted, because the file is no longer in its directory",
                    jobs.count
                ));
                continue;
            }
            let named: Vec<String> = jobs.named.iter().map(ToString::to_string).collect();
            let more = if jobs.count > named.len() { ", ..." } else { "" };
            lines.push(format!(
                "{} of {source}, which is not named now, keep running: {}{more}; \
                 `sexton job remove GROUP/NAME` deletes one",
                jobs.count,
                named.join(", ")
            ));
        }
        Ok(lines)
    }

    async fn delete_jobs_of(&self, source: &str, ports: &Ports) -> Result<(), Failure> {
        let how = ApplyOptions { prune: true, dry_run: false };
        let deleted = apply(ports, source, &[], how, Timestamp::now()).await;
        deleted.map_err(|error| Failure::failed(format!("cannot delete the jobs of {source}: {error}")))?;
        Ok(())
    }

    /// Watches files that are new in a directory, too.
    fn add_new_files(&mut self) {
        let found = self.named.expand_and_print();
        let is_new = |source: &JobsSource| !self.sources.contains(source);
        if !found.iter().any(is_new) {
            return;
        }
        let kept = self.sources.drain(..).filter(|source| !found.contains(source)).collect::<Vec<_>>();
        self.sources = [found, kept].concat();
        self.watch_sources();
    }

    fn watch_sources(&mut self) {
        let paths: Vec<PathBuf> = self.sources.iter().map(|source| source.path.clone()).collect();
        self.watch.set_paths(&paths);
    }

    /// The file left its directory.
    async fn remove_source(&mut self, source: &JobsSource, ports: &Ports) -> Result<Difference, Failure> {
        let difference = self.store_jobs(source, &ParsedJobs::default(), ports).await?;
        self.claims.set(&self.sources, source, None);
        self.states.remove(&source.name());
        self.sources.retain(|other| other != source);
        self.watch_sources();
        Ok(difference)
    }

    /// Applies each file when it changes, and all when the zone of this host changes, until `stop`.
    pub(crate) async fn apply_on_change(
        mut self,
        ports: Ports,
        packs: SharedPacks,
        nudge: Arc<Notify>,
        mut reloads: ReloadRequests,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                Ok(()) = reloads.changed() => self.watch.read_again(),
            }
            if let Some(zone) = self.host_zone.take_changed() {
                print_error_line(&zone_summary(&zone));
                self.watch.read_again();
            }
            let changed = tokio::task::block_in_place(|| {
                self.add_new_files();
                self.watch.take_changed()
            });
            for (path, content) in changed {
                let Some(source) = self.sources.iter().find(|source| source.path == path).cloned() else { continue };
                let applied = match has_left_directory(&source, &content) {
                    true => {
                        let removed = self.remove_source(&source, &ports).await;
                        removed.map(|difference| Applied::Whole { jobs: 0, zone: None, difference })
                    }
                    false => self.apply_content(&source, &content, &ports, &packs.current()).await,
                };
                match applied {
                    Ok(applied) => {
                        print_change(&path, &applied);
                        self.failures.remove(&path);
                    }
                    Err(failure) => self.retry_later(&path, failure),
                }
                nudge.notify_one();
            }
            self.retry_concerned();
        }
    }

    /// Files that share a job with a changed one are applied again at the next poll.
    fn retry_concerned(&mut self) {
        let concerned = self.claims.take_retries();
        for source in self.sources.iter().filter(|source| concerned.contains(&source.name())) {
            self.watch.retry(&source.path);
        }
    }

    /// The store failed: the file is applied again at the next poll.
    fn retry_later(&mut self, path: &Path, failure: Failure) {
        self.watch.retry(path);
        if self.failures.get(path) != Some(&failure) {
            failure.print();
            self.failures.insert(path.to_owned(), failure);
        }
    }

    /// Makes the stored jobs equal to the content of the file, as its faults allow, and records whether they are.
    ///
    /// # Errors
    /// Returns the failure of the store.
    async fn apply_content(
        &self,
        source: &JobsSource,
        content: &Content,
        ports: &Ports,
        packs: &Packs,
    ) -> Result<Applied, Failure> {
        let name = source.name();
        // A large file takes seconds, in which this thread serves nothing else.
        let read = tokio::task::block_in_place(|| read_jobs(source, content));
        let applied = self.apply_parsed(source, read, ports, packs).await;
        let state = match &applied {
            Ok(Applied::Whole { .. }) => Ok(()),
            Ok(Applied::Part { faults, .. }) => Err(reason(faults, "the faulty entries are left out")),
            Ok(Applied::Kept { faults }) => Err(reason(faults, "the jobs of its last good version stay")),
            Err(Failure::Usage(messages) | Failure::Failed(messages)) => {
                Err(reason(messages, "the change is not applied"))
            }
            Err(Failure::ReaderGone) => Ok(()),
        };
        self.states.set(FileKind::Jobs, &name, state);
        applied
    }

    async fn apply_parsed(
        &self,
        source: &JobsSource,
        read: Result<ParsedJobs, String>,
        ports: &Ports,
        packs: &Packs,
    ) -> Result<Applied, Failure> {
        let mut parsed = match read {
            Ok(parsed) => parsed,
            Err(message) => return Ok(Applied::Kept { faults: vec![message] }),
        };
        let (faults, warnings): (Vec<_>, Vec<_>) =
            parsed.faults.0.iter().partition(|fault| fault.level == Level::Fault);
        let faults: Vec<String> = faults.into_iter().map(ToString::to_string).collect();
        let (name, jobs) = (source.name(), parsed.jobs.len());
        let mut incomplete = IncompleteSources::read(ports).await?;
        if !faults.is_empty() {
            let never_had_a_good_version = incomplete.contains(&name) || !has_stored_jobs(source, ports).await?;
            if jobs == 0 || !never_had_a_good_version {
                return Ok(Applied::Kept { faults });
            }
            incomplete.insert(&name, ports).await?;
        }
        warnings.iter().for_each(|warning| print_error_line(&warning.to_string()));
        let known = KnownNames { packs, channels: Some(&self.channels) };
        let problems = tokio::task::block_in_place(|| known.problems_of_all(parsed.jobs.iter()));
        for (key, problem) in &problems {
            print_error_line(&format!("{}: warning: {key}: {problem}", source.shown_name()));
        }
        let keys = self.claims.hashes(&parsed.jobs);
        let shared = self.refuse_shared_jobs(source, &mut parsed, ports).await?;
        let difference = self.store_jobs(source, &parsed, ports).await?;
        name_alerts::alert_problems(ports, &problems, Timestamp::now())
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        self.claims.set(&self.sources, source, Some(keys));
        if !faults.is_empty() {
            return Ok(Applied::Part { jobs, faults: [faults, shared].concat() });
        }
        incomplete.remove(&name, ports).await?;
        match shared.is_empty() {
            true => Ok(Applied::Whole { jobs, zone: parsed.zone_note(), difference }),
            false => Ok(Applied::Part { jobs: parsed.jobs.len(), faults: shared }),
        }
    }

    /// Leaves out the jobs that another file has, too. Returns one fault for each.
    async fn refuse_shared_jobs(
        &self,
        source: &JobsSource,
        parsed: &mut ParsedJobs,
        ports: &Ports,
    ) -> Result<Vec<String>, Failure> {
        let stored = match self.claims.needs_stored(&self.sources, source) {
            true => stored_keys_by_source(ports).await?,
            false => StoredKeys::new(),
        };
        let shared = self.claims.refuse(&self.sources, source, &mut parsed.jobs, &stored);
        Ok(shared.iter().map(ToString::to_string).collect())
    }

    /// Makes the stored jobs of the file equal to these. Alerts when most of them are removed.
    async fn store_jobs(&self, source: &JobsSource, parsed: &ParsedJobs, ports: &Ports) -> Result<Difference, Failure> {
        let how = ApplyOptions { prune: true, dry_run: false };
        let failure = |error: &dyn std::fmt::Display| Failure::failed(format!("{}: {error}", source.path.display()));
        let (name, now) = (source.name(), Timestamp::now());
        let others = self.sources.iter().filter(|other| *other != source);
        let file = AppliedFile {
            source: &name,
            jobs: &parsed.jobs,
            former_sources: &self.former_sources(source),
            replaced_sources: &source.replaced,
            other_sources: &others
                .flat_map(|other| [Some(other.name()), other.former_name()])
                .flatten()
                .collect::<Vec<_>>(),
        };
        let difference = apply_file(ports, &file, how, now).await.map_err(|error| failure(&error))?;
        for key in &difference.taken_over {
            print_error_line(&format!(
                "{}: takes over job {key}, which came from another source",
                source.path.display()
            ));
        }
        print_renamed(source, &difference);
        alert_lost_jobs(ports, &name, &difference, now).await.map_err(|error| failure(&error))?;
        Ok(difference)
    }

    /// The name under which an older build stored the jobs of a file, unless it is another file of this `up`.
    fn former_sources(&self, source: &JobsSource) -> Vec<String> {
        let is_free = |former: &String| self.sources.iter().all(|own| own.name() != *former);
        source.former_name().into_iter().filter(is_free).collect()
    }
}

/// Whether a job of this file is stored.
async fn has_stored_jobs(source: &JobsSource, ports: &Ports) -> Result<bool, Failure> {
    Ok(stored_jobs_by_source(ports).await?.keys().flatten().any(|stored| source.is_stored_as(stored)))
}

/// The jobs of a file, or one sentence why it cannot be read.
fn read_jobs(source: &JobsSource, content: &Content) -> Result<ParsedJobs, String> {
    match content {
        Ok(file) => Ok(source.parse_content(file)),
        Err(unreadable) => Err(format!("{}: {}", source.shown_name(), unreadable.message)),
    }
}

fn zone_summary(zone: &HostZone) -> String {
    match &zone.0 {
        Ok(name) => format!("the zone of this host is {name} now; applying all files again"),
        Err(why) => format!("{why}; applying all files again"),
    }
}

/// Whether a file that was found in a directory is there no longer. A file that was named itself is expected to return.
fn has_left_directory(source: &JobsSource, content: &Content) -> bool {
    source.place == Place::Directory && content.as_ref().is_err_and(|unreadable| unreadable.is_missing)
}

fn print_change(path: &Path, applied: &Applied) {
    let shown = path.display();
    match applied {
        Applied::Whole { difference, .. } => print_error_line(&format!(
            "{shown} changed: {} added, {} changed, {} removed",
            format_count(difference.added.len(), "job"),
            difference.changed.len(),
            difference.removed.len()
        )),
        Applied::Part { jobs, faults } => {
            faults.iter().for_each(|fault| print_error_line(fault));
            print_error_line(&format!(
                "{shown} changed: {} in use; its faulty entries are left out",
                format_count(*jobs, "job")
            ));
        }
        Applied::Kept { faults } => {
            faults.iter().for_each(|fault| print_error_line(fault));
            print_error_line(&format!("{shown}: change not applied because of the faults above"));
        }
    }
}

fn print_renamed(source: &JobsSource, difference: &Difference) {
    let renamed = &difference.renamed;
    if renamed.is_empty() {
        return;
    }
    let named: Vec<String> =
        renamed.iter().take(NAMED_JOBS_MAX).map(|(from, to)| format!("{from} is now {to}")).collect();
    let more = if renamed.len() > named.len() { ", ..." } else { "" };
    print_error_line(&format!(
        "{}: new names of {}; earlier runs stay under the old names: {}{more}",
        source.path.display(),
        format_count(renamed.len(), "job"),
        named.join(", ")
    ));
}
