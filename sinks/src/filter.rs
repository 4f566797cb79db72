//! The runs and streams that a sink gets: `when = { groups, jobs, streams }`. Globs have `*` and `?` only.

use domain::line::Stream;

/// An empty list accepts everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub groups: Vec<String>,
    /// A pattern with `/` is compared with `group/job`, any other with the job's name.
    pub jobs: Vec<String>,
    /// Empty: both streams.
    pub streams: Vec<Stream>,
}

impl Filter {
    pub fn wants_job(&self, group: &str, job: &str) -> bool {
        let group_wanted = self.groups.is_empty() || self.groups.iter().any(|glob| glob_matches(glob, group));
        let job_matches = |glob: &String| match glob.contains('/') {
            true => glob_matches(glob, &format!("{group}/{job}")),
            false => glob_matches(glob, job),
        };
        group_wanted && (self.jobs.is_empty() || self.jobs.iter().any(job_matches))
    }

    pub fn wants_stream(&self, stream: Stream) -> bool {
        self.streams.is_empty() || self.streams.contains(&stream)
    }
}

/// `*` is any run of characters, `?` any one. Linear in the text for each `*`.
fn glob_matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut at, mut place) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while place < text.len() {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at, place));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[place] => {
                at += 1;
                place += 1;
            }
            _ => match star {
                Some((star_at, matched)) => {
                    star = Some((star_at, matched + 1));
                    at = star_at + 1;
                    place = matched + 1;
                }
                None => return false,
            },
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_like_a_shell() {
        for (glob, text, matches) in [
            ("db*", "db-main", true),
            ("db*", "web", false),
            ("*", "", true),
            ("*-dump", "nightly-dump", true),
            ("*-dump", "nightly-dumps", false),
            ("n?ght*d*p", "nightly-dump", true),
            ("", "x", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
        ] {
            assert_eq!(glob_matches(glob, text), matches, "{glob} {text}");
        }
    }

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
