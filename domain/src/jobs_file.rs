//! The jobs file: jobs as TOML, with every field that a job has. Used by `apply`, `plan`, `lint` and `up --jobs`.
//!
//! [`fields`] has the parts that the reader of crontabs uses too: fields of a job, rules for names, checks of
//! schedules. [`check_job`] checks a whole job from elsewhere by the same rules.

mod definition;
pub mod fields;
mod recovery;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::crontab::FileContent;
use crate::document::Section;
use crate::fault::{Fault, Faults};
use crate::job::{Command, Job, JobKey};
use crate::job_list::{JobList, ListedJob};
use crate::zones::{HostZone, LOCAL};

pub use definition::check_job;

/// The group of a job without `group`.
pub const GROUP_DEFAULT: &str = "default";

/// The group of alerts about Sexton itself (`sexton/disk`). No job may use it.
pub const GROUP_RESERVED: &str = "sexton";

/// Reads a whole jobs file: the valid jobs in the order of the file, and all faults and warnings. Comments may hold any
/// bytes; all other text is UTF-8. A syntax error costs only the job that it is in.
pub fn parse(file: &str, text: impl AsRef<[u8]>) -> (Vec<Job>, Faults) {
    let content = read(file, text, &HostZone::utc());
    (content.jobs.iter().collect(), content.faults)
}

/// As [`parse`], for a host with this zone. A job without `zone` has UTC.
pub fn read(file: &str, text: impl AsRef<[u8]>, host_zone: &HostZone) -> FileContent {
    let (document, mut root) = match recovery::parse_document(file, text.as_ref()) {
        Ok(read) => read,
        Err(faults) => return FileContent { faults, ..FileContent::default() },
    };
    let mut jobs = JobList::default();
    let mut lines: BTreeMap<JobKey, u32> = BTreeMap::new();
    for section in root.sections("job") {
        let line = section.line();
        let Some((job, in_host_zone)) = job(file, section, host_zone) else { continue };
        match lines.get(&job.key()) {
            Some(earlier) => {
                let message =
                    format!("line {earlier} already has a job with this name; give one of them another name or group");
                root.fault(line, job.key().to_string(), message);
            }
            None => {
                lines.insert(job.key(), line);
                jobs.push(ListedJob { job, former_names: Vec::new(), in_host_zone });
            }
        }
    }
    root.reject_unknown_keys();
    FileContent { jobs, faults: document.take_faults(), references: document.references() }
}

/// Reads one `[[job]]`, and whether its zone is that of the host; `None` when it has a fault.
fn job(file: &str, mut section: Section, host_zone: &HostZone) -> Option<(Job, bool)> {
    let document = section.document().clone();
    let faults_before = document.fault_count();
    let group = section.text("group").unwrap_or_else(|| GROUP_DEFAULT.to_owned());
    let name_line = section.line_of("name");
    let name = section.required_text("name");
    let schedule_line = section.line_of("schedule");
    let schedule = section.required_text("schedule");
    let command = command(&mut section);
    let zone_line = section.line_of("zone");
    let mut job = Job::new(
        JobKey::new(group, name.clone().unwrap_or_default()),
        schedule.clone().unwrap_or_default(),
        command.clone().unwrap_or(Command::Shell(String::new())),
    );
    job.source = Some(file.to_owned());
    fields::read(&mut section, &mut job);
    section.reject_unknown_keys();
    let has_host_zone = host_zone.resolve(&mut job.zone).unwrap_or_else(|why| {
        let message = format!("{why}; write a name, like zone = \"Europe/Paris\"");
        document.push(Fault::new(file, zone_line, LOCAL, message));
        false
    });
    if name.is_some() {
        fields::check_names(&document, name_line, &job);
    }
    // A host zone without a name was reported above.
    if !job.zone.eq_ignore_ascii_case(LOCAL) {
        fields::check_zone(&document, zone_line, &job);
    }
    if schedule.is_some() {
        fields::check_schedule(&document, schedule_line, &job);
    }
    command?;
    (document.fault_count() == faults_before).then_some((job, has_host_zone))
}

fn command(section: &mut Section) -> Option<Command> {
    let line = section.line();
    let shell = section.text_at("command");
    let words = section.texts("argv");
    match (shell, words) {
        (Some((line, text)), None) if text.trim().is_empty() => {
            section.fault(line, "", "`command` is empty; write what to run");
            None
        }
        (Some((line, text)), None) if text.contains('\0') => {
            section.fault(line, "", "`command` contains a NUL byte; remove it");
            None
        }
        (Some((_, text)), None) => Some(Command::Shell(text)),
        (None, Some(words)) if words.first().is_none_or(String::is_empty) => {
            section.fault(line, "", "`argv` is empty; write argv = [\"program\", \"argument\"]");
            None
        }
        (None, Some(words)) if words.iter().any(|word| word.contains('\0')) => {
            section.fault(line, "", "`argv` contains a NUL byte; remove it");
            None
        }
        (None, Some(words)) => Some(Command::Argv(words)),
        (Some((line, _)), Some(_)) => {
            section.fault(line, "", "both `command` and `argv`; write one of them");
            None
        }
        (None, None) => {
            section.fault(line, "", "`command` is missing; write command = \"...\" or argv = [\"...\"]");
            None
        }
    }
}

/// Writes jobs as [`parse`] reads them, without the fields that the system adds (`anchor`, `paused`, `source`, `seed`).
///
/// # Errors
/// The message of the TOML writer; never for jobs that [`parse`] returned.
pub fn write(jobs: &[Job]) -> Result<String, String> {
    #[derive(Serialize)]
    struct File {
        job: Vec<Job>,
    }
    let job =
        jobs.iter().map(|job| Job { anchor: None, paused: None, source: None, seed: None, ..job.clone() }).collect();
    toml::to_string(&File { job }).map_err(|error| format!("the jobs cannot be written as TOML: {error}"))
}
