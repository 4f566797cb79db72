//! Recognises a system crontab that is read as a crontab of a user: its users would be taken for programs.

use std::collections::BTreeMap;
use std::path::Path;

use domain::crontab::HostNames;
use domain::job::{Command, Job};
use domain::job_list::JobList;
use keeper::user::find_by_name;

/// Where programs are searched when the crontab sets no PATH (crontab(5)).
const PATH_DEFAULT: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

/// The users and programs of this host, for warnings about entries of a crontab.
pub(crate) const HOST_NAMES: HostNames = HostNames {
    is_account: |name| find_by_name(name).is_some(),
    is_program: |name, path| is_program(name, path.unwrap_or(PATH_DEFAULT)),
};

/// Whether every command begins with a user of this host that is no program in the PATH of its entry. `sync`, `mail`
/// and `backup` can be both.
pub(crate) fn looks_like_system_crontab(jobs: &JobList) -> bool {
    let mut users = BTreeMap::new();
    let mut begins_with_user = |job: Job| {
        let Command::Shell(command) = &job.command else { return false };
        let Some(word) = command.split_whitespace().next() else { return false };
        let is_user = *users.entry(word.to_owned()).or_insert_with(|| find_by_name(word).is_some());
        is_user && !is_program(word, job.env.get("PATH").map_or(PATH_DEFAULT, String::as_str))
    };
    !jobs.is_empty() && jobs.iter().all(&mut begins_with_user)
}

fn is_program(word: &str, path: &str) -> bool {
    path.split(':').any(|folder| Path::new(folder).join(word).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::crontab::{Format, parse};

    #[test]
    fn only_users_that_are_no_programs_in_all_entries_are_a_user_column() {
        let folder = tempfile::tempdir().expect("temporary directory");
        std::fs::write(folder.path().join("daemon"), "").expect("written");
        let own_path = format!("PATH={}\n0 5 * * * daemon x\n", folder.path().display());
        for (text, expected) in [
            ("0 5 * * * root /opt/x\n", true),
            ("0 5 * * * root /opt/x\n@daily daemon   y\n", true),
            ("0 5 * * * root /opt/x\n0 5 * * * /opt/y\n", false),
            ("0 5 * * * no-such-user-here /opt/x\n", false),
            ("0 5 * * * echo root\n", false),
            (&own_path, false),
            ("# nothing\n", false),
        ] {
            let (jobs, _) = parse("crontab", text, Format::User);
            assert_eq!(looks_like_system_crontab(&jobs[..].into()), expected, "{text}");
        }
    }
}
