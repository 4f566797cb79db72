//! Crontabs as sources of jobs: the identity of their entries, links, directories, owners.

use std::os::unix::fs::symlink;
use std::path::Path;

use domain::crontab::{Format, Options};
use serde_json::Value;
use testbed::{DEADLINE, wait_until};

use crate::driver::{Folder, Up, sexton};

fn names(up: &Up) -> Vec<String> {
    let name = |job: &Value| format!("{}/{}", job["group"].as_str().unwrap(), job["name"].as_str().unwrap());
    up.records(&["jobs"]).iter().map(name).collect()
}

fn folder_with(folders: &[&str]) -> Folder {
    let folder = Folder::new();
    for name in folders {
        std::fs::create_dir_all(folder.path(name)).expect("made");
    }
    folder
}

/// Makes `link` point to `target`, atomically, as deployment tools do.
fn switch(link: &Path, target: &Path) {
    let fresh = link.with_extension("new");
    symlink(target, &fresh).expect("linked");
    std::fs::rename(&fresh, link).expect("renamed");
}

#[test]
fn one_entry_in_two_files_is_two_jobs_and_lint_advises_to_remove_none() {
    let folder = folder_with(&["a", "b"]);
    let entry = "0 5 * * * /opt/x\n";
    let files = [folder.write("a/crontab", entry), folder.write("b/crontab", entry)];
    let up = Up::start(&folder.path("state"), &["--crontab", &files[0], "--crontab", &files[1]]);
    let jobs = up.records(&["jobs"]);
    assert_eq!(jobs.len(), 2, "{jobs:?}");
    assert_ne!(jobs[0]["name"], jobs[1]["name"]);
    assert!(!up.printed().contains("takes over"), "{}", up.printed());
    let system = folder.write("system", "0 5 * * * root /opt/x\n0 5 * * * daemon /opt/x\n0 17 * * * daemon /opt/x\n");
    let lint = sexton(&["lint", "--system", &system]).expect(0);
    assert!(lint.text().lines().any(|line| line == "3 valid jobs, 0 faults, 0 warnings"), "{}", lint.text());
}

#[test]
fn an_edit_of_the_schedule_keeps_the_job_and_its_pause() {
    let folder = Folder::new();
    let tab = folder.write("crontab", "0 5 * * * /opt/x\n");
    let up = Up::start(&folder.path("state"), &["--crontab", &tab]);
    let before = names(&up);
    up.run(&["job", "pause", &before[0], "--why", "noise"]).expect(0);
    folder.write("crontab", "0 6 * * 1 /opt/x\n");
    wait_until(DEADLINE, || up.records(&["jobs"]).iter().any(|job| job["schedule"] == "0 6 * * 1"));
    let jobs = up.records(&["jobs"]);
    assert_eq!((names(&up), &jobs[0]["paused"]["why"]), (before, &"noise".into()), "{jobs:?}");
}

#[test]
fn at_the_first_start_after_the_upgrade_an_unnamed_entry_keeps_its_pause_under_its_new_name() {
    let folder = folder_with(&["releases/2"]);
    let state = folder.path("state");
    let tab = folder.write("releases/2/crontab", "0 5 * * * /opt/x\n");
    symlink(folder.path("releases/2"), folder.path("current")).expect("linked");
    let linked = folder.text("current/crontab");
    let up = Up::start(&state, &["--crontab", &linked]);
    let new = names(&up).remove(0);
    up.run(&["job", "pause", &new, "--why", "noise"]).expect(0);
    assert_eq!(up.stop(), Some(0));

    // As the build before stored it: with its name, and under the resolved path.
    let content = domain::crontab::read("x", "0 5 * * * /opt/x\n", &Options::new(&linked, Format::User));
    let old = content.former_names.values().next().and_then(|names| names.last()).expect("a former name").clone();
    let new_name = new.strip_prefix("default/").expect("the group");
    let statements = format!(
        "UPDATE jobs SET name = '{0}', body = replace(replace(body, '{new_name}', '{0}'), '{linked}', '{tab}'); \
         DELETE FROM due;",
        old.name
    );
    embedded::edit_by_hand(&state.join("sexton.db"), &statements).expect("edited");

    let up = Up::start(&state, &["--crontab", &linked]);
    let jobs = up.records(&["jobs"]);
    assert_eq!((names(&up), &jobs[0]["paused"]["why"]), (vec![new.clone()], &"noise".into()), "{jobs:?}");
    assert_eq!(jobs[0]["source"], linked.as_str());
    assert!(up.printed().contains(&format!("{old} is now {new}")), "{}", up.printed());
    assert!(!up.printed().contains("takes over") && !up.printed().contains("is not named now"), "{}", up.printed());
}

#[test]
fn a_link_that_is_switched_stays_one_source() {
    let folder = folder_with(&["releases/1", "releases/2"]);
    folder.write("releases/1/crontab", "# sexton: name=one\n@manually true\n# sexton: name=both\n@manually true\n");
    folder.write("releases/2/crontab", "# sexton: name=two\n@manually true\n# sexton: name=both\n@manually true\n");
    switch(&folder.path("current"), &folder.path("releases/1"));
    let tab = folder.text("current/crontab");
    let up = Up::start(&folder.path("state"), &["--crontab", &tab]);
    assert_eq!(names(&up), ["default/both", "default/one"]);
    up.run(&["job", "pause", "default/both"]).expect(0);
    switch(&folder.path("current"), &folder.path("releases/2"));
    wait_until(DEADLINE, || names(&up) == ["default/both", "default/two"]);
    assert!(up.records(&["jobs"])[0]["paused"].is_object(), "kept");
    // Switched while no `up` runs.
    assert_eq!(up.stop(), Some(0));
    switch(&folder.path("current"), &folder.path("releases/1"));
    let up = Up::start(&folder.path("state"), &["--crontab", &tab]);
    assert_eq!(names(&up), ["default/both", "default/one"]);
}

#[test]
fn stored_jobs_of_the_reserved_group_keep_running_and_are_reported_at_each_start() {
    let folder = Folder::new();
    let state = folder.path("state");
    let tab = folder.write("crontab", "# sexton: name=old\n@manually echo ran\n");
    assert_eq!(Up::start(&state, &["--crontab", &tab]).stop(), Some(0));
    let statement =
        "UPDATE jobs SET grp = 'sexton', body = replace(body, '\"group\":\"default\"', '\"group\":\"sexton\"')";
    embedded::edit_by_hand(&state.join("sexton.db"), statement).expect("edited");
    folder.write("crontab", "# sexton: name=old group=sexton\n@manually echo ran\n");
    let refused = sexton(&["lint", &tab]).expect(2);
    assert!(refused.err.contains("the group `sexton` is reserved"), "{}", refused.err);
    for _ in 0..2 {
        let up = Up::start(&state, &["--crontab", &tab]);
        let printed = up.printed();
        let line = printed.lines().find(|line| line.contains("the group `sexton`, which is reserved"));
        assert!(line.is_some_and(|line| line.contains("sexton/old")), "{printed}");
        up.run(&["run", "sexton/old", "--wait"]).expect(0);
        assert_eq!(up.stop(), Some(0));
    }
    let exec = sexton(&["exec", "--group", "sexton", "--name", "x", "--", "true"]).expect(2);
    assert!(exec.err.contains("the group `sexton` is reserved"), "{}", exec.err);
}
