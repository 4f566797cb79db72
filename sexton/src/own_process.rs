//! What this process changes for itself at its start. Jobs and alert commands get the settings as they were
//! ([`inherited`]).

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

use keeper::records::Inherited;
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask};

/// Variables that set options of the command line.
const OPTION_VARIABLES: [&str; 5] = ["SEXTON_STATE", "SEXTON_CONFIG", "SEXTON_SERVER", "SEXTON_AWS", "SEXTON_TOKEN"];

/// Executes the program again without variables that are set to nothing, so that these count as unset. A crontab line
/// like `SEXTON_CONFIG=` must not stop a command.
pub(crate) fn drop_empty_variables() {
    let is_empty = |name: &&str| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let empty: Vec<&str> = OPTION_VARIABLES.into_iter().filter(is_empty).collect();
    let mut words = std::env::args_os();
    if let (false, Ok(program), Some(name)) = (empty.is_empty(), std::env::current_exe(), words.next()) {
        let mut again = Command::new(program);
        again.arg0(name).args(words);
        for name in empty {
            again.env_remove(name);
        }
        crate::closed_streams::close_again();
        // Returns only when it fails; then the options report the empty value.
        let _ = again.exec();
    }
}

static INHERITED: OnceLock<Inherited> = OnceLock::new();

/// Hides the environment and memory of this process from jobs of the same user (PR_SET_DUMPABLE, which also ends core
/// dumps), makes every new file private, and raises the soft limit of open files to the hard limit. Called once, before
/// any other thread exists.
pub(crate) fn set_up() {
    // Linux refuses none of these for the own process; without them, Sexton works with less protection.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let mask = umask(Mode::from_raw_mode(0o077)).as_raw_mode();
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let open_files = limit.current.filter(|_| raised.is_ok());
    let _ = INHERITED.set(Inherited { umask: Some(mask), open_files });
}

/// The settings of the parent process.
pub(crate) fn inherited() -> Inherited {
    INHERITED.get().copied().unwrap_or_default()
}

/// Gives this process the settings of its parent process again, before another program replaces it.
pub(crate) fn restore() {
    let Inherited { umask: mask, open_files } = inherited();
    if let Some(mask) = mask {
        umask(Mode::from_raw_mode(mask));
    }
    if let Some(current) = open_files {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum });
    }
}

/// The limit of open files of this process; none when it is no limit.
pub(crate) fn open_files_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Threads that may block at once: each has up to three files open, and at most half of the limit is for them. Chosen:
/// tokio's default is 512.
pub(crate) fn blocking_threads_max() -> usize {
    let allowed = open_files_max().map_or(u64::MAX, |limit| limit / 8);
    usize::try_from(allowed).unwrap_or(usize::MAX).clamp(8, 512)
}

/// The settings of the parent process, for the commands of alert channels.
pub(crate) fn command_limits() -> channels::CommandLimits {
    let Inherited { umask, open_files } = inherited();
    channels::CommandLimits { umask, open_files }
}
