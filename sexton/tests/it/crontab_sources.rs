//! Crontabs as sources of jobs: the identity of their entries, links, directories, owners.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use domain::crontab::{Format, Options};
use serde_json::Value;
use testbed::{DEADLINE, wait_until};

use crate::driver::{Folder, Up, sexton, shell_output};

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
    let old = content.jobs.former_names(0).pop().expect("a former name");
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

#[test]
fn a_directory_of_crontabs_is_read_as_cron_reads_it_and_followed() {
    let folder = folder_with(&["cron.d", "cron.d/sub"]);
    folder.write("cron.d/php", "0 5 * * * root /usr/lib/php/sessionclean\n");
    folder.write("cron.d/mail_queue", "# sexton: name=flush\n0 5 * * * root /opt/flush\n");
    for ignored in ["php.dpkg-old", ".placeholder", "backup~", "run.sh", "sub/x"] {
        folder.write(&format!("cron.d/{ignored}"), "0 5 * * * root /opt/never\n");
    }
    let directory = folder.text("cron.d");
    let state = folder.path("state");
    let up = Up::start(&state, &["--system", "--crontab", &directory]);
    let found = names(&up);
    assert_eq!((found.len(), found[0].as_str()), (2, "mail_queue/flush"), "{found:?}");
    assert!(found[1].starts_with("php/sessionclean-"), "{found:?}");
    assert!(up.printed().contains("run.sh: warning: the file is ignored, as by cron"), "{}", up.printed());
    assert!(!up.printed().contains("dpkg-old"), "{}", up.printed());
    // Package managers write another name first.
    folder.write("cron.d/new.dpkg-new", "# sexton: name=one\n0 5 * * * root /opt/one\n");
    std::fs::rename(folder.path("cron.d/new.dpkg-new"), folder.path("cron.d/new")).expect("renamed");
    wait_until(DEADLINE, || names(&up).contains(&"new/one".to_owned()));
    std::fs::remove_file(folder.path("cron.d/php")).expect("removed");
    wait_until(DEADLINE, || names(&up) == ["mail_queue/flush", "new/one"]);
    assert_eq!(up.stop(), Some(0));
    // Removed while no `up` runs.
    std::fs::remove_file(folder.path("cron.d/new")).expect("removed");
    let up = Up::start(&state, &["--system", "--crontab", &directory]);
    assert_eq!(names(&up), ["mail_queue/flush"]);
    assert!(up.printed().contains("deleted, because the file is no longer in its directory"), "{}", up.printed());
    assert_eq!(up.stop(), Some(0));
    // A directory that is not there now deletes nothing.
    std::fs::rename(folder.path("cron.d"), folder.path("elsewhere")).expect("renamed");
    let up = Up::start(&state, &["--system", "--crontab", &directory]);
    assert_eq!(names(&up), ["mail_queue/flush"]);
}

#[test]
fn a_file_that_became_a_directory_is_replaced_by_its_crontabs_and_back() {
    let folder = Folder::new();
    let tab = "# sexton: name=flush\n0 5 * * * /opt/flush\n0 6 * * * /opt/x\n# sexton: name=old\n0 7 * * * /opt/old\n";
    let path = folder.write("tab", tab);
    let state = folder.path("state");
    let up = Up::start(&state, &["--crontab", &path]);
    let unnamed =
        names(&up).into_iter().find(|name| name.starts_with("default/tab-x-")).expect("the entry without a name");
    for job in ["default/flush", &unnamed] {
        up.run(&["job", "pause", job, "--why", "noise"]).expect(0);
    }
    assert_eq!(up.stop(), Some(0));

    // An empty directory, as a container engine makes it for a file that is not there, replaces nothing.
    std::fs::rename(folder.path("tab"), folder.path("moved")).expect("renamed");
    std::fs::create_dir(folder.path("tab")).expect("made");
    let up = Up::start(&state, &["--crontab", &path]);
    assert_eq!(names(&up).len(), 3);
    assert!(up.printed().contains("tab: a directory, not a regular file"), "{}", up.printed());
    assert_eq!(up.stop(), Some(0));

    let without_old: String = tab.lines().take(3).map(|line| format!("{line}\n")).collect();
    folder.write("tab/main", &without_old);
    let reasons = |up: &Up| -> Vec<(String, String)> {
        let why = |job: &Value| job["paused"]["why"].as_str().unwrap_or("runs").to_owned();
        names(up).into_iter().zip(up.records(&["jobs"]).iter().map(why)).collect()
    };
    let up = Up::start(&state, &["--crontab", &path]);
    let found = reasons(&up);
    assert_eq!(found.len(), 2, "{found:?}\n{}", up.printed());
    assert_eq!(found[0], ("main/flush".to_owned(), "noise".to_owned()));
    assert!(found[1].0.starts_with("main/x-") && found[1].1 == "noise", "{found:?}");
    assert!(up.printed().contains("1 job of "), "{}", up.printed());
    assert!(up.printed().contains("deleted, because it is a directory now"), "{}", up.printed());
    assert_eq!(up.stop(), Some(0));

    folder.write("tab/other", "0 8 * * * /opt/other\n");
    let up = Up::start(&state, &["--crontab", &path]);
    assert_eq!(names(&up).len(), 3);
    assert_eq!(up.stop(), Some(0));
    std::fs::rename(folder.path("tab"), folder.path("directory")).expect("renamed");
    folder.write("tab", &without_old);
    let up = Up::start(&state, &["--crontab", &path]);
    assert_eq!(
        reasons(&up),
        [("default/flush".to_owned(), "noise".to_owned()), (unnamed, "noise".to_owned())],
        "{}",
        up.printed()
    );
    assert!(up.printed().contains("deleted, because its directory is a file now"), "{}", up.printed());
}

