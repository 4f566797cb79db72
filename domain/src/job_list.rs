//! The jobs of a file, in little memory. The texts of a job are in one allocation, and all other fields are stored once
//! for all jobs that have equal ones. A whole [`Job`] takes four times the memory, so it is made only when it is used.
//!
//! Made by the readers of files; read by `lint`, `apply` and `up`.

use std::fmt;
use std::sync::Arc;

use crate::job::{Command, Job, JobKey};

/// Recently added sets of fields that a new job is compared with. Chosen: the entries of a crontab differ from those
/// above them in a few fields only.
const RECENT_MAX: usize = 16;

/// Between the former names of a job. No name contains it.
const SEPARATOR: char = '\0';

/// A job, and what only its file states about it.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedJob {
    /// The job.
    pub job: Job,
    /// The names that it may have been stored with, the newest first: by an older build, or when its file was named in
    /// another way.
    pub former_names: Vec<JobKey>,
    /// The file does not name its zone: it has that of the host.
    pub in_host_zone: bool,
}

impl From<Job> for ListedJob {
    fn from(job: Job) -> ListedJob {
        ListedJob { job, former_names: Vec::new(), in_host_zone: false }
    }
}

/// Jobs in the order of their file.
#[derive(Clone, Default)]
pub struct JobList {
    entries: Vec<Entry>,
    recent: Vec<Arc<Job>>,
}

/// The fields that differ between most jobs, and the other fields.
#[derive(Clone)]
struct Entry {
    /// A job without the texts of this entry.
    shared: Arc<Job>,
    /// Name, schedule, command, input, seed, description, and the former names, one after the other.
    texts: Box<str>,
    /// The end of each text in `texts`; the former names are the rest.
    ends: [u32; TEXTS],
    in_host_zone: bool,
}

const TEXTS: usize = 6;

impl Entry {
    /// Takes the texts out of `job`, so that the rest can be equal to that of other jobs.
    fn take_texts(job: &mut Job, former_names: &[JobKey]) -> (Box<str>, [u32; TEXTS]) {
        let command = match &mut job.command {
            Command::Shell(command) => std::mem::take(command),
            Command::Argv(_) => String::new(),
        };
        let taken = |text: &mut Option<String>| text.as_mut().map(std::mem::take).unwrap_or_default();
        let texts = [
            std::mem::take(&mut job.name),
            std::mem::take(&mut job.schedule),
            command,
            taken(&mut job.stdin),
            taken(&mut job.seed),
            std::mem::take(&mut job.description),
        ];
        let former: Vec<String> = former_names.iter().map(ToString::to_string).collect();
        let former = former.join(&SEPARATOR.to_string());
        let mut joined = String::with_capacity(texts.iter().map(String::len).sum::<usize>() + former.len());
        let ends = texts.map(|text| {
            joined.push_str(&text);
            joined.len() as u32
        });
        joined.push_str(&former);
        (joined.into_boxed_str(), ends)
    }

    fn text(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        let end = self.ends.get(index).map_or(self.texts.len(), |end| *end as usize);
        &self.texts[start..end]
    }

    fn key(&self) -> (&str, &str) {
        (&self.shared.group, self.text(0))
    }

    fn job(&self) -> Job {
        let shared = &*self.shared;
        let filled = |index: usize, text: &Option<String>| text.as_ref().map(|_| self.text(index).to_owned());
        Job {
            name: self.text(0).to_owned(),
            schedule: self.text(1).to_owned(),
            command: match &shared.command {
                Command::Shell(_) => Command::Shell(self.text(2).to_owned()),
                Command::Argv(words) => Command::Argv(words.clone()),
            },
            stdin: filled(3, &shared.stdin),
            seed: filled(4, &shared.seed),
            description: self.text(5).to_owned(),
            ..shared.clone()
        }
    }

    fn former_names(&self) -> Vec<JobKey> {
        self.text(TEXTS).split(SEPARATOR).filter_map(|name| JobKey::parse(name).ok()).collect()
    }
}

impl JobList {
    /// Adds a job after the others.
    pub fn push(&mut self, listed: impl Into<ListedJob>) {
        let ListedJob { mut job, former_names, in_host_zone } = listed.into();
        let (texts, ends) = Entry::take_texts(&mut job, &former_names);
        let shared = match self.recent.iter().rev().find(|recent| ***recent == job) {
            Some(recent) => recent.clone(),
            None => {
                if self.recent.len() == RECENT_MAX {
                    self.recent.remove(0);
                }
                let shared = Arc::new(job);
                self.recent.push(shared.clone());
                shared
            }
        };
        self.entries.push(Entry { shared, texts, ends, in_host_zone });
    }

    /// The number of jobs.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no job.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The job at this index.
    ///
    /// # Panics
    /// If there is none. As all methods that take an index.
    pub fn job(&self, index: usize) -> Job {
        self.entries[index].job()
    }

    /// The key of the job at this index.
    pub fn key(&self, index: usize) -> JobKey {
        let (group, name) = self.entries[index].key();
        JobKey::new(group, name)
    }

