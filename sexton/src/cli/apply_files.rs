//! `apply`: stores the jobs of files through the API, and shows the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use domain::job::JobKey;
use domain::job_list::JobList;
use serde_json::{Value, json};

use crate::cli::apply_progress::send_file;
use crate::cli::jobs::unexpected_answer;
use crate::client::{ApiRequest, Client, ServerArguments, block_on};
use crate::failure::{Failure, Outcome, SUCCESS, print_error_line};
use crate::jobs_source::{JobsSource, Purpose, ValidJobs};
use crate::print::Printer;
use crate::source_list::{SourceList, read_valid_files};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Crontab, directory of crontabs, or jobs file if the name ends in .toml; `-` reads a crontab from standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Group of the entries that name none
    #[arg(long, value_name = "G")]
    group: Option<String>,
    /// The crontab has a user column, like /etc/crontab
    #[arg(long)]
    system: bool,
    /// Also delete jobs that this file no longer contains
    #[arg(long)]
    prune: bool,
    /// Print the difference without storing it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    server: ServerArguments,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Outcome {
    let mail_owners = arguments.server.configuration()?.mail.owner;
    let source = |file: &PathBuf| JobsSource {
        group: arguments.group.clone(),
        system: arguments.system,
        mail_owners,
        ..JobsSource::new(file, Purpose::Send)
    };
    let mut list = SourceList::new(arguments.files.iter().map(source).collect());
    let mut files = read_valid_files(&mut list)?;
    for warning in files.iter().flat_map(|file| &file.warnings.0) {
        print_error_line(&warning.to_string());
    }
    block_on(async {
        let client = Client::find(&arguments.server).await?;
        if arguments.prune && list.has_directories() {
            files.extend(lost_files(&client, &list).await?);
        }
        let mut out = Printer::new();
        for file in &files {
            let body = json!({
                "jobs": Vec::from_iter(file.jobs.iter()), "former_names": former_names(&file.jobs),
                "source": file.name, "former_sources": Vec::from_iter(&file.former_source),
                "prune": arguments.prune, "dry_run": arguments.dry_run,
            });
            let answer = send_file(&client, body).await?;
            if arguments.json {
                out.print_json(&answer)?;
                continue;
            }
            if files.len() > 1 {
                out.print_line(&format!("{}:", file.name))?;
            }
            out.print_bytes(difference_text(&answer, arguments.dry_run, &host_zone_notes(file)).as_bytes())?
        }
        out.finish()?;
        Ok(SUCCESS)
    })
}

/// The files that left a directory: without jobs, so that their stored jobs are deleted.
async fn lost_files(client: &Client, list: &SourceList) -> Result<Vec<ValidJobs>, Failure> {
    let answer = client.send(ApiRequest::get(&["jobs"])).await?;
    let Some(Value::Array(jobs)) = answer.get("jobs") else { return Err(unexpected_answer()) };
    let sources: BTreeSet<&str> = jobs.iter().filter_map(|job| job.get("source")?.as_str()).collect();
    let lost = sources.into_iter().filter(|source| list.has_lost(source));
    Ok(lost.map(ValidJobs::none).collect())
}

/// Former names by name, as the API reads them.
fn former_names(jobs: &JobList) -> BTreeMap<String, Vec<String>> {
    let names = |index| {
        let former: Vec<String> = jobs.former_names(index).iter().map(JobKey::to_string).collect();
        (!former.is_empty()).then(|| (jobs.key(index).to_string(), former))
    };
    (0..jobs.len()).filter_map(names).collect()
}

/// A note about the zone of this host, for each job that has it because its file names none.
fn host_zone_notes(file: &ValidJobs) -> BTreeMap<String, String> {
    let Some(note) = file.zone_note() else { return BTreeMap::new() };
    let in_host_zone = (0..file.jobs.len()).filter(|index| file.jobs.is_in_host_zone(*index));
    in_host_zone.map(|index| (file.jobs.key(index).to_string(), note.clone())).collect()
}

/// `+` added, `~` changed, `-` removed, `>` renamed; one job per line, then the counts. A zone that is not in the file
/// is named.
fn difference_text(answer: &Value, dry_run: bool, zones: &BTreeMap<String, String>) -> String {
    let list = |name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut text = String::new();
    let mut counts = Vec::new();
    for (sign, name) in [('+', "added"), ('~', "changed"), ('-', "removed")] {
        let entries = list(name);
        counts.push(format!("{} {name}", entries.len()));
        for entry in entries {
            let key = entry.as_str().or_else(|| entry.get("job").and_then(Value::as_str)).unwrap_or("?");
            let fields = entry.get("fields").and_then(Value::as_array).map_or_else(String::new, |fields| {
                let names: Vec<&str> = fields.iter().filter_map(Value::as_str).collect();
                format!(": {}", names.join(", "))
            });
            let zone = zones.get(key).filter(|_| sign != '-').map_or_else(String::new, |zone| format!(" ({zone})"));
            text.push_str(&format!("{sign} {key}{fields}{zone}\n"));
        }
    }
    let renamed = list("renamed");
    for entry in &renamed {
        let name = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or("?");
        text.push_str(&format!("> {} is now {}\n", name("from"), name("to")));
    }
    if !renamed.is_empty() {
        counts.push(format!("{} renamed", renamed.len()));
    }
    counts.push(format!("{} unchanged", answer.get("unchanged").and_then(Value::as_u64).unwrap_or(0)));
    let note = if dry_run { " (nothing was stored)" } else { "" };
    text + &counts.join(", ") + note + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_has_one_job_per_line_and_counts() {
        let answer = json!({
            "added": ["db/dump"], "changed": [{ "job": "db/vacuum", "fields": ["schedule", "timeout"] }],
            "removed": ["db/old"], "unchanged": 3,
        });
        let zones = BTreeMap::from([("db/vacuum".to_owned(), "zone Europe/Paris, from this host".to_owned())]);
        let lines = "+ db/dump\n~ db/vacuum: schedule, timeout (zone Europe/Paris, from this host)\n- db/old\n";
        let text = difference_text(&answer, false, &zones);
        assert_eq!(text, format!("{lines}1 added, 1 changed, 1 removed, 3 unchanged\n"));
        assert!(difference_text(&answer, true, &zones).ends_with("3 unchanged (nothing was stored)\n"));
    }
}
