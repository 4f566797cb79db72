//! Reads files with jobs: a crontab, or a jobs file if the name ends in `.toml`.
//!
//! Used by `apply`, `plan`, `lint`, `job set` and `up`. Never stores anything.

use std::collections::BTreeSet;
use std::path::PathBuf;

use domain::crontab::{FileContent, Format, Options, Place};
use domain::document::NameReference;
use domain::fault::{Fault, Faults, Level};
use domain::job_files;
use domain::job_list::JobList;
use domain::secret::Reference;
use domain::zones::HostZone;

use crate::crontab_kind::CrontabKind;
use crate::failure::Failure;
use crate::system_format::{HOST_NAMES, looks_like_system_crontab};
use crate::text_files::{ReadFile, Unreadable, read_file, read_file_or_pipe, read_standard_input};
use crate::{host_zone, ownership, source_path};

const SYSTEM_FORMAT_MESSAGE: &str = "looks like a system crontab, because every entry begins with a user of this host \
                                     and no program; pass --system";

const REFERENCE_MESSAGE: &str = "a reference is read with the rights of Sexton, so the crontab of another user cannot \
                                 have one; write the value";

/// The name of a crontab without a file.
const STANDARD_INPUT: &str = "standard input";

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
    /// Whether the operator named the file or its directory.
    pub(crate) place: Place,
    /// Sources of stored jobs that the file replaces, because a file became a directory, or a directory a file.
    pub(crate) replaced: Vec<String>,
    pub(crate) purpose: Purpose,
}

/// What happens with the jobs of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// They are shown. What the other purposes refuse is a warning.
    Show,
    /// They are sent to a server.
    Send,
    /// This process runs them.
    Run,
}

/// The content of a file: its valid jobs, and all faults and warnings.
#[derive(Debug, Default)]
pub(crate) struct ParsedJobs {
    pub(crate) jobs: JobList,
    pub(crate) faults: Faults,
    host_zone: Option<HostZone>,
    pub(crate) references: Vec<NameReference>,
}

/// The jobs of a file without faults.
#[derive(Debug, Default)]
pub(crate) struct ValidJobs {
    /// The stored `source` of the jobs: the absolute path.
    pub(crate) name: String,
    pub(crate) jobs: JobList,
    pub(crate) warnings: Faults,
    host_zone: Option<HostZone>,
    /// [`JobsSource::former_name`].
    pub(crate) former_source: Option<String>,
}

/// Names the zone of this host, if any job has it because its file names none.
fn zone_note(zone: Option<&HostZone>, jobs: &JobList) -> Option<String> {
    let name = zone?.0.as_ref().ok()?;
    (0..jobs.len()).any(|index| jobs.is_in_host_zone(index)).then(|| format!("zone {name}, from this host"))
}

impl ValidJobs {
    /// A file without jobs: it was deleted.
    pub(crate) fn none(name: &str) -> ValidJobs {
        ValidJobs { name: name.to_owned(), ..ValidJobs::default() }
    }

    /// Names the zone of this host, if any job has it because its file names none.
    pub(crate) fn zone_note(&self) -> Option<String> {
        zone_note(self.host_zone.as_ref(), &self.jobs)
    }
}

impl JobsSource {
    pub(crate) fn new(path: impl Into<PathBuf>, purpose: Purpose) -> JobsSource {
        JobsSource {
            path: path.into(),
            group: None,
            system: false,
            mail_owners: false,
            place: Place::Alone,
            replaced: Vec::new(),
            purpose,
        }
    }

    /// The stored `source` of the jobs.
    pub(crate) fn name(&self) -> String {
        if self.is_standard_input() || source_path::is_descriptor(&self.path) {
            return STANDARD_INPUT.to_owned();
        }
        source_path::absolute(&self.path).display().to_string()
    }

    /// The `source` that builds up to 0.2.0 stored, where it is another one: they resolved links.
    pub(crate) fn former_name(&self) -> Option<String> {
        let resolved = self.path.canonicalize().ok()?.display().to_string();
        Some(resolved).filter(|resolved| *resolved != self.name() && !self.is_standard_input())
    }

    /// Whether the stored `source` of a job names this file.
    pub(crate) fn is_stored_as(&self, source: &str) -> bool {
        self.name() == source || self.former_name().as_deref() == Some(source)
    }

    /// Whether the crontab belongs to another user than the one of this process.
    pub(crate) fn is_of_another_user(&self) -> bool {
        let kind = CrontabKind::of(&source_path::absolute(&self.path), self.system);
        let account = kind.account(false).ok().flatten();
        account.is_some_and(|account| account.uid != rustix::process::geteuid().as_raw())
    }

    fn is_standard_input(&self) -> bool {
        self.path.as_os_str() == "-"
    }

    /// Reads the file, a pipe or standard input.
    ///
    /// # Errors
    /// Exit 2 if it cannot be read. Faults of its content are part of the result.
    pub(crate) fn parse(&self) -> Result<ParsedJobs, Failure> {
        let fault = |why: Unreadable| Failure::usage(Fault::new(&self.shown_name(), 0, "", why.message).to_string());
        Ok(self.parse_content(&self.read().map_err(fault)?))
    }

