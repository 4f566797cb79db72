//! The ledger is restored from copies of several ages, with and without the run directories: nothing is started twice,
//! no run stays open, and jobs that forbid overlap start again.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use testbed::{DEADLINE, wait_until};

use crate::driver::{Folder, Up, sexton};
use crate::evidence::{alerts, job, pager, start_run, wait_for_end};

/// Each start of a job appends its name and the run id to this file.
struct Starts(PathBuf);

impl Starts {
    fn list(&self) -> Vec<String> {
        fs::read_to_string(&self.0).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn of(&self, job: &str) -> usize {
        self.list().iter().filter(|line| line.starts_with(job)).count()
    }

    #[track_caller]
    fn check_each_is_one(&self) {
        let mut all = self.list();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "{:?}", self.list());
    }
}

struct Scene {
    folder: Folder,
    state: PathBuf,
    arguments: Vec<String>,
    starts: Starts,
    alert_file: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let folder = Folder::new();
        let (configuration, alert_file) = pager(&folder);
        let starts = Starts(folder.path("starts"));
        let start = |name: &str| format!("echo {name} $SEXTON_RUN_ID $SEXTON_ATTEMPT >> {}", starts.0.display());
        let wait = format!("while [ ! -e {} ]; do sleep 0.1; done", folder.text("go"));
        let often = format!(
            "[[job]]\ngroup = \"t\"\nname = \"often\"\nschedule = \"@every 2s\"\ncommand = '''{}'''\n\
             concurrency = \"forbid\"\ncatch_up = \"all\"\nretries = {{ max = 1, delay = \"1s\", on = [\"lost\"] }}\n",
            start("often")
        );
        let retried = "retries = { max = 2, delay = \"1s\", on = [\"failed\", \"lost\"] }";
        let jobs = [
            often,
            job("long", &format!("{}; {wait}", start("long")), "concurrency = \"forbid\""),
            job("quick", &start("quick"), "concurrency = \"forbid\""),
            job("failing", &format!("{}; exit 3", start("failing")), retried),
        ];
        let jobs = folder.write("jobs.toml", &jobs.concat());
        let arguments = ["--jobs", &*jobs, "--config", &*configuration].map(str::to_owned).to_vec();
        Scene { state: folder.path("state"), folder, arguments, starts, alert_file }
    }

    fn start(&self) -> Up {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        Up::start(&self.state, &arguments)
    }

    /// Runs for a while with a copy before, in and after each run. Returns the copies, and the run that still runs.
    fn make_copies(&self) -> (Vec<String>, String) {
        let up = self.start();
        let mut copies = Vec::new();
        let mut back_up = |up: &Up| {
            let copy = self.folder.text(&format!("copy{}", copies.len()));
            up.run(&["backup", &copy]).expect(0);
            copies.push(copy);
        };
        back_up(&up);
        up.wait_for_run("t/often", "succeeded");
        back_up(&up);
        let long = start_run(&up, "long");
        wait_until(DEADLINE, || self.starts.of("long") == 1);
        let failing = start_run(&up, "failing");
        wait_until(DEADLINE, || self.starts.of("failing") == 1);
        back_up(&up);
        let quick = start_run(&up, "quick");
        wait_for_end(&up, &quick, DEADLINE);
        back_up(&up);
        wait_until(DEADLINE, || self.starts.of("failing") >= 3);
        back_up(&up);
        let _failing = failing;
        up.kill_and_keep_jobs();
        (copies, long)
    }

    fn restore(&self, copy: &str) {
        let state = self.state.display().to_string();
        let output = sexton(&["restore", copy, "--state", &state]).expect(0);
        assert!(output.text().contains("restored"), "{}", output.text());
    }
}

fn runs(up: &Up) -> Vec<Value> {
    up.records(&["runs", "--limit", "1000"])
}

