//! Warnings about the names that jobs refer to: rule packs and alert channels. Only warnings: both can be added later,
//! and until then the job runs with its other packs and channels.

use domain::fault::nearest_name;
use domain::job_list::JobList;
use rules::{Packs, choose_packs};

/// One warning for each unknown name of each job.
pub(crate) fn unknown_names(jobs: &JobList, packs: &Packs, channels: &[String]) -> Vec<String> {
    let mut warnings = Vec::new();
    for job in jobs.iter() {
        if let Err(error) = choose_packs(packs, &job.rules, &job.command) {
            warnings.push(format!("{}: {error}", job.key()));
        }
        for name in job.alert.channels.iter().filter(|name| !channels.contains(name)) {
            let hint = match nearest_name(name, channels.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None if channels.is_empty() => "no channel is configured".to_owned(),
                None => format!("configured are {}", channels.join(", ")),
            };
            warnings.push(format!("{}: no alert channel `{name}`; {hint}", job.key()));
        }
    }
    warnings
}