    /// As [`JobsSource::parse`]; a file that cannot be read has one fault.
    pub(crate) fn parse_or_fault(&self) -> ParsedJobs {
        match self.read() {
            Ok(file) => self.parse_content(&file),
            Err(why) => ParsedJobs::refused(Fault::new(&self.shown_name(), 0, "", why.message)),
        }
    }

    fn read(&self) -> Result<ReadFile, Unreadable> {
        match self.place {
            // A FIFO in a directory would block.
            Place::Directory => read_file(&self.path),
            _ if self.is_standard_input() => read_standard_input(),
            _ => read_file_or_pipe(&self.path),
        }
    }

    /// The name of the file in faults.
    pub(crate) fn shown_name(&self) -> String {
        if self.is_standard_input() { self.name() } else { self.path.display().to_string() }
    }

    /// Parses the file as it was read.
    pub(crate) fn parse_content(&self, file: &ReadFile) -> ParsedJobs {
        let name = self.name();
        let shown = self.shown_name();
        let kind = match self.is_standard_input() || job_files::is_jobs_file(&shown) {
            true => CrontabKind::Plain,
            false => CrontabKind::of(&source_path::absolute(&self.path), self.system),
        };
        let account = match kind.account(self.purpose == Purpose::Run) {
            Ok(account) => account,
            Err(message) => return ParsedJobs::refused(Fault::new(&shown, 0, "", message)),
        };
        let owner = account.as_ref().map(|account| account.uid);
        if self.place == Place::Directory
            && let Err(message) = ownership::check_as_cron(file.owner, owner)
        {
            return ParsedJobs::refused(Fault::new(&shown, 0, "", message));
        }
        let mut refusals = Vec::new();
        match (ownership::check_when_root(file.owner, owner), self.purpose) {
            (Ok(()), _) => {}
            (Err(message), Purpose::Show) => {
                refusals.push(Fault::warning(&shown, 0, "", format!("`up` as root refuses the file: {message}")));
            }
            (Err(message), _) => return ParsedJobs::refused(Fault::new(&shown, 0, "", message)),
        }
        let format = if self.is_standard_input() && self.system { Format::System } else { kind.format() };
        let zone = host_zone::find().name;
        let own_user = self.mail_owners.then(keeper::own_user);
        let options = Options {
            format,
            source: &name,
            place: self.place,
            group: self.group.as_deref(),
            user: account.as_ref().map(|account| account.name.as_str()),
            host_zone: Some(&zone),
            mail_owner: own_user.as_deref(),
            replaced_sources: &self.replaced,
            host_names: Some(HOST_NAMES),
        };
        let mut content = job_files::read(&shown, &file.bytes, &options);
        if kind == CrontabKind::Plain && !job_files::is_jobs_file(&shown) && looks_like_system_crontab(&content.jobs) {
            return ParsedJobs::refused(Fault::new(&shown, 0, "", SYSTEM_FORMAT_MESSAGE));
        }
        if owner.is_some_and(|owner| owner != rustix::process::geteuid().as_raw()) {
            refuse_references(&mut content, &shown);
        }
        ParsedJobs::new(content, zone, &shown, refusals)
    }
}

impl ParsedJobs {
    fn new(content: FileContent, zone: HostZone, shown: &str, more: Vec<Fault>) -> ParsedJobs {
        let FileContent { mut jobs, mut faults, references } = content;
        if jobs.sorted().len() < jobs.len() {
            let mut keys = BTreeSet::new();
            jobs.retain_keys(|key| {
                let is_first = keys.insert(key.clone());
                if !is_first {
                    let message = "two jobs have this name after --group is applied; rename one or change its group";
                    faults.0.push(Fault::new(shown, 0, key.to_string(), message));
                }
                is_first
            });
        }
        faults.0.extend(more);
        ParsedJobs { jobs, faults, host_zone: Some(zone), references }
    }

    /// Names the zone of this host, if any job has it because its file names none.
    pub(crate) fn zone_note(&self) -> Option<String> {
        zone_note(self.host_zone.as_ref(), &self.jobs)
    }

    /// A file that is refused as a whole.
    fn refused(fault: Fault) -> ParsedJobs {
        ParsedJobs { faults: Faults(vec![fault]), ..ParsedJobs::default() }
    }
}

/// Drops the entries with variables that Sexton would resolve: `file:/etc/shadow` is readable for root only.
fn refuse_references(content: &mut FileContent, shown: &str) {
    let FileContent { jobs, faults, .. } = content;
    jobs.retain(|job| {
        let reference = job.env.iter().find(|(_, value)| Reference::parse(value).is_some());
        if let Some((name, _)) = reference {
            faults.0.push(Fault::new(shown, 0, format!("{}: {name}", job.key()), REFERENCE_MESSAGE));
        }
        reference.is_none()
    });
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
    let ParsedJobs { jobs, faults: warnings, host_zone, .. } = parsed;
    let former_source = source.former_name();
    Ok(ValidJobs { name: source.name(), jobs, warnings, host_zone, former_source })
}
