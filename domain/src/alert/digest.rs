//! The text of a digest: its jobs by the kind of their alerts, the worst kinds first. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{AlertKind, Transition};

/// One alert of a digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DigestEntry {
    /// Kind of the alert.
    pub kind: AlertKind,
    /// Empty when it concerns more than one group.
    pub group: String,
    /// Empty when it concerns no single job.
    pub job: String,
}

impl From<&Transition> for DigestEntry {
    fn from(transition: &Transition) -> DigestEntry {
        let Transition { kind, group, job, .. } = transition;
        DigestEntry { kind: *kind, group: group.clone(), job: job.clone() }
    }
}

/// Bytes for the counts of jobs that are not named, in the text of a digest.
const UNNAMED_BYTES: usize = 40;

/// Names every job by the kind of its alert, as far as `bytes_max` allows, and counts the others.
pub fn digest_text(entries: &[DigestEntry], bytes_max: usize) -> String {
    let mut kinds: BTreeMap<(Rank, AlertKind), (usize, BTreeSet<String>)> = BTreeMap::new();
    for entry in entries {
        let (count, jobs) = kinds.entry((Rank::of(entry.kind), entry.kind)).or_default();
        *count += 1;
        jobs.insert(format!("{}/{}", entry.group, entry.job));
    }
    let mut text = format!("{} alerts at once", entries.len());
    // The number of each kind is named even where its jobs are not.
    let mut room = bytes_max.saturating_sub(text.len() + kinds.len() * 2 * UNNAMED_BYTES);
    for (position, ((_, kind), (count, jobs))) in kinds.iter().enumerate() {
        let separator = if position == 0 { ":" } else { ";" };
        let _infallible = write!(text, "{separator} {count} {}", kind.name());
        let mut unnamed = 0;
        for (index, job) in jobs.iter().enumerate() {
            if unnamed > 0 || job.len() + 2 > room {
                unnamed += 1;
                continue;
            }
            room -= job.len() + 2;
            text.push_str(if index == 0 { ": " } else { ", " });
            text.push_str(job);
        }
        if unnamed > 0 {
            let _infallible = write!(text, " and {unnamed} more");
        }
    }
    text
}

/// Order of the kinds in a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Critical,
    Error,
    Warning,
    Info,
}

impl Rank {
    fn of(kind: AlertKind) -> Rank {
        match kind.severity() {
            "critical" => Rank::Critical,
            "error" => Rank::Error,
            "warning" => Rank::Warning,
            _ => Rank::Info,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_kinds_are_named_first() {
        use AlertKind::{BadJob, Failed, Quiet, Recovered, SchedulerSilent};
        let entry = |kind, job: &str| DigestEntry { kind, group: "db".to_owned(), job: job.to_owned() };
        let entries = [
            entry(Recovered, "a"),
            entry(Quiet, "b"),
            entry(BadJob, "c"),
            entry(SchedulerSilent, "d"),
            entry(Failed, "e"),
        ];
        assert_eq!(
            digest_text(&entries, 1000),
            "5 alerts at once: 1 scheduler_silent: db/d; 1 failed: db/e; 1 bad_job: db/c; 1 quiet: db/b; \
             1 recovered: db/a"
        );
    }
}
