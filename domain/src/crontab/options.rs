//! How a crontab is read, and what reading it returns.

use std::collections::{BTreeMap, BTreeSet};

use crate::fault::Faults;
use crate::job::{Job, JobKey};
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
}

impl<'a> Options<'a> {
    /// A file that was named itself.
    pub fn new(source: &'a str, format: Format) -> Options<'a> {
        Options { format, source, place: Place::Alone, group: None, user: None, host_zone: None }
    }
}

/// The jobs that a job may have been stored as: by an older build, or when its file was named in another way. The
/// newest name is first.
pub type FormerNames = BTreeMap<JobKey, Vec<JobKey>>;

/// The content of a file with jobs.
#[derive(Clone, Debug, Default)]
pub struct FileContent {
    /// The valid jobs, in the order of the file.
    pub jobs: Vec<Job>,
    /// All faults and warnings.
    pub faults: Faults,
    /// Former names of entries without a name.
    pub former_names: FormerNames,
    /// The jobs whose zone the file does not name: they have that of the host.
    pub in_host_zone: BTreeSet<JobKey>,
}
