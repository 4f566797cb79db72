//! Reads which interpreters the files of a command name in their first line (`#!`), so that `auto` chooses their rule
//! packs. Called when the rules begin to read a run; on a thread that may block, because a file system can.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use domain::job::Job;
use keeper::PATH_DEFAULT;
use rules::Interpreters;
use rules::programs::{Program, Programs, interpreter_of};

/// Files of one command that are read. Chosen: more than the commands of any job that was seen.
const FILES_MAX: usize = 16;

/// Bytes of a first line. The kernel reads 256 (execve(2)).
const LINE_BYTES_MAX: u64 = 256;

/// The interpreters of a job's command; empty when its rules do not depend on them.
pub(crate) fn read_interpreters(job: &Job) -> Interpreters {
    if !job.rules.iter().any(|name| name == rules::pack_choice::AUTO) {
        return Interpreters::new();
    }
    let programs = Programs::of(&job.command);
    let local = programs.iter().filter(|program| program.is_local).take(FILES_MAX);
    let named = local.filter_map(|program| Some((program.path.clone(), interpreter(job, program)?)));
    named.collect()
}

fn interpreter(job: &Job, program: &Program) -> Option<String> {
    let path = path_of(job, program)?;
    // Opening a pipe or a device would wait.
    path.metadata().ok().filter(|file| file.is_file())?;
    let mut head = Vec::new();
    File::open(path).ok()?.take(LINE_BYTES_MAX).read_to_end(&mut head).ok()?;
    interpreter_of(&head)
}

/// The file of a program, as the job's shell finds it.
fn path_of(job: &Job, program: &Program) -> Option<PathBuf> {
    let path = Path::new(&program.path);
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    if program.path.contains('/') {
        return Some(Path::new(job.cwd.as_ref()?).join(path));
    }
    let search = job.env.get("PATH").map_or(PATH_DEFAULT, String::as_str);
    search.split(':').map(|folder| Path::new(folder).join(path)).find(|file| file.is_file())
}
