//! The binary is replaced while jobs run, and state directories of an older or a newer build are used.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testbed::{DEADLINE, wait_until};

use crate::driver::{Folder, Up};
use crate::evidence::{directory, job, keeper, show, start_run, wait_for_end};

const BINARY: &str = env!("CARGO_BIN_EXE_sexton");

/// Replaces the binary atomically, like a package manager.
fn install(place: &Path) {
    let fresh = place.with_extension("new");
    std::fs::copy(BINARY, &fresh).expect("copied");
    std::fs::rename(&fresh, place).expect("renamed");
}

#[test]
fn jobs_continue_under_their_old_keepers_when_the_binary_is_replaced() {
    let folder = Folder::new();
    let (binary, state, go) = (folder.path("sexton"), folder.path("state"), folder.path("go"));
    let wait = format!("echo started; while [ ! -e {} ]; do sleep 0.05; done; echo done; exit 7", go.display());
    let jobs = folder.write("jobs.toml", &[job("long", &wait, ""), job("short", "echo short", "")].concat());
    install(&binary);
    let up = Up::start_as(&binary, &state, &["--jobs", &jobs]);
    let long = start_run(&up, "long");
    wait_until(DEADLINE, || up.run(&["logs", &long]).out == b"started\n");
    let old = keeper(&state, &long);

    let inode = std::fs::metadata(&binary).expect("there").ino();
    install(&binary);
    assert_ne!(std::fs::metadata(&binary).expect("there").ino(), inode, "another file");
    let short = start_run(&up, "short");
    assert_eq!(
        wait_for_end(&up, &short, DEADLINE)["outcome"],
        "succeeded",
        "the old `up` continues until it is restarted"
    );

    assert_eq!(up.stop_and_keep_jobs(), Some(0));
    let up = Up::start_as(&binary, &state, &["--jobs", &jobs]);
    let exe = std::fs::read_link(format!("/proc/{old}/exe")).expect("the old keeper is alive");
    assert!(exe.to_string_lossy().ends_with("(deleted)"), "{exe:?}");
    assert_eq!(show(&up, &long)["outcome"], Value::Null);
    let short = start_run(&up, "short");
    assert_eq!(wait_for_end(&up, &short, DEADLINE)["outcome"], "succeeded");
    std::fs::write(&go, "").expect("written");
    let run = wait_for_end(&up, &long, DEADLINE);
    assert_eq!(
        (&run["outcome"], &run["exit_code"], &run["attempt"]),
        (&json!("failed"), &json!(7), &json!(1)),
        "{run}"
    );
    assert_eq!(up.run(&["logs", &long]).expect(0).out, b"started\ndone\n");
    up.run(&["ledger"]).expect(0);
}

/// A state directory of the first release, which was killed: one run had ended, one had not.
const FIRST_RELEASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/first_release");
const FIRST_DATABASE: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../backends/embedded/tests/version_1.sql"));
const ENDED: &str = "20261124T014157Z-d204fb4c55a0";
const CUT_OFF: &str = "20261124T014158Z-3b6b8d69d3a9";

fn first_release(folder: &Folder) -> PathBuf {
    let state = folder.path("state");
    let copied = std::process::Command::new("cp").arg("-a").arg(FIRST_RELEASE).arg(&state).status().expect("cp");
    assert!(copied.success());
    // Its queues were empty.
    let statements = format!("{FIRST_DATABASE}; DELETE FROM orders; DELETE FROM reports");
    embedded::edit_by_hand(&state.join("sexton.db"), &statements).expect("made");
    state
}

/// The runner's name in that directory, and retention that keeps its old runs.
const KEEP_ALL: &str = "[runner]\nname = \"vm\"\nretention = \"36500d\"\n[history]\nkeep = \"36500d\"\n";

#[test]
fn a_state_directory_of_the_first_release_is_resumed() {
    let folder = Folder::new();
    let state = first_release(&folder);
    let config = folder.write("sexton.toml", KEEP_ALL);
    let up = Up::start(&state, &["--config", &config]);
    let ended = show(&up, ENDED);
    assert_eq!((&ended["outcome"], &ended["stdout_lines"]), (&json!("succeeded"), &json!(2)), "{ended}");
    assert_eq!(up.run(&["logs", ENDED, "--stream", "stdout"]).expect(0).out, b"begins\nends\n");
    let cut_off = wait_for_end(&up, CUT_OFF, DEADLINE);
    assert_eq!((&cut_off["outcome"], &cut_off["last_seq"]), (&json!("lost"), &json!(1)), "{cut_off}");
    assert_eq!(up.run(&["logs", CUT_OFF]).expect(0).out, b"waits\n");
    assert_eq!(up.records(&["jobs"]).len(), 3);
    up.run(&["ledger"]).expect(0);
}

#[test]
fn a_run_of_a_newer_build_is_reported_and_left_unchanged() {
    let folder = Folder::new();
    let state = first_release(&folder);
    let config = folder.write("sexton.toml", KEEP_ALL);
    let order = directory(&state, CUT_OFF).join("order.json");
    let before = std::fs::read_to_string(&order).expect("there").replacen("\"version\":1,", "\"version\":99,", 1);
    std::fs::write(&order, &before).expect("written");
    let up = Up::start(&state, &["--config", &config]);
    wait_until(DEADLINE, || up.printed().contains("order.json has version 99, and this build reads up to"));
    assert!(up.printed().contains("start a newer build, which finishes the run"), "{}", up.printed());
    assert_eq!(show(&up, CUT_OFF)["outcome"], Value::Null);
    // Other runs are resumed.
    assert_eq!(up.run(&["logs", ENDED, "--stream", "stdout"]).expect(0).out, b"begins\nends\n");
    assert_eq!(std::fs::read_to_string(&order).expect("there"), before);
    assert!(!directory(&state, CUT_OFF).join("finished.json").exists());
}
