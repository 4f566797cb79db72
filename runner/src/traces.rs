//! What this machine has of attempts whose runs a restored ledger may not know. Called before the runner starts.

use std::fs;
use std::io;
use std::path::Path;

use domain::job::JobKey;
use domain::restored::AttemptTrace;
use keeper::directory::RunDirectory;
use keeper::records::Accepted;

/// Every attempt with a run directory below a runner's state directory, also of `sexton exec`. An unreadable one is
/// logged and left out.
///
/// # Errors
/// When a folder cannot be read; one that does not exist is empty.
pub fn find_traces(state: &Path) -> io::Result<Vec<AttemptTrace>> {
    let mut traces = Vec::new();
    collect_traces(&state.join("runs"), &mut traces)?;
    for caller in list(&state.join("exec"))? {
        collect_traces(&caller.join("runs"), &mut traces)?;
    }
    Ok(traces)
}

/// Counts the run directories of a runner. A folder that cannot be read counts as empty.
pub fn count_runs(state: &Path) -> usize {
    let is_run = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| RunDirectory::parse_name(&name.to_string_lossy()).is_some())
    };
    list(&state.join("runs")).unwrap_or_default().iter().filter(|path| is_run(path)).count()
}

/// Makes the runner report every attempt again: its start, and its end if it has ended. Repeated reports are harmless.
///
/// # Errors
/// When a folder cannot be read, or a marker cannot be removed.
pub fn report_all_again(state: &Path) -> io::Result<()> {
    for path in list(&state.join("runs"))? {
        let directory = RunDirectory::open(path);
        for marker in [directory.start_reported(), directory.end_reported(), directory.output_end_reported()] {
            match fs::remove_file(marker) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

fn collect_traces(runs: &Path, traces: &mut Vec<AttemptTrace>) -> io::Result<()> {
    for path in list(runs)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if RunDirectory::parse_name(&name).is_none() {
            continue;
        }
        let directory = RunDirectory::open(path);
        match Accepted::read(&directory) {
            Ok(Some(accepted)) => traces.push(AttemptTrace {
                key: JobKey::new(&accepted.order.job.group, &accepted.order.job.name),
                nominal: accepted.order.nominal,
                trigger: accepted.order.trigger,
                attempt: accepted.order.attempt,
                run_id: accepted.order.run_id,
                accepted_at: accepted.accepted_at,
                has_ended: directory.exit().exists() || directory.finished().exists(),
            }),
            // Without an order, nothing was started.
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, name, "cannot read the order of a run directory"),
        }
    }
    Ok(())
}

fn list(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
