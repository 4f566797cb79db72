//! How a crontab is read, and what reading it returns.

use crate::document::NameReference;
use crate::fault::Faults;
use crate::job_list::JobList;
use crate::zones::HostZone;

/// Whether entries have a user column. A property of the file; never guessed from a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A user's crontab: schedule, command.
    User,
    /// `/etc/crontab` and `/etc/cron.d`: schedule, user, command.
    System,
}

/// Whether the operator named the file itself, or a directory of crontabs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file: the names of its entries contain the file's name.
    Alone,
    /// A directory that holds it: the file's name is the group of its entries.
    Directory,
}

impl Place {
    pub(super) fn other(self) -> Place {
        match self {
            Place::Alone => Place::Directory,
            Place::Directory => Place::Alone,
        }
    }
}

/// The names that the host which reads a crontab knows, for warnings about words that are no programs.
#[derive(Clone, Copy, Debug)]
pub struct HostNames {
    /// Whether there is a user of this name.
    pub is_account: fn(&str) -> bool,
    /// Whether there is a program of this name in the folders of this PATH, or else in those that cron searches.
    pub is_program: fn(&str, Option<&str>) -> bool,
}

/// How a crontab is read and its entries are named.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Whether entries have a user column.
    pub format: Format,
    /// The stored `source` of the jobs: an absolute path. A part of the identity of entries without a name.
    pub source: &'a str,
    /// Decides the names and the group of entries that have none.
    pub place: Place,
    /// The group of entries that name none; by default as `place` decides.
    pub group: Option<&'a str>,
    /// The user whose crontab it is. All entries run as this user, and none can name another one.
    pub user: Option<&'a str>,
    /// The zone of the host, which entries have that name no zone; UTC without one.
    pub host_zone: Option<&'a HostZone>,
    /// Entries without MAILTO are mailed to their user, as cron does: `Some` with the user of entries that name none.
    pub mail_owner: Option<&'a str>,
    /// Sources of stored jobs that the file replaces: the file that its directory was before, or the files of the
    /// directory that it was before.
    pub replaced_sources: &'a [String],
    /// `None`: warnings know only the accounts that most systems have.
    pub host_names: Option<HostNames>,
}

impl<'a> Options<'a> {
    /// A file that was named itself.
    pub fn new(source: &'a str, format: Format) -> Options<'a> {
        Options {
            format,
            source,
            place: Place::Alone,
            group: None,
            user: None,
            host_zone: None,
            mail_owner: None,
            replaced_sources: &[],
            host_names: None,
        }
    }
}

/// The content of a file with jobs.
#[derive(Clone, Debug, Default)]
pub struct FileContent {
    /// The valid jobs, in the order of the file.
    pub jobs: JobList,
    /// All faults and warnings.
    pub faults: Faults,
    /// The rule packs and alert channels that the file names, also in faulty jobs.
    pub references: Vec<NameReference>,
}