#[test]
fn the_configuration_states_that_crontabs_have_a_user_column() {
    let folder = Folder::new();
    folder.write("tab", "# sexton: name=x\n0 5 * * * root /opt/x\n");
    let configuration = folder.write("sexton.toml", "crontabs = [\"tab\"]\nsystem = true\n");
    let up = Up::start(&folder.path("state"), &["--config", &configuration]);
    let jobs = up.records(&["jobs"]);
    assert_eq!((&jobs[0]["user"], &jobs[0]["command"]), (&"root".into(), &"/opt/x".into()));
    let check = sexton(&["check", "--config", &configuration, "--state", &folder.text("state")]);
    assert!(check.text().contains("1 job, 0 warnings"), "{}", check.text());
}

#[test]
fn a_fifo_in_a_directory_is_a_fault_and_never_blocks() {
    let folder = folder_with(&["cron.d"]);
    folder.write("cron.d/good", "# sexton: name=good\n0 5 * * * true\n");
    let directory = folder.text("cron.d");
    shell_output(&format!("mkfifo {directory}/pipe && ln -s pipe {directory}/link && ln -s /dev/stdin {directory}/in"));
    let up = Up::start(&folder.path("state"), &["--crontab", &directory]);
    assert!(up.printed().contains("pipe: a FIFO, not a regular file"), "{}", up.printed());
    let state = folder.text("state");
    let now = jiff::Timestamp::now();
    let (from, to) = (now.to_string(), (now + jiff::SignedDuration::from_hours(25)).to_string());
    let plan = vec!["plan", &directory, "--from", &from, "--to", &to];
    for command in [vec!["lint", &directory], plan, vec!["apply", &directory, "--state", &state]] {
        let output = sexton(&command);
        let printed = format!("{}{}", output.text(), output.err);
        for name in ["pipe", "link"] {
            assert!(printed.contains(&format!("{name}: a FIFO, not a regular file")), "{command:?}: {printed}");
        }
    }
}

#[test]
fn a_file_of_a_directory_that_others_can_write_is_refused_and_the_other_files_run() {
    let folder = folder_with(&["cron.d"]);
    folder.write("cron.d/good", "# sexton: name=good\n@manually true\n");
    let open = folder.write("cron.d/open", "# sexton: name=open\n@manually true\n");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o666)).expect("set");
    let directory = folder.text("cron.d");
    let lint = sexton(&["lint", &directory]).expect(2);
    assert!(lint.err.contains("open: other users can write the file (mode 0666)"), "{}", lint.err);
    let up = Up::start(&folder.path("state"), &["--crontab", &directory]);
    assert_eq!(names(&up), ["good/good"]);
    assert!(up.printed().contains("other users can write the file"), "{}", up.printed());
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).expect("set");
    wait_until(DEADLINE, || names(&up) == ["good/good", "open/open"]);
}

