//! A job that two files define belongs to the file that was named first; in the other file it is a fault.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use domain::fault::Fault;
use domain::job::JobKey;
use domain::job_list::JobList;

use crate::jobs_source::JobsSource;
use crate::up::stored_sources::StoredKeys;

/// The jobs of files that are read together.
#[derive(Default)]
pub(crate) struct JobOwners {
    files: Vec<String>,
    /// The index of the file that has the job.
    jobs: BTreeMap<JobKey, usize>,
}

impl JobOwners {
    /// Drops the jobs that an earlier file has, too, and registers the others. Returns one fault for each dropped job.
    /// `is_last`: no file follows.
    pub(crate) fn claim(&mut self, source: &JobsSource, jobs: &mut JobList, is_last: bool) -> Vec<Fault> {
        let faults = match self.jobs.is_empty() {
            true => Vec::new(),
            false => refuse_owned(source, jobs, |key| self.jobs.get(key).map(|file| self.files[*file].clone())),
        };
        if !is_last {
            self.jobs.extend(jobs.keys().map(|key| (key, self.files.len())));
            self.files.push(source.shown_name());
        }
        faults
    }
}

/// Drops the jobs that another file owns. Returns one fault for each.
fn refuse_owned(source: &JobsSource, jobs: &mut JobList, owner: impl Fn(&JobKey) -> Option<String>) -> Vec<Fault> {
    let mut faults = Vec::new();
    jobs.retain_keys(|key| {
        let Some(owner) = owner(key) else { return true };
        let message = format!("{owner} has a job of this name, too, which is the one that runs; rename one of them");
        faults.push(Fault::new(&source.shown_name(), 0, key.to_string(), message));
        false
    });
    faults
}

/// The jobs of each file that `up` runs, as the file defines them.
#[derive(Default)]
pub(crate) struct NameClaims {
    claims: Mutex<Claims>,
    /// Random, so that no file can have names that collide on purpose.
    hasher: RandomState,
}

/// Hashes of the keys of jobs: a file can have a hundred thousand. By accident, two of that many keys have one hash in
/// less than one of 10^9 files.
type KeyHashes = HashSet<u64>;

#[derive(Default)]
struct Claims {
    /// By the name of the source. A source that was not read yet, or only with faults, has none.
    jobs: BTreeMap<String, KeyHashes>,
    /// Sources whose jobs are to be checked again.
    retries: BTreeSet<String>,
}

impl NameClaims {
    /// The jobs of a file, for [`NameClaims::set`].
    pub(crate) fn hashes(&self, jobs: &JobList) -> KeyHashes {
        jobs.keys().map(|key| self.hasher.hash_one(key)).collect()
    }

    /// Whether [`NameClaims::refuse`] needs the stored jobs.
    pub(crate) fn needs_stored(&self, sources: &[JobsSource], source: &JobsSource) -> bool {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let mut earlier = sources.iter().take_while(|other| *other != source);
        source.is_of_another_user() || earlier.any(|other| !claims.jobs.contains_key(&other.name()))
    }

    /// Drops the jobs that a file named before has, too, and returns one fault for each. `stored`: the stored jobs by
    /// source, for files that were not read yet.
    pub(crate) fn refuse(
        &self,
        sources: &[JobsSource],
        source: &JobsSource,
        jobs: &mut JobList,
        stored: &StoredKeys,
    ) -> Vec<Fault> {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier: Vec<&JobsSource> = sources.iter().take_while(|other| *other != source).collect();
        let has = |other: &JobsSource, key: &JobKey| match claims.jobs.get(&other.name()) {
            Some(jobs) => jobs.contains(&self.hasher.hash_one(key)),
            None => stored.get(&Some(other.name())).is_some_and(|jobs| jobs.contains(key)),
        };
        // The crontab of another user takes over no stored job.
        let foreign: Vec<(&Option<String>, &BTreeSet<JobKey>)> = match source.is_of_another_user() {
            true => stored.iter().filter(|(stored, _)| !is_stored_as(source, stored)).collect(),
            false => Vec::new(),
        };
        refuse_owned(source, jobs, |key| {
            let earlier = earlier.iter().find(|other| has(other, key)).map(|other| other.shown_name());
            let foreign = foreign.iter().find(|(_, jobs)| jobs.contains(key));
            earlier.or_else(|| foreign.map(|(stored, _)| (*stored).clone().unwrap_or_else(|| "the API".to_owned())))
        })
    }

    /// The file defines these jobs now; none when it was removed. Marks the files named after it that share a job with
    /// the change.
    pub(crate) fn set(&self, sources: &[JobsSource], source: &JobsSource, jobs: Option<KeyHashes>) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let before = claims.jobs.remove(&source.name()).unwrap_or_default();
        let after = jobs.clone().unwrap_or_default();
        let changed: KeyHashes = before.symmetric_difference(&after).copied().collect();
        let shares = |other: &JobsSource| {
            claims.jobs.get(&other.name()).is_some_and(|jobs| jobs.iter().any(|key| changed.contains(key)))
        };
        let later = sources.iter().skip_while(|other| *other != source).skip(1);
        let retries: Vec<String> = later.filter(|other| shares(other)).map(JobsSource::name).collect();
        claims.retries.extend(retries);
        if let Some(jobs) = jobs {
            claims.jobs.insert(source.name(), jobs);
        }
    }

    /// The names of the sources whose jobs are to be checked again.
    pub(crate) fn take_retries(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.claims.lock().unwrap_or_else(PoisonError::into_inner).retries)
    }
}

fn is_stored_as(source: &JobsSource, stored: &Option<String>) -> bool {
    stored.as_deref().is_some_and(|stored| source.is_stored_as(stored))
}