/// Restores a copy and checks that the runs of the gap have their outcomes.
#[track_caller]
fn check_copy(scene: &Scene, copy: &str, long: &str, has_directories: bool) {
    scene.restore(copy);
    if !has_directories {
        fs::remove_dir_all(scene.state.join("runner")).expect("removed");
    }
    let started: Vec<String> = scene.starts.list();
    let restored_at = jiff::Timestamp::now();
    let up = scene.start();
    // A firing after the restore: a job that forbids overlap starts again.
    wait_until(DEADLINE, || {
        runs(&up).iter().any(|run| {
            let nominal: jiff::Timestamp = run["nominal"].as_str().expect("text").parse().expect("an instant");
            run["job"] == "often" && nominal > restored_at && run["outcome"] == "succeeded"
        })
    });
    // Everything of the gap is settled; only the run that still runs is open.
    let is_gap = |run: &Value| {
        let nominal: jiff::Timestamp = run["nominal"].as_str().expect("text").parse().expect("an instant");
        nominal <= restored_at
    };
    let is_open = |run: &Value| is_gap(run) && run["state"] != "finished" && run["run_id"] != long;
    wait_until(DEADLINE, || !runs(&up).iter().any(is_open));
    let all = runs(&up);
    let lost: Vec<&Value> = all.iter().filter(|run| run["outcome"] == "lost").collect();
    for run in &lost {
        let reason = run["reason"].as_str().unwrap_or_default();
        assert!(reason.starts_with("restored from a copy of 2"), "{run}");
    }
    let with_outcome = |run_id: &str| all.iter().find(|run| run_id == run["run_id"]).map(|run| run["outcome"].clone());
    for line in &started {
        let run_id = line.split(' ').nth(1).expect("a run id");
        match with_outcome(run_id) {
            Some(Value::String(outcome)) if has_directories => assert_ne!(outcome, "lost", "{line}"),
            // Without its directory, a run that was started by hand in the gap is unknown.
            Some(_) => {}
            None => assert!(!has_directories && !line.starts_with("often"), "{line}"),
        }
    }
    if !has_directories {
        assert!(!lost.is_empty(), "{all:?}");
        let is_about_lost = |alert: &Value| alert["reason"].as_str().is_some_and(|reason| reason.contains("lost"));
        let is_lost = |alert: &Value| alert["kind"] == "lost" || (alert["kind"] == "digest" && is_about_lost(alert));
        wait_until(DEADLINE, || alerts(&scene.alert_file).iter().any(is_lost));
    }
    let new: Vec<String> = scene.starts.list().split_off(started.len());
    assert!(new.iter().all(|line| line.starts_with("often")), "started again: {new:?}");
    scene.starts.check_each_is_one();
    up.run(&["ledger"]).expect(0);
    up.kill_and_keep_jobs();
}

#[test]
fn a_restored_copy_of_any_age_starts_nothing_twice_and_leaves_no_run_open() {
    let scene = Scene::new();
    let (copies, long) = scene.make_copies();
    for copy in &copies {
        check_copy(&scene, copy, &long, true);
    }
    // The run that still runs ends, and its keeper with it, before its directory is removed.
    let exit = scene.state.join(format!("runner/runs/{long}.1/exit.json"));
    fs::write(scene.folder.path("go"), "").expect("written");
    wait_until(DEADLINE, || exit.exists());
    for copy in &copies {
        check_copy(&scene, copy, &long, false);
    }
}

#[test]
fn a_run_that_continues_through_a_restore_blocks_a_second_one_and_gets_its_outcome() {
    let scene = Scene::new();
    let (copies, long) = scene.make_copies();
    // Of the time before the run was started.
    scene.restore(&copies[0]);
    let up = scene.start();
    wait_until(DEADLINE, || runs(&up).iter().any(|run| run["run_id"] == *long && run["state"] == "running"));
    let second = start_run(&up, "long");
    assert_eq!(wait_for_end(&up, &second, DEADLINE)["outcome"], "skipped");
    fs::write(scene.folder.path("go"), "").expect("written");
    let run = wait_for_end(&up, &long, DEADLINE);
    assert_eq!(run["outcome"], "succeeded", "{run}");
    assert_eq!(scene.starts.of("long"), 1);
}

#[test]
fn an_older_copy_that_is_put_back_by_hand_is_refused_and_restored_in_place() {
    let scene = Scene::new();
    let (copies, _long) = scene.make_copies();
    let ledger = scene.state.join("sexton.db");
    for name in ["sexton.db-wal", "sexton.db-shm"] {
        let _ = fs::remove_file(scene.state.join(name));
    }
    fs::copy(&copies[1], &ledger).expect("copied");
    let state = scene.state.display().to_string();
    let port = testbed::free_port().to_string();
    let refused = sexton(&["up", "--state", &state, "--listen", &port]).expect(1);
    assert!(refused.err.contains("is an older copy") && refused.err.contains("sexton restore"), "{}", refused.err);
    sexton(&["restore", &ledger.display().to_string(), "--state", &state]).expect(0);
    let before = scene.starts.list();
    let up = scene.start();
    wait_until(DEADLINE, || scene.starts.list().len() > before.len());
    scene.starts.check_each_is_one();
    // A restore needs a stopped `up`; a backup does not.
    let refused = up.run(&["restore", &copies[1]]).expect(1);
    assert!(refused.err.contains("stop it first"), "{}", refused.err);
    fs::write(scene.folder.path("go"), "").expect("written");
}
