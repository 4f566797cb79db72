//! What the limit of open files allows: how many runs are active at once, and how many readers of spools keep their
//! file open. The limit is an option, so that a test can set it.

use std::io;

use keeper::spool;
use rustix::io::Errno;

use crate::admission::RUNNING_MAX;

/// Descriptors that are not for runs: the store, the API, sinks, files that are open for the length of a call. Chosen:
/// half of a small limit, and enough for the 64 files of each of several file sinks.
const RESERVED_MAX: u64 = 512;

/// Descriptors of one active run: a reader of its spool, and a file that is open for the length of a call. Measured: a
/// run needs less than one on average, because idle readers close their file.
const PER_RUN: u64 = 2;

/// The limit of open files of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    limit: Option<u64>,
}

impl OpenFiles {
    /// Shares the descriptors between the readers of this process.
    pub(crate) fn new(limit: Option<u64>) -> OpenFiles {
        let open_files = OpenFiles { limit };
        if limit.is_some() {
            spool::set_open_segments_max(open_files.for_runs() as usize / PER_RUN as usize);
        }
        open_files
    }

    /// The number of runs that may be active at once.
    pub(crate) fn running_max(self) -> usize {
        usize::try_from(self.for_runs() / PER_RUN).unwrap_or(RUNNING_MAX).clamp(1, RUNNING_MAX)
    }

    /// Why further runs wait when `running` runs are active.
    pub(crate) fn limit_reached(self, running: usize) -> String {
        match self.limit.filter(|_| self.running_max() < RUNNING_MAX) {
            Some(limit) => format!(
                "{running} runs are active, the most that the limit of {limit} open files allows; {}",
                Self::REMEDY
            ),
            None => format!("{running} runs are active, the most of one machine"),
        }
    }

    /// The same as the reason of a run that waits.
    pub(crate) fn waiting_reason(self, running: usize) -> String {
        format!("waits: {}", self.limit_reached(running))
    }

    /// What raises the limit.
    pub(crate) const REMEDY: &str =
        "raise the hard limit of open files (LimitNOFILE= of a systemd unit, --ulimit nofile= of a container)";

    fn for_runs(self) -> u64 {
        let Some(limit) = self.limit else { return u64::MAX };
        limit - RESERVED_MAX.min(limit / 2)
    }
}

/// Whether an error is a limit of this process or machine, so that the same call can succeed later.
pub(crate) fn is_limit(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::AGAIN | Errno::NOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_limit_admits_fewer_runs_and_at_least_one() {
        let admitted = |limit: u64| OpenFiles { limit: Some(limit) }.running_max();
        assert_eq!([4, 64, 256, 1_024, 4_096].map(admitted), [1, 16, 64, 256, 1_792]);
        assert_eq!([20_512, 524_288, u64::MAX].map(admitted), [RUNNING_MAX; 3]);
        assert_eq!(OpenFiles { limit: None }.running_max(), RUNNING_MAX);
        let reason = OpenFiles { limit: Some(1_024) }.waiting_reason(256);
        assert!(reason.contains("256 runs") && reason.contains("1024 open files"), "{reason}");
    }
}
