//! Finds out whether a guard before `&&` was false when the job's shell has exited. Reads what the kernel counted for
//! the shell and whether files exist; never executes a guard a second time.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use domain::guard::{FalseGuard, FileTest, Guards, Program, SilentExit};
use domain::job::{Command, Job};
use rustix::fs::Access;

use crate::launch::{PATH_DEFAULT, SHELL_DEFAULT};
use crate::processes;
use crate::records::Launch;

/// Shells in whose language guards are read.
const SHELLS: [&str; 8] = ["sh", "dash", "bash", "ash", "ksh", "ksh93", "mksh", "zsh"];

/// Bytes of the name of a process, without its final NUL (`TASK_COMM_LEN` of Linux).
const PROCESS_NAME_BYTES_MAX: usize = 15;

/// The guards of the job's command, and what was observed at the exit of its shell.
pub(crate) struct GuardCheck {
    guards: Guards,
    /// Name of the shell's process, while it has not become another program.
    shell: String,
    folder: String,
    search_path: String,
    /// Set at the exit of the shell, if it did not become another program: whether it had no children.
    exited_without_children: Option<bool>,
}

impl GuardCheck {
    /// `None` for a command without guards, and for one of another language.
    pub(crate) fn new(job: &Job, env: &BTreeMap<String, String>, launch: &Launch) -> Option<GuardCheck> {
        let value = |name: &str| env.get(name).cloned();
        let (shell, text) = match &job.command {
            Command::Shell(text) => (value("SHELL").unwrap_or_else(|| SHELL_DEFAULT.to_owned()), text.as_str()),
            Command::Argv(words) => match words.as_slice() {
                [shell, option, text, ..] if option == "-c" => (shell.clone(), text.as_str()),
                _ => return None,
            },
        };
        let shell = shell.rsplit('/').next().unwrap_or_default();
        if !SHELLS.contains(&shell) {
            return None;
        }
        // A guard appears in reasons, where no secret may be.
        let is_secret = |name: &str| launch.secret_names.iter().any(|secret| secret == name);
        let guards = Guards::of(text, |name| value(name).filter(|_| !is_secret(name)))?;
        let folder = job.cwd.clone().or_else(|| value("HOME")).filter(|folder| Path::new(folder).is_dir());
        Some(GuardCheck {
            guards,
            shell: shell.chars().take(PROCESS_NAME_BYTES_MAX).collect(),
            folder: folder.unwrap_or_else(|| "/".to_owned()),
            search_path: value("PATH").unwrap_or_else(|| PATH_DEFAULT.to_owned()),
            exited_without_children: None,
        })
    }

    /// Reads the counters of the shell, which has exited and is not reaped.
    pub(crate) fn observe(&mut self, pid: u32) {
        let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else { return };
        let is_shell = processes::find(pid).is_some_and(|process| process.name == self.shell);
        if let Some(faults) = child_faults(&stat).filter(|_| is_shell) {
            self.exited_without_children = Some(faults == 0);
        }
    }

    /// The guard that was false. `printed`: whether the run printed anything, which no guard does.
    pub(crate) fn find_false(&self, exit_code: Option<i32>, printed: bool) -> Option<FalseGuard> {
        let exit = SilentExit { exit_code: exit_code?, without_children: self.exited_without_children? };
        if printed {
            return None;
        }
        self.guards.find_false(exit, |program| self.is_missing(program), |test| self.holds(test))
    }

    fn holds(&self, test: &FileTest) -> bool {
        let path = Path::new(&self.folder).join(&test.path);
        let metadata = fs::metadata(&path);
        let is = |fits: fn(&fs::Metadata) -> bool| metadata.as_ref().is_ok_and(fits);
        match test.operator.as_str() {
            "-d" => is(fs::Metadata::is_dir),
            "-e" => metadata.is_ok(),
            "-f" => is(fs::Metadata::is_file),
            "-s" => is(|metadata| metadata.len() > 0),
            "-r" => rustix::fs::access(&path, Access::READ_OK).is_ok(),
            "-x" => rustix::fs::access(&path, Access::EXEC_OK).is_ok(),
            _ => false,
        }
    }

    fn is_missing(&self, program: &Program) -> bool {
        // A file that cannot be inspected, or has no execute permission, is not missing.
        let is_absent = |path: &Path| {
            fs::metadata(path)
                .is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
        };
        match program {
            Program::Path(path) => is_absent(&Path::new(&self.folder).join(path)),
            Program::Name(name) => {
                let folders = self.search_path.split(':');
                folders.map(|folder| Path::new(&self.folder).join(folder).join(name)).all(|path| is_absent(&path))
            }
        }
    }
}

/// Page faults of the children that the process waited for; no process runs without any. Fields 11 and 13 of
/// /proc/PID/stat (proc_pid_stat(5)).
fn child_faults(stat: &[u8]) -> Option<u64> {
    let after_name = memchr::memrchr(b')', stat)? + 1;
    let rest = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let count = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(count(11)? + count(13)?)
}
