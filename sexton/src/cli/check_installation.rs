//! Checks the stored jobs of an installation on AWS, for `sexton check`: their groups, and the rule packs and alert
//! channels that they name.

use std::collections::{BTreeMap, BTreeSet};

use domain::job::JobKey;
use domain::ports::PortResult;
use rules::Packs;

use crate::known_names::KnownNames;

/// Jobs read by one call of the store. Chosen, not measured.
const PAGE_JOBS_MAX: usize = 1000;

/// Unknown names that are listed; the others are counted. Chosen: more do not fit on a screen.
const LISTED_MAX: usize = 20;

/// What the stored jobs name.
#[derive(Default)]
pub(super) struct StoredJobs {
    pub(super) groups: BTreeSet<String>,
    /// The number of jobs.
    count: usize,
    /// By channel: the jobs that name it.
    channels: BTreeMap<String, BTreeSet<JobKey>>,
    /// Rule packs that do not exist.
    problems: Vec<String>,
}

impl StoredJobs {
    pub(super) async fn read(aws: &aws::Aws, packs: &Packs) -> PortResult<StoredJobs> {
        let known = KnownNames { packs, channels: None };
        let (mut stored, mut after) = (StoredJobs::default(), None);
        loop {
            let page = aws.ports.jobs.list(None, after.as_ref(), PAGE_JOBS_MAX).await?;
            for record in page.records {
                stored.count += 1;
                stored.groups.insert(record.key.group.clone());
                let Ok(job) = record.job else { continue };
                stored.problems.extend(known.unknown_of(&job).into_iter().map(|name| format!("{}: {name}", job.key())));
                for channel in &job.alert.channels {
                    stored.channels.entry(channel.clone()).or_default().insert(job.key());
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(stored);
            }
        }
    }

    /// The result for the table of jobs: their number, or the names that do not exist.
    pub(super) async fn check_names(self, aws: &aws::Aws) -> Result<String, String> {
        let StoredJobs { count, channels, mut problems, .. } = self;
        let names = channels.keys().cloned().collect();
        let unknown = aws.unknown_channels(&names).await.map_err(|error| error.to_string())?;
        for (channel, problem) in unknown {
            let jobs = channels.get(&channel).into_iter().flatten();
            problems.extend(jobs.map(|key| format!("{key}: {problem}")));
        }
        if problems.is_empty() {
            return Ok(format!("{count} jobs, whose rule packs and alert channels exist"));
        }
        let more = problems.len().saturating_sub(LISTED_MAX);
        problems.truncate(LISTED_MAX);
        problems.extend((more > 0).then(|| format!("and {more} more unknown names")));
        Err(problems.join("; "))
    }
}
