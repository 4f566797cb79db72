//! Reads a file of jobs of either format. Used by `lint`, `plan`, `apply` and `up`.

use crate::crontab::{self, FileContent, FormerNames, Options};
use crate::jobs_file;

/// Reads a jobs file (its name ends in `.toml`) or a crontab (any other name), with all its faults. `file` appears in
/// faults.
pub fn read(file: &str, text: impl AsRef<[u8]>, options: &Options<'_>) -> FileContent {
    if !is_jobs_file(file) {
        return crontab::read(file, text, options);
    }
    let (mut jobs, faults) = jobs_file::parse(file, text);
    for job in &mut jobs {
        job.source = Some(options.source.to_owned());
        if let Some(group) = options.group.filter(|_| job.group == jobs_file::GROUP_DEFAULT) {
            job.group = group.to_owned();
        }
    }
    FileContent { jobs, faults, former_names: FormerNames::new() }
}

/// Whether a file of this name is a jobs file.
pub fn is_jobs_file(file: &str) -> bool {
    file.ends_with(".toml")
}
