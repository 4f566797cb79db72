//! Reads a file of jobs, of whichever kind it is, and says everything that is wrong or may surprise in it.
//!
//! What `lint` prints, and the front door of `plan`, `apply` and `up`.

use crate::crontab::{self, Format};
use crate::fault::Faults;
use crate::job::Job;
use crate::jobs_file;

/// Reads a jobs file (its name ends in `.toml`) or a crontab (any other name). `system` says that a crontab has a user
/// column; one below `/etc` has it anyway.
pub fn parse(file: &str, text: &str, system: bool) -> (Vec<Job>, Faults) {
    if file.ends_with(".toml") {
        return jobs_file::parse(file, text);
    }
    let format = if system || file.starts_with("/etc/") { Format::System } else { Format::User };
    crontab::parse(file, text, format)
}
