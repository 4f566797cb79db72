//! Crontabs of users, and files that another user can write. Changing the owner of a file needs root: without it, only
//! the part about the own user runs.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;

use testbed::{DEADLINE, wait_until};

use crate::driver::{Folder, Up, command, sexton};

const DAEMON: u32 = 1;
/// The user without rights of every system.
const OTHER: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn spool() -> Folder {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("crontabs")).expect("made");
    folder
}

fn set_mode(path: impl AsRef<Path>, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
}

/// The standard output of `id -un` as the job with this key prints it.
fn user_of(up: &Up, key: &str) -> String {
    let run = up.run(&["run", key, "--wait", "--json"]).expect(0).records().remove(0);
    up.run(&["logs", run["run_id"].as_str().expect("a run id"), "--stream", "stdout"]).expect(0).text()
}

#[test]
fn a_crontab_in_a_spool_runs_as_the_user_of_its_name() {
    if !is_root() {
        return;
    }
    let folder = spool();
    let tab = folder.write("crontabs/daemon", "# sexton: name=who\n@manually id -un\n");
    folder.write("crontabs/root", "# sexton: name=who\n@manually id -un\n");
    chown(&tab, Some(DAEMON), None).expect("owned");
    let up = Up::start(&folder.path("state"), &["--crontab", &tab]);
    assert_eq!(user_of(&up, "default/who"), "daemon\n");
    assert_eq!(up.stop(), Some(0));
    // Through a link, and as a directory.
    std::os::unix::fs::symlink(&tab, folder.path("link")).expect("linked");
    let up = Up::start(&folder.path("state2"), &["--crontab", &folder.text("link")]);
    assert_eq!(user_of(&up, "default/who"), "daemon\n");
    assert_eq!(up.stop(), Some(0));
    let up = Up::start(&folder.path("state3"), &["--crontab", &folder.text("crontabs")]);
    assert_eq!((user_of(&up, "daemon/who"), user_of(&up, "root/who")), ("daemon\n".to_owned(), "root\n".to_owned()));
}

#[test]
fn a_crontab_in_a_spool_without_its_user_is_refused() {
    let folder = spool();
    let tab = folder.write("crontabs/no-such-user-here", "@manually id -un\n");
    for arguments in [&["lint", &*tab][..], &["up", "--state", &folder.text("state"), "--crontab", &tab]] {
        let output = sexton(arguments).expect(2);
        assert!(output.err.contains("there is no user `no-such-user-here` on this machine"), "{}", output.err);
    }
}

#[test]
fn what_a_user_writes_in_a_crontab_gets_no_right_of_root() {
    if !is_root() {
        return;
    }
    let folder = spool();
    let own = folder.write("own", "# sexton: name=backup\n@manually id -un\n");
    let tab = folder.write(
        "crontabs/daemon",
        "# sexton: user=root\n@manually one\n# sexton: name=two env.X=file:/etc/shadow\n@manually two\n\
         # sexton: name=backup\n@manually id -un\n# sexton: name=good\n@manually id -un\n",
    );
    let up = Up::start(&folder.path("state"), &["--crontab", &own, &tab]);
    for part in
        ["whose entries run as no other user", "`default/two: X`: a reference is read with the rights of Sexton"]
    {
        assert!(up.printed().contains(part), "{part}: {}", up.printed());
    }
    let jobs = up.records(&["jobs"]);
    let names: Vec<&str> = jobs.iter().filter_map(|job| job["name"].as_str()).collect();
    assert_eq!(names, ["backup", "good"], "{}", up.printed());
    assert_eq!((user_of(&up, "default/backup"), user_of(&up, "default/good")), ("root\n".into(), "daemon\n".into()));
}

#[test]
fn root_refuses_every_file_that_another_user_can_write() {
    if !is_root() {
        return;
    }
    let folder = spool();
    let tab = folder.write("tab", "# sexton: name=a\n@manually true\n");
    let of_daemon = folder.write("crontabs/daemon", "# sexton: name=b\n@manually true\n");
    let jobs = folder.write("jobs.toml", "[[job]]\nname = \"c\"\nschedule = \"@manually\"\ncommand = \"true\"\n");
    let sinks = folder.write("sinks.toml", "[sink.out]\ntype = \"stdout\"\n");
    let rules = folder.write("mine.toml", "name = \"mine\"\n[[rule]]\nid = \"mine.x\"\npattern = 'x'\n");
    let policy = folder.write("policy.toml", "groups = [\"default\"]\n");
    let config = folder.write("sexton.toml", "[runner]\npolicy = \"policy.toml\"\n");
    let state = folder.text("state");
    let start = ["up", "--state", &state, "--listen", "127.0.0.1:0"];
    for (file, arguments) in [
        (&tab, ["--crontab", &tab]),
        (&of_daemon, ["--crontab", &of_daemon]),
        (&jobs, ["--jobs", &jobs]),
        (&config, ["--config", &config]),
        (&policy, ["--config", &config]),
    ] {
        let refused = |message: &str| {
            let output = sexton(&[&start[..], &arguments].concat()).expect(2);
            assert!(output.err.contains(file) && output.err.contains(message), "{file}: {}", output.err);
        };
        for mode in [0o666, 0o664] {
            set_mode(file, mode);
            refused("other users can write the file");
        }
        set_mode(file, 0o644);
        chown(file, Some(OTHER), None).expect("owned");
        refused("the file belongs to `");
        chown(file, Some(0), None).expect("owned");
    }
    // `up` starts without the sinks and the pack of a refused file.
    for (name, file, flag) in [("a", &sinks, "--sinks"), ("b", &rules, "--rules")] {
        set_mode(file, 0o666);
        let up = Up::start(&folder.path(name), &[flag, file]);
        assert!(up.printed().contains(&format!("{file}: other users can write the file")), "{}", up.printed());
        assert!(up.records(&["sinks"]).iter().all(|sink| sink["name"] != "out"));
    }
    chown(&of_daemon, Some(DAEMON), None).expect("owned");
    let up = Up::start(&folder.path("state"), &["--config", &config, "--crontab", &tab, &of_daemon, "--jobs", &jobs]);
    assert_eq!(up.records(&["jobs"]).len(), 3);
    // While it runs: the last good version stays.
    set_mode(&tab, 0o666);
    folder.write("tab", "# sexton: name=evil\n@manually true\n");
    wait_until(DEADLINE, || up.printed().contains("other users can write the file (mode 0666)"));
    assert!(up.records(&["jobs"]).iter().all(|job| job["name"] != "evil"));
    let lint = sexton(&["lint", &tab]).expect(0);
    assert!(lint.text().contains("warning: `up` as root refuses the file"), "{}", lint.text());
}

#[test]
fn without_root_a_crontab_of_another_user_is_refused() {
    if !is_root() {
        return;
    }
    let folder = spool();
    set_mode(folder.path(""), 0o755);
    let tab = folder.write("crontabs/daemon", "@manually true\n");
    let config = folder.write("sexton.toml", "crontabs = [\"crontabs/daemon\"]\n");
    let state = folder.text("state");
    std::fs::create_dir(&state).expect("made");
    chown(&state, Some(OTHER), Some(OTHER)).expect("owned");
    let output = command(&["check", "--config", &config, "--state", &state])
        .current_dir("/")
        .env("HOME", "/")
        .uid(OTHER)
        .gid(OTHER)
        .output();
    let Ok(output) = output else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&format!("BAD  jobs {tab}")) && text.contains("only root may run commands as"), "{text}");
}