#[test]
fn several_files_are_read_and_a_job_of_two_files_is_a_fault_of_the_second() {
    let folder = folder_with(&["d"]);
    let shared = "# sexton: name=shared\n0 1 1 1 * true\n";
    let first = folder.write("first", &format!("{shared}# sexton: name=a\n0 1 1 1 * true\n"));
    let second = folder.write("second", &format!("{shared}# sexton: name=b\n0 1 1 1 * true\n"));
    let fault = format!("{second}: `default/shared`: {first} has a job of this name, too");
    let lint = sexton(&["lint", &first, &second, &folder.text("d")]).expect(2);
    assert!(lint.err.contains(&fault), "{}", lint.err);
    assert!(lint.text().ends_with("3 valid jobs, 1 fault, 0 warnings\n"), "{}", lint.text());
    let window = ["--from", "1970-01-01", "--to", "1970-01-02"];
    let plan = sexton(&[&["plan", &first, &second][..], &window].concat()).expect(2);
    assert!(plan.err.contains(&fault), "{}", plan.err);

    let up = Up::start(&folder.path("state"), &["--crontab", &first, &second]);
    let source = |up: &Up, name: &str| {
        up.records(&["jobs"])
            .iter()
            .find(|job| job["name"] == name)
            .map(|job| job["source"].as_str().unwrap().to_owned())
    };
    assert_eq!(names(&up), ["default/a", "default/b", "default/shared"]);
    assert_eq!(source(&up, "shared").as_ref(), Some(&first));
    assert!(up.printed().contains(&fault) && !up.printed().contains("takes over"), "{}", up.printed());
    // The other file may have it when the first no longer does.
    folder.write("first", "# sexton: name=a\n0 1 1 1 * true\n");
    wait_until(DEADLINE, || source(&up, "shared").as_ref() == Some(&second));
    folder.write("first", &format!("{shared}# sexton: name=a\n0 1 1 1 * true\n"));
    wait_until(DEADLINE, || source(&up, "shared").as_ref() == Some(&first));
    assert_eq!(names(&up), ["default/a", "default/b", "default/shared"]);
}

#[test]
fn apply_takes_files_and_directories_and_prunes_files_that_left() {
    let folder = folder_with(&["cron.d"]);
    let alone = folder.write("alone", "# sexton: name=alone\n@manually true\n");
    folder.write("cron.d/one", "# sexton: name=x\n@manually true\n");
    folder.write("cron.d/two", "# sexton: name=x\n@manually true\n");
    let directory = folder.text("cron.d");
    let up = Up::start(&folder.path("state"), &["--crontab", &folder.write("empty", "# none\n")]);
    let text = up.run(&["apply", &alone, &directory]).expect(0).text();
    assert!(text.contains("+ one/x") && text.contains("+ two/x"), "{text}");
    assert_eq!(names(&up), ["default/alone", "one/x", "two/x"]);
    std::fs::remove_file(folder.path("cron.d/one")).expect("removed");
    up.run(&["apply", &directory]).expect(0);
    assert_eq!(names(&up), ["default/alone", "one/x", "two/x"]);
    let text = up.run(&["apply", "--prune", &directory]).expect(0).text();
    assert!(text.contains("- one/x\n"), "{text}");
    assert_eq!(names(&up), ["default/alone", "two/x"]);
}

#[test]
fn a_system_crontab_without_its_flag_is_a_fault_and_not_a_program() {
    let folder = folder_with(&[]);
    let tab = folder.write("crontab", "PATH=/usr/bin:/bin\n0 5 * * * root /opt/x\n@daily daemon /opt/y\n");
    let lint = sexton(&["lint", &tab]).expect(2);
    assert!(lint.err.contains("looks like a system crontab"), "{}", lint.err);
    assert!(lint.err.contains("pass --system"), "{}", lint.err);
    sexton(&["lint", "--system", &tab]).expect(0);
    let mixed = folder.write("mixed", "0 5 * * * root /opt/x\n0 5 * * * /opt/y\n");
    sexton(&["lint", &mixed]).expect(0);
    // A user and a program: `sync` and `mail` are both on many systems.
    std::fs::write(folder.path("daemon"), "").expect("written");
    let both = format!("PATH={}\n0 5 * * * daemon x\n", folder.path("").display());
    sexton(&["lint", &folder.write("both", &both)]).expect(0);
}
