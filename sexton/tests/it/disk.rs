//! The disk of the state directory fills up, and gets free space again.

use serde_json::Value;
use testbed::{DEADLINE, SmallDisk, wait_until};

use crate::driver::{Folder, Up};
use crate::evidence::{alerts, check_ledger, directory, job, pager, start_run, wait_for_end};

#[test]
fn a_job_that_fills_the_disk_is_not_blocked_and_the_full_disk_is_alerted() {
    let Some(disk) = SmallDisk::mount(32 << 20) else { return };
    let folder = Folder::new();
    let (configuration, alert_file) = pager(&folder);
    let jobs = [job("flood", "seq 1 3000000; echo done >&2; exit 3", ""), job("other", "echo fine", "")].concat();
    let jobs = folder.write("jobs.toml", &jobs);
    let state = disk.path().join("state");
    let up = Up::start(&state, &["--jobs", &jobs, "--config", &configuration]);
    let run_id = start_run(&up, "flood");

    // Spools leave a reserve, so on the full disk the end is recorded and reported, and other jobs run.
    let run = wait_for_end(&up, &run_id, DEADLINE);
    assert_eq!((&run["exit_code"], &run["outcome"]), (&3.into(), &"failed".into()), "{run}");
    check_gap(&up, &run, &run_id, 3_000_001);
    wait_until(DEADLINE, || is_disk_alerted(&alert_file));
    let other = start_run(&up, "other");
    let run = wait_for_end(&up, &other, DEADLINE);
    assert_eq!((&run["outcome"], &run["dropped_lines"]), (&"succeeded".into(), &0.into()), "{run}");
    assert_eq!(up.run(&["logs", &other]).expect(0).text(), "fine\n");
    check_ledger(&up);
    assert!(!up.printed().contains("panicked"), "{}", up.printed());
}

#[test]
fn a_disk_filled_by_other_processes_loses_no_end_and_no_outcome() {
    let Some(disk) = SmallDisk::mount(32 << 20) else { return };
    let folder = Folder::new();
    let (configuration, alert_file) = pager(&folder);
    let go = folder.path("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done; seq 1 300000; exit 0", go.display());
    let jobs = folder.write("jobs.toml", &job("flood", &script, ""));
    let state = disk.path().join("state");
    let up = Up::start(&state, &["--jobs", &jobs, "--config", &configuration]);
    let run_id = start_run(&up, "flood");
    wait_until(DEADLINE, || directory(&state, &run_id).join("started.json").exists());
    let ballast = disk.fill();
    std::fs::write(&go, "").expect("written");

    // The job ends and the alert is sent, although no file can be written.
    wait_until(DEADLINE, || crate::evidence::processes_of(&run_id).is_empty());
    wait_until(DEADLINE, || is_disk_alerted(&alert_file));
    std::fs::remove_file(ballast).expect("removed");
    let run = wait_for_end(&up, &run_id, DEADLINE);
    assert_eq!((&run["exit_code"], &run["outcome"]), (&0.into(), &"succeeded".into()), "{run}");
    assert!(run["dropped_lines"].as_u64().is_some_and(|lines| lines > 0), "{run}");
    check_ledger(&up);
    assert!(!up.printed().contains("panicked"), "{}", up.printed());
}

#[test]
fn on_a_disk_filled_to_the_last_byte_the_job_that_frees_space_starts() {
    let Some(disk) = SmallDisk::mount(64 << 20) else { return };
    let folder = Folder::new();
    let (configuration, alert_file) = pager(&folder);
    let ballast = disk.path().join("ballast");
    let jobs = [job("clean", &format!("rm {}", ballast.display()), ""), job("other", "echo fine", "")].concat();
    let often = "[[job]]\ngroup = \"t\"\nname = \"often\"\nschedule = \"@every 1s\"\ncommand = \"true\"\n";
    let jobs = folder.write("jobs.toml", &format!("{jobs}{often}"));
    let state = disk.path().join("state");
    let arguments = ["--jobs", &*jobs, "--config", &*configuration];
    let up = Up::start(&state, &arguments);
    up.wait_for_run("t/often", "succeeded");
    disk.fill();
    wait_until(DEADLINE, || is_disk_alerted(&alert_file));
    // Runs that do not help use up only a part of what is kept for starts; a restart needs none.
    let ended = |up: &Up| up.records(&["runs", "t/often", "--outcome", "succeeded"]).len();
    let before = ended(&up);
    wait_until(DEADLINE, || ended(&up) > before + 1);
    up.kill_and_keep_jobs();
    let up = Up::start(&state, &arguments);
    let other = start_run(&up, "other");
    assert_eq!(wait_for_end(&up, &other, DEADLINE)["outcome"], "succeeded", "{}", up.printed());
    let clean = start_run(&up, "clean");
    assert_eq!(wait_for_end(&up, &clean, DEADLINE)["outcome"], "succeeded", "{}", up.printed());
    assert!(!ballast.exists());
    up.run(&["ledger"]).expect(0);
    assert!(!up.printed().contains("panicked"), "{}", up.printed());
}

/// Checks head, tail, and one gap between them with the number of dropped lines.
fn check_gap(up: &Up, run: &Value, run_id: &str, lines: u64) {
    let dropped = run["dropped_lines"].as_u64().expect("a number");
    assert!(dropped > 0, "{run}");
    assert_eq!(run["stdout_lines"].as_u64().zip(run["stderr_lines"].as_u64()), Some((lines - 1, 1)), "{run}");
    let text = up.run(&["logs", run_id]).expect(0).text();
    let shown: Vec<&str> = text.lines().collect();
    assert_eq!((shown.first(), shown.last()), (Some(&"1"), Some(&"done")));
    let gaps: Vec<&&str> = shown.iter().filter(|line| line.starts_with("[sexton: ")).collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(gaps[0].contains(&format!("{dropped} lines")), "{gaps:?}");
    assert_eq!(shown.len() as u64 - 1 + dropped, lines);
}

fn is_disk_alerted(alert_file: &std::path::Path) -> bool {
    let about = |alert: &Value| {
        alert["group"] == "sexton" && alert["reason"].as_str().is_some_and(|reason| reason.contains("disk"))
    };
    alerts(alert_file).iter().any(about)
}
