//! The files of jobs that the operator named, with each directory replaced by the crontabs in it. Used by `up`, `lint`,
//! `plan`, `apply` and `check`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use domain::crontab::Place;
use domain::fault::Fault;

use crate::crontab_directory::{DirectoryContent, list};
use crate::failure::{Failure, print_error_line};
use crate::jobs_source::{JobsSource, ValidJobs, read_valid_jobs};
use crate::shared_names::JobOwners;
use crate::source_path;

/// Files and directories, as the operator named them.
pub(crate) struct SourceList {
    named: Vec<JobsSource>,
    /// The latest readable content of each directory.
    directories: BTreeMap<PathBuf, DirectoryContent>,
    /// Names that were files: a directory that replaces one is a fault.
    files: BTreeSet<PathBuf>,
    /// The problem of a directory that was printed last.
    printed: BTreeSet<String>,
}

/// The result of one expansion.
#[derive(Debug, Default)]
pub(crate) struct ExpandedSources {
    /// Each file once, in the order of the names.
    pub(crate) sources: Vec<JobsSource>,
    /// Warnings about ignored files.
    pub(crate) warnings: Vec<Fault>,
    /// Directories that cannot be read: their files are those of the last time.
    pub(crate) failures: Vec<Fault>,
}

impl SourceList {
    pub(crate) fn new(named: Vec<JobsSource>) -> SourceList {
        SourceList { named, directories: BTreeMap::new(), files: BTreeSet::new(), printed: BTreeSet::new() }
    }

    /// As [`SourceList::new`]. A name with stored jobs of its own was a file before. One that is a directory of
    /// crontabs now replaces that file, and one that is a file now replaces the files of a directory. A directory
    /// without a crontab replaces nothing: container engines make one where a file is missing.
    pub(crate) fn with_stored<'s>(mut named: Vec<JobsSource>, stored: impl Iterator<Item = &'s String>) -> SourceList {
        let stored: Vec<&String> = stored.collect();
        let mut files = BTreeSet::new();
        for name in &mut named {
            let path = source_path::absolute(&name.path);
            let is_own = |source: &&&String| name.is_stored_as(source);
            let is_below = |source: &&&String| Path::new(source).parent() == Some(&*path);
            let has_crontabs = list(&name.path).is_ok_and(|content| !content.files.is_empty());
            let replaced: Vec<String> = match (has_crontabs, name.path.is_file()) {
                (true, _) => stored.iter().filter(is_own).map(ToString::to_string).collect(),
                (false, true) => stored.iter().filter(is_below).map(ToString::to_string).collect(),
                (false, false) => Vec::new(),
            };
            if !has_crontabs && stored.iter().any(|source| name.is_stored_as(source)) {
                files.insert(name.path.clone());
            }
            name.replaced = replaced;
        }
        SourceList { files, ..SourceList::new(named) }
    }

    /// The files of all names now.
    pub(crate) fn expand(&mut self) -> ExpandedSources {
        let mut expanded = ExpandedSources::default();
        let mut names = BTreeSet::new();
        for named in &self.named {
            let is_directory = self.directories.contains_key(&named.path) || named.path.is_dir();
            if !is_directory || self.files.contains(&named.path) {
                if named.path.exists() {
                    self.files.insert(named.path.clone());
                }
                if names.insert(named.name()) {
                    expanded.sources.push(named.clone());
                }
                continue;
            }
            match list(&named.path) {
                Ok(content) => drop(self.directories.insert(named.path.clone(), content)),
                Err(message) => {
                    expanded.failures.push(Fault::new(&named.path.display().to_string(), 0, "", message));
                }
            }
            let Some(content) = self.directories.get(&named.path) else { continue };
            expanded.warnings.extend(content.ignored.iter().cloned());
            for path in &content.files {
                let source = JobsSource { path: path.clone(), place: Place::Directory, ..named.clone() };
                if names.insert(source.name()) {
                    expanded.sources.push(source);
                }
            }
        }
        expanded
    }

    /// As [`SourceList::expand`], for a server: prints each warning and failure once.
    pub(crate) fn expand_and_print(&mut self) -> Vec<JobsSource> {
        let expanded = self.expand();
        let problems = expanded.failures.iter().chain(&expanded.warnings).map(ToString::to_string);
        let problems: BTreeSet<String> = problems.collect();
        problems.difference(&self.printed).for_each(|problem| print_error_line(problem));
        self.printed = problems;
        expanded.sources
    }

    /// Whether a directory is among the names.
    pub(crate) fn has_directories(&self) -> bool {
        !self.directories.is_empty()
    }

    /// Whether the stored `source` is a file that was in one of the directories, and is there no longer.
    pub(crate) fn has_lost(&self, source: &str) -> bool {
        let path = Path::new(source);
        let is_in = |directory: &PathBuf| path.parent() == Some(&*source_path::absolute(directory));
        self.directories.keys().any(is_in)
            && path.symlink_metadata().is_err_and(|why| why.kind() == std::io::ErrorKind::NotFound)
            && path.parent().is_some_and(Path::is_dir)
    }
}

/// Reads the files of the list, for a command that needs all of them to be valid. Prints warnings about ignored
/// files.
///
/// # Errors
/// Exit 2 with every fault of every file, also if a directory cannot be read or two files have one job.
pub(crate) fn read_valid_files(list: &mut SourceList) -> Result<Vec<ValidJobs>, Failure> {
    let ExpandedSources { sources, warnings, failures } = list.expand();
    warnings.iter().for_each(|warning| print_error_line(&warning.to_string()));
    let mut faults: Vec<String> = failures.iter().map(ToString::to_string).collect();
    let (mut files, mut owners) = (Vec::new(), JobOwners::default());
    for (index, source) in sources.iter().enumerate() {
        match read_valid_jobs(source) {
            Ok(mut file) => {
                let shared = owners.claim(source, &mut file.jobs, index + 1 == sources.len());
                faults.extend(shared.iter().map(ToString::to_string));
                files.push(file);
            }
            Err(failure) => faults.extend(failure.messages()),
        }
    }
    if faults.is_empty() { Ok(files) } else { Err(Failure::Usage(faults)) }
}
