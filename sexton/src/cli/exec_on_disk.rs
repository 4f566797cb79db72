//! What `status`, `jobs --bad` and `sinks` show of the commands of `sexton exec` on this machine, read from state
//! directories: the selected one, and those that `exec` uses where that one cannot be used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use domain::job::JobKey;
use domain::run::{Run, Trigger};
use domain::units::format_lines;
use jiff::Timestamp;
use runner::UndeliveredCommand;
use serde_json::{Value, json};

use crate::cli::exec::FALLBACKS;
use crate::cli::runs_on_disk::{self, Filter};
use crate::client::ServerArguments;
use crate::failure::Failure;
use crate::print::format_elapsed;
use crate::state::StateDirectory;

/// Sinks that are named in one line. Chosen: more do not fit.
const NAMED_SINKS_MAX: usize = 5;

/// The undelivered commands of one state directory.
pub(crate) struct ExecBacklog {
    state: PathBuf,
    commands: Vec<UndeliveredCommand>,
}

/// The state directories with undelivered commands; none where another machine is selected.
pub(crate) fn read_backlogs(server: &ServerArguments) -> Vec<ExecBacklog> {
    let Ok(configuration) = server.configuration() else { return Vec::new() };
    if server.server.is_some() || server.on_aws(&configuration).is_some() {
        return Vec::new();
    }
    let Ok(selected) = server.state(&configuration) else { return Vec::new() };
    let own = runner::undelivered_commands(&selected.runner_folder());
    let own = ExecBacklog { state: selected.dir.clone(), commands: own };
    let others = fallback_states().into_iter().filter(|state| state.dir != selected.dir).map(|state| {
        let mut commands = runner::undelivered_commands(&state.runner_folder());
        commands.retain(|command| command.first_choice.as_ref() == Some(&selected.dir));
        ExecBacklog { state: state.dir, commands }
    });
    [own].into_iter().chain(others).filter(|backlog| !backlog.commands.is_empty()).collect()
}

/// The directories that calls of `exec` have used in place of another one, of all users.
fn fallback_states() -> Vec<StateDirectory> {
    let entries = FALLBACKS.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    let is_of_exec = |path: &PathBuf| {
        let user = path.file_name().and_then(|name| name.to_str()?.strip_prefix("sexton-"));
        user.is_some_and(|user| user.parse::<u32>().is_ok()) && path.join("runner").is_dir()
    };
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_of_exec).collect();
    found.sort();
    found.into_iter().map(StateDirectory::new).collect()
}

impl ExecBacklog {
    /// One line: how many commands, which sinks, which process delivers, and where the lines are.
    pub(crate) fn line(&self, now: Timestamp) -> String {
        let count = match self.commands.len() {
            1 => "1 command of `sexton exec` has".to_owned(),
            more => format!("{more} commands of `sexton exec` have"),
        };
        let mut sinks: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, lines) in self.commands.iter().flat_map(|command| &command.sinks) {
            *sinks.entry(name).or_default() += lines;
        }
        let mut named: Vec<String> = sinks
            .iter()
            .take(NAMED_SINKS_MAX)
            .map(|(name, lines)| format!("{} for sink `{name}`", format_lines(*lines)))
            .collect();
        if sinks.len() > NAMED_SINKS_MAX {
            named.push(format!("{} more sinks", sinks.len() - NAMED_SINKS_MAX));
        }
        if sinks.is_empty() {
            named.push(format_lines(self.commands.iter().map(|command| command.lines).sum()));
        }
        let oldest = self.commands.iter().map(|command| command.at).min().unwrap_or(now);
        let age = format_elapsed(std::time::Duration::try_from(now.duration_since(oldest)).unwrap_or_default());
        let next = match self.commands.iter().all(|command| command.is_being_sent) {
            true => "a sender is delivering them".to_owned(),
            false => {
                format!("the next `sexton exec` or `sexton up` with --state {} delivers them", self.state.display())
            }
        };
        let place = self.commands.first().and_then(|command| command.directory.parent()).unwrap_or(Path::new(""));
        let (named, place) = (named.join(", "), place.display());
        format!("{count} undelivered lines: {named}, the oldest from {age} ago; {next}; they are in {place}")
    }

    /// One object for each command, for `--json`.
    pub(crate) fn records(&self) -> Vec<Value> {
        let record = |command: &UndeliveredCommand| {
            let lines = |(name, lines): &(String, u64)| json!({ "name": name, "lag_lines": lines });
            json!({
                "run_id": command.run_id,
                "group": command.job.group,
                "job": command.job.name,
                "started_at": command.at,
                "lag_lines": command.lines,
                "sinks": command.sinks.iter().map(lines).collect::<Vec<_>>(),
                "is_being_sent": command.is_being_sent,
                "state": self.state,
            })
        };
        self.commands.iter().map(record).collect()
    }
}

/// The commands of `exec` as `status` shows them without a server: the latest run of each job that failed, and the
/// running ones. `no_server` is why no server is used.
///
/// # Errors
/// Returns `no_server` when there is no command of `exec`.
pub(crate) fn read_state(server: &ServerArguments, no_server: Failure) -> Result<Value, Failure> {
    let messages = no_server.messages();
    let failure = || Failure::Failed(messages.clone());
    let listed = runs_on_disk::list(server, &Filter::default(), u64::MAX, failure());
    let listed = listed.map(|runs| runs.into_iter().filter(|run| run.trigger == Trigger::Exec).collect::<Vec<Run>>());
    // Where the selected directory cannot be used, commands are in another one.
    let runs = match listed {
        Ok(runs) if runs.is_empty() && read_backlogs(server).is_empty() => return Err(failure()),
        Err(failure) if read_backlogs(server).is_empty() => return Err(failure),
        listed => listed.unwrap_or_default(),
    };
    let (open, ended): (Vec<Run>, Vec<Run>) = runs.into_iter().partition(|run| run.outcome.is_none());
    Ok(json!({ "no_server": messages.join("; "), "bad": bad_jobs(&ended), "open": open }))
}

/// The jobs whose latest run failed. `ended` begins with the newest run.
fn bad_jobs(ended: &[Run]) -> Vec<Value> {
    let mut jobs: BTreeMap<JobKey, Vec<&Run>> = BTreeMap::new();
    for run in ended {
        jobs.entry(run.key()).or_default().push(run);
    }
    let failed = |run: &&&Run| run.outcome.is_some_and(domain::run::Outcome::is_failure);
    let bad = jobs.into_iter().filter_map(|(key, runs)| {
        let series: Vec<&Run> = runs.iter().take_while(failed).copied().collect();
        let (latest, first) = (series.first()?, series.last()?);
        Some(json!({
            "group": key.group,
            "name": key.name,
            "kind": latest.outcome,
            "since": first.finished_at,
            "streak": series.len(),
            "reason": latest.reason,
            "run_id": latest.run_id,
            "is_exec": true,
        }))
    });
    bad.collect()
}
