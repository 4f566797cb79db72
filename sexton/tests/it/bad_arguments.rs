//! Arguments that name nothing: unknown jobs, groups and runs, instants that make no sense. Each gets one sentence with
//! the remedy, and no numbers of system errors or nanoseconds.

use crate::driver::{Folder, Up, sexton};

const CRONTAB: &str = "\
# sexton: name=nightly group=db\n\
@manually echo done\n\
# sexton: name=weekly group=web\n\
@manually true\n";

#[test]
fn an_unknown_name_gets_one_sentence_with_the_nearest_name() {
    let folder = Folder::new();
    let tab = folder.write("crontab", CRONTAB);
    let up = Up::start(&folder.path("state"), &["--crontab", &tab]);
    for (line, message) in [
        ("logs db/nightl", "no job db/nightl; did you mean db/nightly?"),
        ("logs web/nightly", "no job web/nightly; did you mean db/nightly?"),
        ("logs nightli", "no group has a job `nightli`; did you mean db/nightly?"),
        ("logs x/y", "no job x/y; `sexton jobs` lists all jobs as GROUP/NAME"),
        ("logs db/nightly", "no run of db/nightly has started; `sexton jobs` lists jobs with their next firing"),
        ("jobs --group wep", "no job is in a group `wep`; did you mean web?"),
        ("jobs weekly", "no job is in a group `weekly`; did you mean the job web/weekly?"),
        ("jobs --group elsewhere --json", "no job is in a group `elsewhere`; groups with jobs: db, web"),
        ("runs elsewhere", "no job is in a group `elsewhere`; groups with jobs: db, web"),
        ("runs web/weekli", "no job web/weekli; did you mean web/weekly?"),
        ("job pause db/weekly", "no job db/weekly; did you mean web/weekly?"),
        ("job resume db/nightlyy", "no job db/nightlyy; did you mean db/nightly?"),
        ("job show db/nope", "no job db/nope; `sexton jobs` lists all jobs as GROUP/NAME"),
        ("job remove weeklyy", "no group has a job `weeklyy`; did you mean web/weekly?"),
        ("run web/weekl", "no job web/weekl; did you mean web/weekly?"),
        ("run nope", "no group has a job `nope`; `sexton jobs` lists all jobs as GROUP/NAME"),
        ("show db/nightly", "`db/nightly` is a job, not a run id; `sexton runs db/nightly` lists its runs"),
        ("show 20200101T000000Z-000000000000", "no run 20200101T000000Z-000000000000; `sexton runs` lists the"),
        ("stop nope", "`nope` is not a run id; write it as printed by `sexton runs`"),
    ] {
        let refused = up.run(&line.split(' ').collect::<Vec<_>>()).expect(2);
        assert!(refused.err.starts_with(message) && refused.err.lines().count() == 1, "{line}: {}", refused.err);
        assert!(refused.out.is_empty(), "{line}: {}", refused.text());
    }
    for line in ["jobs --group web", "jobs web --bad", "runs db", "runs web/weekly", "runs --outcome failed"] {
        let empty = up.run(&line.split(' ').collect::<Vec<_>>()).expect(0);
        assert_eq!(empty.err, "", "{line}");
    }
    // A deleted job has its history, also where a filter leaves nothing of it.
    up.run(&["run", "weekly", "--wait"]).expect(0);
    up.run(&["job", "remove", "weekly"]).expect(0);
    up.run(&["runs", "web/weekly", "--outcome", "failed"]).expect(0);
    up.run(&["runs", "web", "--outcome", "failed"]).expect(0);
    // A window may come before its group.
    let on = up.run(&["maintenance", "on", "--group", "bd", "--why", "move"]).expect(0);
    assert_eq!(on.err, "warning: no job is in a group `bd`; did you mean db?\n");
    let off = up.run(&["maintenance", "off", "--group", "bd"]).expect(0);
    assert_eq!(off.err, "");
    let none = up.run(&["maintenance", "--group", "bd"]).expect(0);
    assert_eq!(none.text(), "no maintenance window of group bd is on\n");
}

