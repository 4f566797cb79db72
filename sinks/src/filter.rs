//! The runs and streams that a sink gets: `when = { groups, jobs, streams }`. Globs have `*` and `?` only.

use domain::glob;
use domain::line::Stream;
use serde::{Deserialize, Serialize};

/// An empty list accepts everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Patterns of groups.
    pub groups: Vec<String>,
    /// A pattern with `/` is compared with `group/job`, any other with the job's name.
    pub jobs: Vec<String>,
    /// Empty: both streams.
    pub streams: Vec<Stream>,
}

impl Filter {
    /// Whether runs of this job are accepted.
    pub fn wants_job(&self, group: &str, job: &str) -> bool {
        let group_wanted = self.groups.is_empty() || self.groups.iter().any(|glob| glob::matches(glob, group));
        let job_matches = |glob: &String| match glob.contains('/') {
            true => glob::matches(glob, &format!("{group}/{job}")),
            false => glob::matches(glob, job),
        };
        group_wanted && (self.jobs.is_empty() || self.jobs.iter().any(job_matches))
    }

    /// Whether lines of this stream are accepted.
    pub fn wants_stream(&self, stream: Stream) -> bool {
        self.streams.is_empty() || self.streams.contains(&stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_accepts_only_what_all_its_lists_accept() {
        let filter = Filter {
            groups: vec!["db*".into()],
            jobs: vec!["dump".into(), "db2/*".into()],
            streams: vec![Stream::Stderr],
        };
        assert!(filter.wants_job("db1", "dump"));
        assert!(filter.wants_job("db2", "anything"));
        assert!(!filter.wants_job("db1", "anything"));
        assert!(!filter.wants_job("web", "dump"));
        assert!(filter.wants_stream(Stream::Stderr) && !filter.wants_stream(Stream::Stdout));
        assert!(Filter::default().wants_job("a", "b") && Filter::default().wants_stream(Stream::Stdout));
    }
}