    /// The former names of the job at this index.
    pub fn former_names(&self, index: usize) -> Vec<JobKey> {
        self.entries[index].former_names()
    }

    /// Whether the file does not name the zone of the job at this index.
    pub fn is_in_host_zone(&self, index: usize) -> bool {
        self.entries[index].in_host_zone
    }

    /// Each job, made when it is used.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Job> + '_ {
        self.entries.iter().map(Entry::job)
    }

    /// The key of each job.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = JobKey> + '_ {
        (0..self.len()).map(|index| self.key(index))
    }

    /// Keeps only the jobs for which `keep` returns true.
    pub fn retain(&mut self, mut keep: impl FnMut(&Job) -> bool) {
        self.entries.retain(|entry| keep(&entry.job()));
    }

    /// As [`JobList::retain`], by group and name.
    pub fn retain_keys(&mut self, mut keep: impl FnMut(&JobKey) -> bool) {
        self.entries.retain(|entry| {
            let (group, name) = entry.key();
            keep(&JobKey::new(group, name))
        });
    }

    /// The index of each job, by group and name. Of several jobs with one key, only the last.
    pub fn sorted(&self) -> Vec<u32> {
        let key = |index: &u32| self.entries[*index as usize].key();
        let mut sorted: Vec<u32> = (0..self.len() as u32).rev().collect();
        sorted.sort_by(|one, other| key(one).cmp(&key(other)));
        sorted.dedup_by(|one, kept| key(one) == key(kept));
        sorted
    }
}

impl FromIterator<ListedJob> for JobList {
    fn from_iter<I: IntoIterator<Item = ListedJob>>(jobs: I) -> JobList {
        let mut list = JobList::default();
        jobs.into_iter().for_each(|job| list.push(job));
        list
    }
}

impl FromIterator<Job> for JobList {
    fn from_iter<I: IntoIterator<Item = Job>>(jobs: I) -> JobList {
        jobs.into_iter().map(ListedJob::from).collect()
    }
}

impl From<&[Job]> for JobList {
    fn from(jobs: &[Job]) -> JobList {
        jobs.iter().cloned().collect()
    }
}

impl fmt::Debug for JobList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crontab::{Format, Options, read};

    fn shell(group: &str, name: &str) -> Job {
        Job::new(JobKey::new(group, name), "0 5 * * *", Command::Shell(format!("run {name}")))
    }

    #[test]
    fn a_listed_job_is_returned_as_it_was_added() {
        let mut argv = shell("b", "argv");
        argv.command = Command::Argv(vec!["a".to_owned(), String::new()]);
        argv.env.insert("A".to_owned(), "1".to_owned());
        let mut full = shell("a", "füll");
        (full.stdin, full.seed) = (Some(String::new()), Some("x\0y".to_owned()));
        full.description = "what it does".to_owned();
        let former_names = vec![JobKey::new("a", "old"), JobKey::new("b", "older")];
        let listed = ListedJob { job: full.clone(), former_names: former_names.clone(), in_host_zone: true };
        let mut list: JobList = [argv.clone()].into_iter().collect();
        list.push(listed);
        list.push(shell("a", "plain"));
        assert_eq!(list.iter().collect::<Vec<_>>(), [argv, full, shell("a", "plain")]);
        assert_eq!((list.former_names(1), list.former_names(2)), (former_names, vec![]));
        assert_eq!([0, 1, 2].map(|index| list.is_in_host_zone(index)), [false, true, false]);
        list.retain(|job| job.name != "argv");
        assert_eq!(list.keys().map(|key| key.to_string()).collect::<Vec<_>>(), ["a/füll", "a/plain"]);
    }

    #[test]
    fn sorted_jobs_are_unique_and_the_last_of_equal_keys_counts() {
        let names = [("b", "x"), ("a", "z"), ("b", "x"), ("a", "y"), ("a", "z")];
        let list: JobList = names.iter().map(|(group, name)| shell(group, name)).collect();
        assert_eq!(list.sorted(), [3, 4, 2]);
    }

    /// Jobs of one file that differ only in texts share all other fields, also where their sections alternate.
    #[test]
    fn entries_of_a_crontab_share_their_equal_fields() {
        let section = |number: usize| {
            let zone = ["UTC", "Asia/Tokyo", "Europe/Paris"][number % 3];
            let input = if number.is_multiple_of(2) { "%input" } else { "" };
            format!("CRON_TZ={zone}\nH {} * * * /opt/x --account {number}{input}\n", number % 24)
        };
        let text: String = (0..600).map(section).collect();
        let jobs = read("crontab", text, &Options::new("/srv/crontab", Format::User)).jobs;
        assert_eq!(jobs.len(), 600);
        let mut shared: Vec<_> = jobs.entries.iter().map(|entry| Arc::as_ptr(&entry.shared)).collect();
        shared.sort();
        shared.dedup();
        assert_eq!(shared.len(), 6);
    }
}
