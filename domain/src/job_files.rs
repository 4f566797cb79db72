//! Reads a file of jobs of either format. Used by `lint`, `plan`, `apply` and `up`.

use crate::crontab::{self, FileContent, Options};
use crate::job_list::{JobList, ListedJob};
use crate::jobs_file;
use crate::zones::HostZone;

/// Reads a jobs file (its name ends in `.toml`) or a crontab (any other name), with all its faults. `file` appears in
/// faults.
pub fn read(file: &str, text: impl AsRef<[u8]>, options: &Options<'_>) -> FileContent {
    if !is_jobs_file(file) {
        return crontab::read(file, text, options);
    }
    let host_zone = options.host_zone.cloned().unwrap_or_else(HostZone::utc);
    let mut content = jobs_file::read(file, text, &host_zone);
    let mut jobs = JobList::default();
    for (index, mut job) in content.jobs.iter().enumerate() {
        job.source = Some(options.source.to_owned());
        if let Some(group) = options.group.filter(|_| job.group == jobs_file::GROUP_DEFAULT) {
            job.group = group.to_owned();
        }
        jobs.push(ListedJob { job, former_names: Vec::new(), in_host_zone: content.jobs.is_in_host_zone(index) });
    }
    content.jobs = jobs;
    content
}

/// Whether a file of this name is a jobs file.
pub fn is_jobs_file(file: &str) -> bool {
    file.ends_with(".toml")
}
