//! Judging the output of a job, or its absence.

use testbed::{DEADLINE, wait_until};

use crate::driver::{Folder, Up, shell_output};
use crate::evidence::{
    KEEPER_BYTES_MAX, LONG_DEADLINE, UP_BYTES_MAX, alerts, check_ledger, directory, job, keeper, pager,
    peak_memory_bytes, show, start_run, wait_for_end, wait_for_recorded_alerts,
};

/// Bytes of each line, with its newline.
const LINE_BYTES: u64 = 100;

/// 50 MB by default; the guarantee is about 5 GB, which `SEXTON_FLOOD_BYTES` can set.
fn flood_bytes() -> u64 {
    std::env::var("SEXTON_FLOOD_BYTES").ok().and_then(|text| text.parse().ok()).unwrap_or(50_000_000)
}

#[test]
fn a_traceback_in_the_middle_of_a_flood_that_exits_0_is_a_false_success_with_its_line_and_seq() {
    let half = flood_bytes() / 2 / LINE_BYTES;
    let folder = Folder::new();
    let flood = format!("yes {} | head -n {half}", "x".repeat(LINE_BYTES as usize - 1));
    let script = format!("{flood}; echo 'Traceback (most recent call last):' >&2; sleep 0.2; {flood}; exit 0");
    let (configuration, alert_file) = pager(&folder);
    let jobs = folder.write("jobs.toml", &job("liar", &script, "rules = [\"default\", \"python\"]"));
    let state = folder.path("state");
    let up = Up::start(&state, &["--jobs", &jobs, "--config", &configuration]);
    let run_id = start_run(&up, "liar");
    let keeper = keeper(&state, &run_id);
    let (mut keeper_bytes, mut up_bytes) = (0, 0);
    wait_until(LONG_DEADLINE, || {
        keeper_bytes = keeper_bytes.max(peak_memory_bytes(keeper));
        up_bytes = up_bytes.max(peak_memory_bytes(up.pid()));
        show(&up, &run_id)["state"] == "finished"
    });
    let run = show(&up, &run_id);
    assert_eq!((&run["outcome"], &run["exit_code"]), (&"false_success".into(), &0.into()), "{run}");
    assert_eq!((&run["last_seq"], &run["judged_on"]), (&(2 * half + 1).into(), &"all".into()), "{run}");
    let rule = &run["rules"][0];
    // The two streams are two pipes, so the order of reads can differ by the content of a pipe.
    let seq = rule["first_seq"].as_u64().expect("a number");
    assert!(seq.abs_diff(half + 1) <= (128 << 10) / LINE_BYTES, "line {seq} instead of {}: {run}", half + 1);
    assert_eq!(rule["first_line"], "Traceback (most recent call last):", "{run}");
    let at = shell_output(&format!("grep -hbn Traceback {}/spool/*.log | wc -l", directory(&state, &run_id).display()));
    assert_eq!(at.trim(), "1");
    let reason = run["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(&format!("line {seq} matches python.traceback")), "{reason}");
    wait_until(DEADLINE, || alerts(&alert_file).iter().any(|alert| alert["kind"] == "false_success"));
    assert!((1..KEEPER_BYTES_MAX).contains(&keeper_bytes), "the keeper took {keeper_bytes} bytes");
    assert!((1..UP_BYTES_MAX).contains(&up_bytes), "up took {up_bytes} bytes");
    println!("{} bytes: keeper {keeper_bytes}, up {up_bytes} bytes of memory", 2 * half * LINE_BYTES);
}

#[test]
fn a_job_without_output_for_an_hour_is_alerted_once_and_runs_to_its_end() {
    let folder = Folder::new();
    let go = folder.path("go");
    let (configuration, alert_file) = pager(&folder);
    let script = format!("echo one; while [ ! -e {} ]; do sleep 0.05; done; echo two", go.display());
    let jobs = folder.write("jobs.toml", &job("silent", &script, "quiet_limit = \"1h\""));
    let state = folder.path("state");
    let arguments = ["--jobs", &*jobs, "--config", &*configuration];
    let up = Up::start(&state, &arguments);
    let run_id = start_run(&up, "silent");
    wait_until(DEADLINE, || up.run(&["logs", &run_id]).text() == "one\n");
    assert_eq!(alerts(&alert_file).len(), 0);

    // An hour of silence is measured by the time of the last write to the spool, so that time is changed.
    let segment = directory(&state, &run_id).join("spool/00000000000000000001.log");
    shell_output(&format!("touch -d '61 minutes ago' {}", segment.display()));
    wait_until(DEADLINE, || !alerts(&alert_file).is_empty());
    assert_eq!(
        (&alerts(&alert_file)[0]["kind"], &alerts(&alert_file)[0]["run_id"]),
        (&"quiet".into(), &(&*run_id).into())
    );
    wait_for_recorded_alerts(&state);

    // A restart of `up` neither ends the silent run nor repeats the alert.
    up.kill_and_keep_jobs();
    let up = Up::start(&state, &arguments);
    let run = show(&up, &run_id);
    assert_eq!((&run["state"], &run["outcome"]), (&"running".into(), &serde_json::Value::Null), "{run}");
    assert!(peak_memory_bytes(keeper(&state, &run_id)) < KEEPER_BYTES_MAX);
    assert!(peak_memory_bytes(up.pid()) < UP_BYTES_MAX);
    std::fs::write(&go, "").expect("written");
    let run = wait_for_end(&up, &run_id, DEADLINE);
    assert_eq!((&run["outcome"], &run["last_seq"]), (&"succeeded".into(), &2.into()), "{run}");
    check_ledger(&up);
    assert_eq!(
        alerts(&alert_file).iter().filter(|alert| alert["kind"] == "quiet").count(),
        1,
        "{:?}",
        alerts(&alert_file)
    );
}