#[test]
fn who_paused_a_job_or_started_a_window_is_shown() {
    let folder = Folder::new();
    let tab = folder.write("crontab", CRONTAB);
    let up = Up::start(&folder.path("state"), &["--crontab", &tab]);
    up.run(&["job", "pause", "nightly", "--until", "2h", "--why", "the disk is full"]).expect(0);
    let record = up.records(&["job", "show", "nightly"]).remove(0);
    let by = record["paused"]["by"].as_str().expect("a user").to_owned();
    assert!(by.starts_with("user:"), "{by}");
    let until = record["paused"]["until"].as_str().expect("an end");
    assert!(!until.contains('.'), "whole seconds: {until}");
    let shown = up.run(&["job", "show", "nightly"]).expect(0).text();
    let paused = shown.lines().find(|line| line.starts_with("paused")).expect("a line");
    assert!(paused.contains("since ") && paused.contains(&format!(", by {by}, until ")), "{paused}");
    assert!(paused.ends_with(": the disk is full"), "{paused}");
    up.run(&["maintenance", "on", "--why", "move"]).expect(0);
    let status = up.run(&["status"]).expect(0).text();
    let line = status.lines().find(|line| line.contains("maintenance of all groups since ")).expect("a line");
    assert!(line.contains(&format!(" by {by}")) && line.ends_with(": move"), "{line}");
    assert!(up.run(&["maintenance"]).expect(0).text().contains(&by));
    let shown = up.run(&["job", "show", "weekly"]).expect(0).text();
    assert!(shown.lines().any(|line| line.starts_with("maintenance") && line.contains(&by)), "{shown}");
}

#[test]
fn an_instant_that_makes_no_sense_gets_the_remedy_of_its_option() {
    let folder = Folder::new();
    let tab = folder.write("crontab", CRONTAB);
    let up = Up::start(&folder.path("state"), &["--crontab", &tab]);
    let pause = ["job pause nightly --until", "maintenance on --until"];
    let span = ["runs --since", "runs --until", "ledger --since"];
    for (value, of_pause, of_span) in [
        ("tomorrow", Some("or a duration from now like 2h"), Some("or a duration ago like 2h")),
        ("24:00", Some("or a duration from now like 2h"), Some("or a duration ago like 2h")),
        ("1e3", Some("or a duration from now like 2h"), Some("or a duration ago like 2h")),
        ("0s", Some("`0s` ends at its start; write a duration from now like 2h"), None),
        ("now", Some("`now` ends at its start"), None),
        ("-1h", Some("`-1h` is negative; write 1h for 1h from now"), Some("`-1h` is negative; write 1h for 1h ago")),
        ("2020-01-01", Some("which has passed; write a later instant, or a duration from now like 2h"), None),
        ("99999999999d", Some("is longer than 100 years"), Some("is longer than 100 years")),
    ] {
        let commands = pause.iter().map(|line| (line, of_pause)).chain(span.iter().map(|line| (line, of_span)));
        for (line, wanted) in commands {
            let words: Vec<&str> = line.split(' ').chain([value]).collect();
            let Some(wanted) = wanted else {
                up.run(&words).expect(0);
                continue;
            };
            let refused = up.run(&words).expect(2);
            assert!(refused.err.contains(wanted) && refused.err.lines().count() == 1, "{words:?}: {}", refused.err);
            assert!(refused.out.is_empty(), "{words:?}");
        }
    }
    assert!(up.records(&["jobs"]).iter().all(|job| job.get("paused").is_none()));
    let paused = up.run(&["job", "pause", "nightly", "--until", "1ms"]).expect(0);
    assert_eq!(paused.text(), "db/nightly paused\n");
    for (line, wanted) in [
        ("runs --since 1h --until 2h", "--until 2h ("),
        (
            "ledger --since 2026-01-02 --until 2026-01-01",
            "--until 2026-01-01 is not after --since 2026-01-02; swap them",
        ),
    ] {
        let refused = up.run(&line.split(' ').collect::<Vec<_>>()).expect(2);
        assert!(refused.err.contains(wanted), "{line}: {}", refused.err);
    }
    let plan = sexton(&["plan", &tab, "--from", "now", "--to", "24h"]).expect(2);
    assert!(plan.err.contains("a duration counts back from now, so write an instant for a later one"), "{}", plan.err);
    let next = sexton(&["next", "db/nightly"]).expect(2);
    assert!(next.err.contains("`sexton job show` shows the next firing of a job"), "{}", next.err);
}
