//! The zone of the host and the tzdata: crontabs, output of commands, and changes while `up` runs.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use testbed::{Aiosmtpd, DEADLINE, SmtpMode, wait_until};

use crate::driver::{CommandOutput, Folder, Up, command};
use crate::evidence::page;
use crate::zone_rules::write_tzdata;

pub(crate) const NINE_THIRTY: &str = "# sexton: name=report\n30 9 * * * true\n";

/// Runs the binary with these variables.
pub(crate) fn run_with(variables: &[(&str, &str)], arguments: &[&str]) -> CommandOutput {
    let mut command = command(arguments);
    let output = command.envs(variables.iter().copied()).stdin(Stdio::null()).output().expect("the binary starts");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    CommandOutput { code: output.status.code(), out: output.stdout, err }
}

/// `up` with these variables.
fn up_with(folder: &Folder, variables: &[(&str, &str)], arguments: &[&str]) -> Up {
    let mut command: Command = command(&["up"]);
    command.args(arguments).envs(variables.iter().copied());
    Up::serve(&folder.path("state"), command)
}

fn link_zone(path: &Path, zone: &str) {
    // As `timedatectl` does: the new link replaces the old one.
    let beside = path.with_extension("new");
    symlink(format!("/usr/share/zoneinfo/{zone}"), &beside).expect("linked");
    std::fs::rename(beside, path).expect("renamed");
}

/// The first firing that `next` prints, in UTC.
fn next_firing(variables: &[(&str, &str)], arguments: &[&str]) -> Value {
    let all = [&["next", "30 9 * * *", "--count", "1", "--json"], arguments].concat();
    run_with(variables, &all).expect(0).records()[0]["at"].clone()
}

fn only_job(up: &Up) -> Value {
    let mut jobs = up.records(&["jobs"]);
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    jobs.remove(0)
}

#[test]
fn a_crontab_fires_in_the_zone_of_its_host_and_follows_its_change() {
    let folder = Folder::new();
    let (tab, localtime) = (folder.write("crontab", NINE_THIRTY), folder.path("localtime"));
    link_zone(&localtime, "Asia/Tokyo");
    let tz = folder.text("localtime");
    let up = up_with(&folder, &[("TZ", &tz)], &["--crontab", &tab]);
    assert!(up.printed().contains(&format!("1 of {tab} (zone Asia/Tokyo, from this host)")), "{}", up.printed());
    let job = only_job(&up);
    assert_eq!((&job["zone"], &job["next"]), (&"Asia/Tokyo".into(), &next_firing(&[], &["--zone", "Asia/Tokyo"])));
    link_zone(&localtime, "America/New_York");
    wait_until(DEADLINE, || only_job(&up)["zone"] == "America/New_York");
    assert_eq!(only_job(&up)["next"], next_firing(&[], &["--zone", "America/New_York"]));
    assert!(up.printed().contains("the zone of this host is America/New_York now"), "{}", up.printed());
}

#[test]
fn a_jobs_file_has_utc_unless_it_names_the_local_zone() {
    let folder = Folder::new();
    let job = |name: &str, zone: &str| {
        format!("[[job]]\nname = \"{name}\"\nschedule = \"30 9 * * *\"\ncommand = \"true\"\n{zone}\n")
    };
    let jobs = folder.write("jobs.toml", &[job("a", ""), job("b", "zone = \"local\"")].concat());
    let up = up_with(&folder, &[("TZ", "Asia/Tokyo")], &["--jobs", &jobs]);
    let zones: Vec<Value> = up.records(&["jobs"]).into_iter().map(|job| job["zone"].clone()).collect();
    assert_eq!(zones, ["UTC", "Asia/Tokyo"]);
}

#[test]
fn apply_names_the_zone_of_its_host_which_the_server_stores() {
    let folder = Folder::new();
    let idle = folder.write("jobs.toml", "");
    let up = up_with(&folder, &[("TZ", "UTC")], &["--jobs", &idle]);
    let (tab, state) = (folder.write("crontab", NINE_THIRTY), folder.text("state"));
    let apply = |zone: &str| {
        run_with(&[("TZ", zone)], &["apply", &tab, "--state", &state])
            .expect(0)
            .text()
            .lines()
            .next()
            .map(str::to_owned)
    };
    let line = "+ default/report (zone Europe/Paris, from this host)".to_owned();
    assert_eq!(apply("Europe/Paris"), Some(line));
    assert_eq!(only_job(&up)["zone"], "Europe/Paris");
    let line = "~ default/report: zone (zone Asia/Tokyo, from this host)".to_owned();
    assert!(apply("Asia/Tokyo").is_some_and(|found| found == line || found.starts_with("~ default/report")));
    assert_eq!(only_job(&up)["zone"], "Asia/Tokyo");
    folder.write("crontab", &format!("CRON_TZ=Europe/Rome\n{NINE_THIRTY}"));
    assert!(apply("Asia/Tokyo").is_some_and(|found| !found.contains("from this host")));
    assert_eq!(only_job(&up)["zone"], "Europe/Rome");
}

