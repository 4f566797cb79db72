//! Reads files with jobs: a crontab, or a jobs file if the name ends in `.toml`.
//!
//! Used by `apply`, `plan`, `lint`, `job set` and `up`. Never stores anything.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use domain::fault::{Fault, Faults, Level};
use domain::job::Job;
use domain::job_files;
use domain::jobs_file::GROUP_DEFAULT;

use crate::configuration::{FILE_BYTES_MAX, read_text};
use crate::failure::Failure;
use crate::mailer::mail_owners;

/// Crontabs below this folder have a user column (crontab(5)).
const SYSTEM_FOLDER: &str = "/etc";

/// A file with jobs, and how to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobsSource {
    /// `-` is a crontab on standard input.
    pub(crate) path: PathBuf,
    /// The group of entries that name none.
    pub(crate) group: Option<String>,
    /// The crontab has a user column, in any folder.
    pub(crate) system: bool,
    /// Entries of a crontab without MAILTO are mailed to their user (`[mail] owner`).
    pub(crate) mail_owners: bool,
}

/// The content of a file: its valid jobs, and all faults and warnings.
#[derive(Debug)]
pub(crate) struct ParsedJobs {
    pub(crate) jobs: Vec<Job>,
    pub(crate) faults: Faults,
}

/// The jobs of a file without faults.
#[derive(Debug)]
pub(crate) struct ValidJobs {
    /// The stored `source` of the jobs: the absolute path.
    pub(crate) name: String,
    pub(crate) jobs: Vec<Job>,
    pub(crate) warnings: Faults,
}

impl JobsSource {
    pub(crate) fn new(path: impl Into<PathBuf>) -> JobsSource {
        JobsSource { path: path.into(), group: None, system: false, mail_owners: false }
    }

    /// The stored `source` of the jobs.
    pub(crate) fn name(&self) -> String {
        if self.is_standard_input() {
            return "standard input".to_owned();
        }
        self.absolute().display().to_string()
    }

    fn absolute(&self) -> PathBuf {
        self.path.canonicalize().or_else(|_| std::path::absolute(&self.path)).unwrap_or_else(|_| self.path.clone())
    }

    fn is_standard_input(&self) -> bool {
        self.path.as_os_str() == "-"
    }

    /// # Errors
    /// Exit 2 if the file cannot be read. Faults of its content are part of the result.
    pub(crate) fn parse(&self) -> Result<ParsedJobs, Failure> {
        let text = if self.is_standard_input() { standard_input()? } else { read_text(&self.path)? };
        let shown =
            if self.is_standard_input() { "standard input".to_owned() } else { self.path.display().to_string() };
        let system = self.system || self.absolute().starts_with(Path::new(SYSTEM_FOLDER));
        let (mut jobs, faults) = job_files::parse(&shown, &text, system);
        if self.mail_owners && !job_files::is_jobs_file(&shown) {
            mail_owners(&mut jobs);
        }
        Ok(self.assign_group_and_source(&shown, jobs, faults))
    }

    /// Sets the requested group and the source of each job.
    fn assign_group_and_source(&self, shown: &str, jobs: Vec<Job>, mut faults: Faults) -> ParsedJobs {
        let name = self.name();
        let mut keys = BTreeSet::new();
        let mut settled = Vec::with_capacity(jobs.len());
        for mut job in jobs {
            if let Some(group) = self.group.as_ref().filter(|_| job.group == GROUP_DEFAULT) {
                job.group.clone_from(group);
            }
            if !keys.insert(job.key()) {
                let message = "two jobs have this name after --group is applied; rename one or change its group";
                faults.0.push(Fault::new(shown, 0, job.key().to_string(), message));
            }
            job.source = Some(name.clone());
            settled.push(job);
        }
        ParsedJobs { jobs: settled, faults }
    }
}

/// Reads a file whose jobs are all valid.
///
/// # Errors
/// Exit 2 with every fault of the file.
pub(crate) fn read_valid_jobs(source: &JobsSource) -> Result<ValidJobs, Failure> {
    let parsed = source.parse()?;
    if parsed.faults.has_faults() {
        let only_faults = parsed.faults.0.into_iter().filter(|fault| fault.level == Level::Fault).collect();
        return Err(Faults(only_faults).into());
    }
    Ok(ValidJobs { name: source.name(), jobs: parsed.jobs, warnings: parsed.faults })
}

fn standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(FILE_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|why| Failure::usage(format!("standard input cannot be read: {why}")))?;
    Ok(text)
}
