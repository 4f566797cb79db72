//! `up` where the limit of open files is small.

use std::fs;
use std::path::Path;
use std::process::Command;

use testbed::{DEADLINE, wait_until};

use crate::driver::{Folder, Up};

/// `sexton up` after `ulimit` with these arguments.
fn up_with_limit(folder: &Folder, limit: &str, arguments: &[&str]) -> Up {
    let mut command = Command::new("sh");
    let script = format!("ulimit {limit} && exec \"$@\"");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_sexton"), "up"]).args(arguments);
    Up::serve(&folder.path("state"), command)
}

#[test]
fn the_soft_limit_is_raised_and_jobs_get_the_old_one() {
    let folder = Folder::new();
    let tab = folder.write("crontab", "# sexton: name=limit\n@manually ulimit -Sn; ulimit -Hn\n");
    let up = up_with_limit(&folder, "-Sn 99", &["--crontab", &tab]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", up.pid())).expect("limits");
    let own: Vec<&str> = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line")
        ["Max open files".len()..]
        .split_whitespace()
        .collect();
    assert_eq!(own[0], own[1], "{limits}");
    let run = up.run(&["run", "default/limit", "--wait", "--json"]).expect(0).records().remove(0);
    let output = up.run(&["logs", run["run_id"].as_str().expect("run_id")]).expect(0).text();
    assert_eq!(output, format!("99\n{}\n", own[1]));
    drop(up);
}

#[test]
fn with_a_small_hard_limit_runs_wait_name_the_limit_and_all_succeed() {
    const JOBS: usize = 60;
    let folder = Folder::new();
    let alerts = folder.text("alerts");
    let config = format!("[channel.pager]\ntype = \"command\"\ncommand = '''\n(cat; echo) >> {alerts}'''\n");
    let config = folder.write("sexton.toml", &config);
    let go = folder.text("go");
    let job = |number: usize| {
        format!("# sexton: name=job{number}\n@manually echo one; while ! [ -e {go} ]; do sleep 0.1; done; echo two\n")
    };
    let tab = folder.write("crontab", &(0..JOBS).map(job).collect::<String>());
    let up = up_with_limit(&folder, "-n 128", &["--config", &config, "--crontab", &tab]);
    for number in 0..JOBS {
        up.run(&["run", &format!("default/job{number}")]).expect(0);
    }
    let waiting = || {
        let open = up.records(&["runs", "--limit", "100"]);
        let names_limit =
            |run: &&serde_json::Value| run["reason"].as_str().is_some_and(|text| text.contains("128 open files"));
        open.iter().filter(|run| run["outcome"].is_null()).filter(names_limit).count()
    };
    wait_until(DEADLINE, || waiting() == JOBS - 32);
    let sent = || fs::read_to_string(&alerts).unwrap_or_default();
    wait_until(DEADLINE, || sent().contains("\"limits\"") && sent().contains("LimitNOFILE"));
    assert_eq!(sent().lines().count(), 1, "{}", sent());
    fs::write(Path::new(&go), "").expect("written");
    wait_until(DEADLINE, || up.records(&["runs", "--outcome", "succeeded", "--limit", "100"]).len() == JOBS);
    for run in up.records(&["runs", "--limit", "100"]) {
        let run_id = run["run_id"].as_str().expect("run_id");
        assert_eq!(up.run(&["logs", run_id]).expect(0).text(), "one\ntwo\n");
    }
    let printed = up.printed();
    let warnings: Vec<&str> =
        printed.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR")).collect();
    assert!(!printed.contains("os error 24") && warnings.len() < 10, "{warnings:#?}");
    drop(up);
}
