//! The crontabs and jobs files of an `up`: applied at the start, and again whenever they change. The stored jobs of a
//! file are what the file says; a file with a fault changes nothing, and is told once.

use std::path::PathBuf;
use std::sync::Arc;

use domain::ports::{Cursor, Ports};
use jiff::Timestamp;
use rules::{Packs, choose};
use services::commands::{Apply, Difference, apply};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::sample;
use super::watch::{LOOK_INTERVAL, Watch};
use super::work::SharedPacks;
use crate::failure::{Failure, tell_line};
use crate::jobs_source::{JobsSource, read_source};
use crate::state::State;

pub struct JobFiles {
    sources: Vec<JobsSource>,
    watch: Watch,
}

impl JobFiles {
    /// # Errors
    /// When no file is named and the sample cannot be written.
    pub fn new(crontabs: Vec<PathBuf>, jobs: Vec<PathBuf>, system: bool, state: &State) -> Result<JobFiles, Failure> {
        let mut paths = [crontabs, jobs].concat();
        if paths.is_empty() {
            paths.push(sample::crontab(state)?);
        }
        let sources = paths.iter().map(|path| JobsSource { system, ..JobsSource::new(path) }).collect();
        Ok(JobFiles { watch: Watch::new(paths), sources })
    }

    /// Applies all files; says one line about each.
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
    let mut after: Option<Cursor> = None;
    loop {
        let page = ports.jobs.list(None, after.as_ref(), 1000).await;
        let page = page.map_err(|error| Failure::bad(format!("the stored jobs cannot be read: {error}")))?;
        let of_source = |job: &domain::job::Job| job.source.as_deref() == Some(source);
        if page.records.iter().any(|stored| stored.job.as_ref().is_ok_and(of_source)) {
            return Ok(true);
        }
        after = page.next;
        if after.is_none() {
            return Ok(false);
        }
    }
}
