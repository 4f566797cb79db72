//! Runs that wait, and instants that have passed: what the commands refuse, list and state as the reason.

use serde_json::Value;
use testbed::{DEADLINE, wait_for, wait_until};

use crate::driver::{Folder, Up};

#[test]
fn pauses_and_windows_end_in_the_future_and_are_listed_with_who_started_them() {
    let folder = Folder::new();
    let tab = "# sexton: name=a group=db\n0 3 * * * true\n# sexton: name=b group=web\n0 3 * * * true\n";
    let tab = folder.write("crontab", tab);
    let up = Up::start(&folder.path("state"), &["--crontab", &tab]);
    let past = (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1)).to_string();
    for refused in [
        &["maintenance", "on", "--until", &past][..],
        &["maintenance", "on", "--until", "0s"],
        &["maintenance", "on", "--group", "no/group"],
        &["maintenance", "off", "--until", "2h"],
        &["maintenance", "--why", "new disks"],
        &["job", "pause", "db/a", "--until", &past],
        &["job", "pause", "db/a", "--until", "now"],
        &["runs", "--since", "1h", "--until", "2h"],
        &["ledger", "--since", &past, "--until", &past],
    ] {
        let output = up.run(refused).expect(2);
        assert_eq!(output.err.lines().count(), 1, "{refused:?}: {}", output.err);
    }
    assert_eq!(up.run(&["maintenance"]).expect(0).text(), "no maintenance window is on\n");
    assert!(up.run(&["maintenance", "off"]).expect(0).text().contains("no maintenance window of all groups was on"));

    up.run(&["maintenance", "on", "--group", "db", "--until", "2h", "--why", "new disks"]).expect(0);
    let windows = up.records(&["maintenance"]);
    let window = windows.first().expect("one window");
    let user = keeper::user_name(rustix::process::geteuid().as_raw()).expect("this user has a name");
    assert_eq!((&window["group"], &window["by"]), (&"db".into(), &format!("user:{user}").into()), "{window}");
    let listed = up.run(&["maintenance"]).expect(0).text();
    assert!(listed.contains(&format!("user:{user}")) && listed.contains("new disks"), "{listed}");
    assert_eq!(up.records(&["maintenance", "--group", "web"]), Vec::<Value>::new());
    let jobs = up.run(&["jobs"]).expect(0).text();
    let line = |name: &str| jobs.lines().find(|line| line.starts_with(name)).map(str::to_owned).expect("listed");
    assert!(line("db/a").contains(" maintenance until ") && !line("web/b").contains("maintenance"), "{jobs}");
    let shown = up.run(&["job", "show", "db/a", "--json"]).expect(0).records().remove(0);
    assert!(shown["next"].as_str() > window["until"].as_str(), "{shown}");
    assert_eq!(up.run(&["maintenance", "off", "--group", "db"]).expect(0).text(), "maintenance of group db ended\n");
    assert_eq!(up.records(&["maintenance"]), Vec::<Value>::new());
}

/// The reason of a run of the job that has not ended.
fn waiting_reason(up: &Up, job: &str) -> String {
    wait_for("a reason", || {
        let run = up.records(&["runs", job]).into_iter().next()?;
        assert!(run["outcome"].is_null(), "{run}");
        let reason = run["reason"].as_str().map(str::to_owned)?;
        let shown = up.run(&["show", run["run_id"].as_str()?]).expect(0).text();
        shown.contains("reason").then_some(reason)
    })
}

#[test]
fn a_run_that_waits_states_what_for() {
    let folder = Folder::new();
    let go = folder.text("go");
    let job = |name: &str, more: &str| {
        format!(
            "[[job]]\nname = \"{name}\"\nschedule = \"@manually\"\ncommand = \"until [ -e {go} ]; do sleep 0.1; done\"\n\
             {more}\n"
        )
    };
    let jobs = [job("first", ""), job("second", ""), job("late", "start_within = \"2s\"")].concat();
    let jobs = folder.write("jobs.toml", &jobs);
    let serial = folder.write("serial.toml", "[runner]\nmode = \"serial\"\n");
    let up = Up::start(&folder.path("serial"), &["--jobs", &jobs, "--config", &serial]);
    up.run(&["run", "default/first"]).expect(0);
    let first = up.wait_for_state("default/first", "running");
    up.run(&["run", "default/second"]).expect(0);
    up.run(&["run", "default/late"]).expect(0);
    let wanted = format!("waits for run {} of default/first: ", first["run_id"].as_str().expect("an id"));
    let reason = waiting_reason(&up, "default/second");
    assert!(reason.starts_with(&wanted) && reason.contains("one job at a time"), "{reason}");
    let missed = up.wait_for_run("default/late", "missed");
    assert!(missed["reason"].as_str().is_some_and(|reason| reason.contains("one job at a time")), "{missed}");
    drop(up);

    let needs = |name: &str, cpu: u32| job(name, &format!("needs = {{ cpu = {cpu} }}"));
    let cpus = std::thread::available_parallelism().expect("known").get() as u32;
    let jobs = [needs("first", cpus), needs("second", 1), needs("third", 1)].concat();
    let jobs = folder.write("needs.toml", &jobs);
    let resources = folder.write("resources.toml", "[runner]\nmode = \"resources\"\n");
    let up = Up::start(&folder.path("resources"), &["--jobs", &jobs, "--config", &resources]);
    up.run(&["run", "default/first"]).expect(0);
    up.wait_for_state("default/first", "running");
    up.run(&["run", "default/second"]).expect(0);
    assert!(waiting_reason(&up, "default/second").starts_with("waits for 1 CPUs and "), "its needs");
    up.run(&["run", "default/third"]).expect(0);
    assert!(waiting_reason(&up, "default/third").contains("CPUs"), "what is in use");
    drop(up);

    let sinks = "[sink.central]\ntype = \"syslog\"\naddress = \"tcp://127.0.0.1:9\"\nrequired = true\n";
    let sinks = folder.write("sinks.toml", sinks);
    let up = Up::start(&folder.path("required"), &["--jobs", &jobs, "--sinks", &sinks]);
    up.run(&["run", "default/first"]).expect(0);
    let reason = waiting_reason(&up, "default/first");
    assert!(reason.contains("the required sink `central` is unreachable"), "{reason}");
    // The sink has nothing to send, and fails.
    wait_until(DEADLINE, || up.records(&["sinks"])[0]["state"] == "retrying");
    let sink = up.records(&["sinks"]).remove(0);
    assert!(sink["failing_since"].is_string() && sink["last_error"].is_string(), "{sink}");
    std::fs::write(&go, "").expect("written");
    wait_until(DEADLINE, || up.records(&["runs"]).len() == 1);
}
