//! Reads a file of jobs of either format. Used by `lint`, `plan`, `apply` and `up`.

use crate::crontab::{self, Format};
use crate::fault::Faults;
use crate::job::Job;
use crate::jobs_file;

/// Whether the file is a jobs file, not a crontab.
pub fn is_jobs_file(file: &str) -> bool {
    file.ends_with(".toml")
}

/// Reads a jobs file (its name ends in `.toml`) or a crontab (any other name), with all its faults. `system`: a crontab
/// has a user column, which a file below `/etc` has anyway.
pub fn parse(file: &str, text: impl AsRef<[u8]>, system: bool) -> (Vec<Job>, Faults) {
    if is_jobs_file(file) {
        return jobs_file::parse(file, text);
    }
    let format = if system || file.starts_with("/etc/") { Format::System } else { Format::User };
    crontab::parse(file, text, format)
}
