//! Alerts about watched files, as alerts of the system jobs `sexton/file.NAME`: a file that is faulty, and one that
//! lost most of its jobs. The state of each is stored, so a restart repeats no alert.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use console::SourceState;
use domain::alert::{AlertKind, Transition};
use domain::job::JobKey;
use domain::ports::{AlertStep, PortResult, Ports};
use domain::run::Outcome;
use domain::units::format_count;
use jiff::Timestamp;
use services::commands::Difference;
use services::system_alerts::{self, Condition};
use tokio_util::sync::CancellationToken;

use crate::file_states::FileStates;

/// Interval of checking the states. Chosen: short, and nothing is read or written while they stay.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Characters of a file's name in the name of its system job. Chosen: with `file.`, shorter than that of a job.
const NAME_CHARS_MAX: usize = 36;

/// Jobs that an alert names. Chosen, not measured.
const NAMED_JOBS_MAX: usize = 10;

/// The system job of a file. Files of the same name in several directories share one.
fn file_key(source: &str) -> JobKey {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let name = Path::new(source).file_name().map_or_else(|| source.into(), |name| name.to_string_lossy());
    let name: String = name.chars().map(|c| if is_legal(c) { c } else { '-' }).take(NAME_CHARS_MAX).collect();
    system_alerts::key(format!("file.{name}"))
}

/// Alerts when a file becomes faulty and when it is good again, until `stop`.
pub(crate) async fn watch_files(states: FileStates, ports: Ports, stop: CancellationToken) {
    let mut recorded: BTreeMap<JobKey, Option<String>> = BTreeMap::new();
    loop {
        if let Err(error) = record_states(&states.list(), &mut recorded, &ports, Timestamp::now()).await {
            tracing::warn!(%error, "cannot store the alerts about files; retrying");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
    }
}

/// Records the states that differ from those recorded before. Files of the same name share a system job: it is bad
/// while one of them is.
async fn record_states(
    states: &[SourceState],
    recorded: &mut BTreeMap<JobKey, Option<String>>,
    ports: &Ports,
    now: Timestamp,
) -> PortResult<()> {
    let mut reasons: BTreeMap<JobKey, Option<String>> = BTreeMap::new();
    for state in states {
        let reason = state.reason.as_ref().map(|reason| format!("{}: {reason}", state.source));
        let place = reasons.entry(file_key(&state.source)).or_default();
        *place = place.take().or(reason);
    }
    // A file that is no longer watched is no longer faulty.
    for key in recorded.keys() {
        reasons.entry(key.clone()).or_default();
    }
    for (key, reason) in reasons {
        if recorded.get(&key) == Some(&reason) {
            continue;
        }
        let outcome = if reason.is_some() { Outcome::Failed } else { Outcome::Succeeded };
        let text = reason.clone().unwrap_or_else(|| format!("the file {} is used as it is again", key.name));
        let id_prefix = format!("file:{}", key.name);
        let condition = Condition { key: &key, id_prefix: &id_prefix, outcome, reason: &text, sent_unrecorded: false };
        system_alerts::change_of_kind(ports, AlertKind::BadJob, condition, now).await?;
        recorded.insert(key, reason);
    }
    Ok(())
}

/// Alerts when a file lost all of its jobs, or more than half of them, and got fewer others.
///
/// # Errors
/// Returns the port's error.
pub(crate) async fn alert_lost_jobs(
    ports: &Ports,
    source: &str,
    difference: &Difference,
    now: Timestamp,
) -> PortResult<()> {
    let Difference { added, changed, unchanged, removed, taken_over, renamed, .. } = difference;
    let before = unchanged + changed.len() - taken_over.len() + renamed.len() + removed.len();
    if removed.len() * 2 <= before || added.len() >= removed.len() {
        return Ok(());
    }
    let named: Vec<String> = removed.iter().take(NAMED_JOBS_MAX).map(ToString::to_string).collect();
    let more = if removed.len() > named.len() { ", ..." } else { "" };
    let reason = format!(
        "{source} lost {} of its {}: {}{more}; a job that returns within an hour loses no firing",
        removed.len(),
        format_count(before, "job"),
        named.join(", ")
    );
    let id = format!("file_lost_jobs:{source}:{}", now.as_millisecond());
    let transitions = vec![Transition::new(id, AlertKind::BadJob, &file_key(source), reason, now)];
    ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedded::Embedded;

    fn keys(count: usize) -> Vec<JobKey> {
        (0..count).map(|number| JobKey::new("default", number.to_string())).collect()
    }

    #[tokio::test]
    async fn a_file_that_loses_all_or_most_of_its_jobs_is_alerted() {
        // Removed, added, changed, unchanged.
        for (removed, added, changed, unchanged, is_alerted) in [
            (1, 0, 0, 0, true),
            (2, 0, 1, 0, true),
            (1, 0, 0, 1, false),
            (1, 1, 0, 0, false),
            (4, 1, 0, 0, true),
            (0, 0, 0, 0, false),
            (0, 3, 2, 0, false),
        ] {
            let folder = tempfile::tempdir().expect("folder");
            let ports = Embedded::open(&folder.path().join("db")).expect("opened").ports();
            let [removed, added, changed] = [removed, added, changed].map(keys);
            let difference = Difference { removed, added, changed, unchanged, ..Difference::default() };
            alert_lost_jobs(&ports, "/etc/x", &difference, Timestamp::UNIX_EPOCH).await.expect("alerted");
            let alerts = ports.alerts.list(None, 10).await.expect("listed").records;
            assert_eq!(alerts.len(), usize::from(is_alerted), "{difference:?}");
        }
    }
}
