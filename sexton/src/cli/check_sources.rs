//! The part of `check` about watched files: faults of files with jobs, names that their jobs refer to, and whether the
//! stored jobs equal them. Changes nothing.

use console::SourceState;
use domain::ports::Ports;
use domain::units::format_count;
use jiff::Timestamp;
use services::commands::{AppliedFile, ApplyOptions, Difference, apply_file};

use crate::client::{ApiRequest, Client, ServerArguments};
use crate::jobs_source::{JobsSource, read_valid_jobs};
use crate::known_names::KnownNames;
use crate::setup::Setup;

/// Checks one file. `stored`: the ledger of this machine, where there is one.
///
/// # Errors
/// Returns the faults, the unknown names, or the difference to the stored jobs of a running `up`.
pub(super) async fn check_jobs(
    source: &JobsSource,
    setup: &Setup,
    stored: Option<&Ports>,
    is_served: bool,
) -> Result<String, String> {
    let read = read_valid_jobs(source).map_err(|failure| failure.messages().join("; "))?;
    let channels: Vec<String> = setup.configuration.channels.iter().map(|channel| channel.name.clone()).collect();
    let unknown = KnownNames { packs: &setup.packs, channels: Some(&channels) }.problems_of_all(read.jobs.iter());
    if !unknown.is_empty() {
        let texts: Vec<String> = unknown.iter().map(|(key, problem)| format!("{key}: {problem}")).collect();
        return Err(texts.join("; "));
    }
    let zone = read.zone_note().map_or_else(String::new, |zone| format!("; {zone}"));
    let (jobs, warnings) = (format_count(read.jobs.len(), "job"), format_count(read.warnings.0.len(), "warning"));
    let found = format!("{jobs}, {warnings}{zone}");
    let Some(ports) = stored else { return Ok(found) };
    let how = ApplyOptions { prune: true, dry_run: true };
    let file = AppliedFile {
        source: &read.name,
        jobs: &read.jobs,
        former_sources: &[],
        replaced_sources: &[],
        other_sources: &[],
    };
    let difference = apply_file(ports, &file, how, Timestamp::now()).await;
    let Difference { added, changed, removed, unchanged, .. } = difference.map_err(|error| error.to_string())?;
    if added.len() + changed.len() + removed.len() == 0 {
        return Ok(found);
    }
    let differs = format!(
        "{found}; the stored jobs differ ({} to add, {} to change, {} to remove)",
        added.len(),
        changed.len(),
        removed.len()
    );
    match is_served {
        true => Err(format!("{differs}; `kill -HUP` of `sexton up` applies the file again")),
        false if unchanged == 0 && changed.is_empty() && removed.is_empty() => Ok(found),
        false => Ok(format!("{differs}; the next start of `sexton up` applies the file")),
    }
}

/// The states of the files that the running `up` of this state directory watches; none when none answers.
pub(super) async fn served_sources(setup: &Setup) -> Option<Vec<SourceState>> {
    setup.state.read_server_file()?;
    let arguments = ServerArguments { state: Some(setup.state.dir.clone()), ..ServerArguments::default() };
    let client = Client::for_server(&arguments, &setup.configuration).ok()?;
    let mut answer = client.send(ApiRequest::get(&["sources"])).await.ok()?;
    serde_json::from_value(answer.get_mut("sources")?.take()).ok()
}