#[test]
fn a_host_zone_without_a_name_is_a_fault_that_asks_for_cron_tz() {
    let folder = Folder::new();
    let tab = folder.write("crontab", NINE_THIRTY);
    let rule = [("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")];
    let output = run_with(&rule, &["lint", &tab]).expect(2);
    assert!(
        output.err.contains(":2: the zone of this host has no name") && output.err.contains("CRON_TZ"),
        "{}",
        output.err
    );
    let output = run_with(&rule, &["next", "30 9 * * *"]).expect(2);
    assert!(output.err.contains("write --zone"), "{}", output.err);
    folder.write("crontab", &format!("CRON_TZ=Europe/Paris\n{NINE_THIRTY}"));
    run_with(&rule, &["lint", &tab]).expect(0);
}

#[test]
fn tables_and_messages_show_local_time_and_json_shows_utc() {
    let folder = Folder::new();
    let tab = folder.write("crontab", NINE_THIRTY);
    let up = up_with(&folder, &[], &["--crontab", &tab]);
    up.run(&["run", "default/report", "--wait"]).expect(0);
    let state = folder.text("state");
    let print = |zone: &str, arguments: &[&str]| {
        run_with(&[("TZ", zone)], &[arguments, &["--state", &state]].concat()).expect(0).text()
    };
    for arguments in [&["jobs"][..], &["runs"], &["job", "pause", "default/report", "--until", "1h"]] {
        let local = print("Asia/Tokyo", arguments);
        assert!(local.contains("+09:00") || arguments.contains(&"pause"), "{local}");
        let utc = print("Asia/Tokyo", &[arguments, &["--utc"]].concat());
        assert!(!utc.contains("+09:00"), "{utc}");
        let json = print("Asia/Tokyo", &[arguments, &["--json"]].concat());
        assert!(json.contains("Z\"") && !json.contains("+09:00"), "{json}");
    }
    let shown = print("Asia/Tokyo", &["job", "show", "default/report"]);
    let has_local_time = |line: &&str| line.starts_with("anchor") || line.starts_with("paused");
    assert_eq!(shown.lines().filter(has_local_time).filter(|line| line.contains("+09:00")).count(), 2, "{shown}");
    let paused = print("Asia/Tokyo", &["jobs"]);
    assert!(paused.lines().any(|line| line.contains("paused until") && line.contains("+09:00")), "{paused}");
    let message = print("Asia/Tokyo", &["maintenance", "on", "--until", "2h"]);
    assert!(message.contains("+09:00: "), "{message}");
}

/// The start of the minute after the next: the earliest that is still ahead when an `up` has started.
fn minute_after_next() -> Timestamp {
    Timestamp::from_second((Timestamp::now().as_second() / 60 + 2) * 60).expect("an instant")
}

#[test]
fn an_updated_tzdata_is_used_without_a_restart_and_moves_the_next_firing() {
    let folder = Folder::new();
    let tzdir = folder.text("zoneinfo");
    write_tzdata(&folder, "2999a", 0);
    let due = minute_after_next();
    // By the first release the job fires in five hours.
    let local = due.checked_add(SignedDuration::from_hours(5)).expect("an instant").strftime("%M %H");
    let tab = folder.write("crontab", &format!("CRON_TZ=Europe/Paris\n# sexton: name=report\n{local} * * * true\n"));
    let up = up_with(&folder, &[("TZDIR", &tzdir)], &["--crontab", &tab]);
    let next = || only_job(&up)["next"].as_str().and_then(|next| next.parse::<Timestamp>().ok());
    assert!(next().is_some_and(|next| next.duration_since(due) == SignedDuration::from_hours(5)), "{:?}", next());
    let metrics = || page(&folder.path("state"), "/metrics");
    assert!(metrics().contains("sexton_tzdata_info{version=\"2999a\""), "{}", metrics());
    write_tzdata(&folder, "2999b", 5);
    wait_until(DEADLINE, || metrics().contains("sexton_tzdata_info{version=\"2999b\""));
    // Up to two minutes.
    wait_until(3 * DEADLINE, || Timestamp::now() > due);
    let run = up.wait_for_run("default/report", "succeeded");
    assert_eq!(run["nominal"].as_str().and_then(|nominal| nominal.parse().ok()), Some(due), "{run}");
    assert_eq!(run["trigger"], "schedule");
}

#[test]
fn alerts_for_people_show_the_local_time_of_the_host_with_its_offset() {
    let Some(server) = Aiosmtpd::start(SmtpMode::Plain) else { return };
    let folder = Folder::new();
    let config = folder.write(
        "sexton.toml",
        &format!(
            "[channel.mail]\ntype = \"smtp\"\naddress = \"{}\"\ntls = \"none\"\n\
             from = \"sexton@example.org\"\nto = [\"oncall@example.org\"]\n",
            server.address()
        ),
    );
    let tab = folder.write("crontab", "# sexton: name=report\n30 9 * * * false\n");
    let up = up_with(&folder, &[("TZ", "Asia/Tokyo")], &["--config", &config, "--crontab", &tab]);
    up.run(&["run", "default/report", "--wait"]).expect(1);
    let mail = server.wait_for_count(1).remove(0);
    let due = mail.lines().find(|line| line.starts_with("Due at")).unwrap_or_default();
    assert!(due.trim_end().ends_with("+09:00"), "{mail}");
}
