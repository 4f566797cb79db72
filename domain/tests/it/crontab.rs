//! Crontabs against tables: lines and the environment of their commands, faults, directives, names.

use domain::crontab::{self, Format, Options, parse};
use domain::fault::{Faults, Level};
use domain::job::{CatchUp, Command, Concurrency, Job};
use domain::job_files;
use domain::mailto::MailSettings;
use domain::run::Outcome;
use domain::zones::HostZone;
use std::time::Duration;

fn user(text: &str) -> (Vec<Job>, Faults) {
    parse("crontab", text, Format::User)
}

/// The jobs of a crontab without faults.
fn jobs(text: &str) -> Vec<Job> {
    let (jobs, faults) = user(text);
    assert!(!faults.has_faults(), "{text}: {faults}");
    jobs
}

fn job(text: &str) -> Job {
    let mut jobs = jobs(text);
    assert_eq!(jobs.len(), 1, "{text}");
    jobs.remove(0)
}

fn shell(job: &Job) -> &str {
    match &job.command {
        Command::Shell(text) => text,
        Command::Argv(_) => panic!("a crontab has shell commands only"),
    }
}

/// Expects one fault, on this line, with this text.
fn check_fault(text: &str, format: Format, line: u32, message: &str) {
    let (_, faults) = parse("crontab", text, format);
    let found: Vec<String> =
        faults.0.iter().filter(|fault| fault.level == Level::Fault).map(ToString::to_string).collect();
    assert_eq!(found.len(), 1, "{text}: {found:?}");
    assert!(found[0].starts_with(&format!("crontab:{line}: ")) && found[0].contains(message), "{text}: {}", found[0]);
}

fn check_warning(text: &str, line: u32, message: &str) {
    let (_, faults) = user(text);
    let found: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 1, "{text}: {found:?}");
    assert!(
        found[0].starts_with(&format!("crontab:{line}: warning: ")) && found[0].contains(message),
        "{text}: {}",
        found[0]
    );
}

#[test]
fn the_percent_sign_splits_command_and_input_as_cron_does() {
    for (line, command, stdin) in [
        (
            "0 22 * * 1-5 mail -s \"10pm\" joe%Joe,%%Where are your kids?%",
            "mail -s \"10pm\" joe",
            Some("Joe,\n\nWhere are your kids?\n"),
        ),
        ("* * * * * date +\\%F", "date +%F", None),
        ("* * * * * a\\\\%b", "a\\\\", Some("b\n")),
        ("* * * * * echo 50\\% done%x\\%y%z", "echo 50% done", Some("x%y\nz\n")),
        ("* * * * * echo \"%H:%M\"", "echo \"", Some("H:\nM\"\n")),
        ("* * * * * a\\b%c\\d\\", "a\\b", Some("c\\d\\\n")),
        ("* * * * * a%", "a", None),
        ("* * * * * a # b", "a # b", None),
    ] {
        let job = job(&format!("{line}\n"));
        assert_eq!(shell(&job), command, "{line}");
        assert_eq!(job.stdin.as_deref(), stdin, "{line}");
    }
}

#[test]
fn assignments_read_as_cron_reads_them() {
    for (line, name, value) in [
        ("FOO = \"a b \"", "FOO", "a b "),
        ("FOO=a b  \t", "FOO", "a b"),
        ("X=1 # no comment", "X", "1 # no comment"),
        ("  X\t=\t1", "X", "1"),
        ("\"X Y\"='it is \"so\"'", "X Y", "it is \"so\""),
        ("X=", "X", ""),
        ("X=$HOME/bin", "X", "$HOME/bin"),
        ("X=a=b", "X", "a=b"),
        ("MAILTO=\"\"", "MAILTO", ""),
    ] {
        let job = job(&format!("{line}\n* * * * * env\n"));
        assert_eq!(job.env.get(name).map(String::as_str), Some(value), "{line}");
    }
}

#[test]
fn an_assignment_applies_to_later_entries_only() {
    let jobs = jobs("X=1\n0 1 * * * a\nX=2\nY=3\n0 2 * * * b\n");
    assert_eq!(jobs[0].env.get("X").map(String::as_str), Some("1"));
    assert_eq!(jobs[0].env.get("Y"), None);
    assert_eq!(jobs[1].env.get("X").map(String::as_str), Some("2"));
}

#[test]
fn the_zone_of_later_entries_is_cron_tz() {
    let jobs = jobs("0 12 * * * a\nCRON_TZ=Europe/Paris\n0 12 * * * b\nCRON_TZ=\"\"\n0 12 * * * c\n");
    assert_eq!(jobs.iter().map(|job| job.zone.as_str()).collect::<Vec<_>>(), ["UTC", "Europe/Paris", "UTC"]);
}

#[test]
fn home_is_the_working_directory() {
    let jobs = jobs("HOME=/srv\n0 1 * * * a\n# sexton: cwd=/tmp\n0 1 * * * b\n");
    assert_eq!(jobs[0].cwd.as_deref(), Some("/srv"));
    assert_eq!(jobs[1].cwd.as_deref(), Some("/tmp"));
}

#[test]
fn entries_read_in_both_formats() {
    for (format, line, schedule, user, command) in [
        (Format::User, "5  4\t* * sun  echo  a ", "5 4 * * sun", None, "echo  a "),
        (Format::User, "@daily /opt/x", "@daily", None, "/opt/x"),
        (Format::User, "@reboot\t/opt/x -v", "@reboot", None, "/opt/x -v"),
        (Format::User, "-*/15 * * * * /opt/x", "*/15 * * * *", None, "/opt/x"),
        (Format::User, "- * * * * * /opt/x", "* * * * *", None, "/opt/x"),
        (Format::User, "* * * * * -n /opt/x", "* * * * *", None, "/opt/x"),
        (Format::System, "0 5 * * * root /opt/x", "0 5 * * *", Some("root"), "/opt/x"),
        (Format::System, "@hourly www-data -n /opt/x y", "@hourly", Some("www-data"), "/opt/x y"),
        (Format::User, "0 5 * * * root /opt/x", "0 5 * * *", None, "root /opt/x"),
        (Format::User, "@every 90s /opt/x", "@every 90s", None, "/opt/x"),
        (Format::User, "@at 2026-12-24T18:00:00Z /opt/x", "@at 2026-12-24T18:00:00Z", None, "/opt/x"),
        (Format::User, "@manually FOO=1 /opt/x", "@manually", None, "FOO=1 /opt/x"),
    ] {
        let (jobs, faults) = parse("crontab", format!("{line}\n"), format);
        assert!(!faults.has_faults(), "{line}: {faults}");
        assert_eq!(jobs[0].schedule, schedule, "{line}");
        assert_eq!(jobs[0].user.as_deref(), user, "{line}");
        assert_eq!(shell(&jobs[0]), command, "{line}");
        assert_eq!(jobs[0].group, "default");
    }
}

#[test]
fn faulty_lines_are_refused_with_the_remedy() {
    for (line, message) in [
        ("0 9 * * 1", "the command is missing"),
        ("0 9 * * 1 -n", "the command is missing"),
        ("1 * * * * * /opt/x", "one * too many"),
        ("* * * *", "found 4 words"),
        ("@fortnightly x", "unknown nickname @fortnightly"),
        ("@daily", "the command is missing"),
        ("60 * * * * x", "write 0 to 59"),
        ("* 24 * * * x", "write 0 to 23"),
        ("5/15 * * * * x", "write 5-59/15"),
        ("0 22-2 * * * x", "write 22-23,0-2"),
        ("0 0 * * monday x", "write mon"),
        ("? * * * * x", "write *"),
        ("****** x", "found 2 words"),
        ("* * * * * -q x", "not an option"),
        ("X=\"a", "has no closing quote"),
        ("X=\"a\" b", "put all of the value between the quotes"),
        ("=x", "not a variable name"),
        ("a\0b", "NUL byte"),
        ("# sexton-defaults: timeout=soon", "not a duration"),
        ("# sexton-defaults: name=x", "cannot be the default"),
        ("# sexton-defaults: zone=Europe/Pari", "did you mean `Europe/Paris`?"),
    ] {
        let text = format!("{line}\n0 1 * * * good\n");
        check_fault(&text, Format::User, 1, message);
        let (jobs, _) = user(&text);
        assert_eq!(jobs.iter().map(shell).collect::<Vec<_>>(), ["good"], "{line}");
    }
}

#[test]
fn a_faulty_directive_refuses_its_entry_and_no_other() {
    for (line, message) in [
        ("# sexton: tiemout=2h", "did you mean `timeout`?"),
        ("# sexton: timeout=5", "not a duration"),
        ("# sexton: timeout", "is not key=value"),
        ("# sexton: timeout=\"2h", "has no closing quote"),
        ("# sexton: name=\"a\"b", "write a blank between"),
        ("# sexton: schedule=@daily", "unknown key"),
        ("# sexton:", "the directive is empty"),
    ] {
        let text = format!("{line}\n0 1 * * * bad\n0 2 * * * good\n");
        check_fault(&text, Format::User, 1, message);
        assert_eq!(user(&text).0.iter().map(shell).collect::<Vec<_>>(), ["good"], "{line}");
    }
}

#[test]
fn a_system_crontab_needs_its_user_column() {
    for (line, message) in [
        ("0 5 * * * /opt/x y", "is not a user"),
        ("0 5 * * * root", "a user between the schedule and the command"),
        ("0 5 * * *", "the user and the command are missing"),
        ("0 5 * * * * root /opt/x", "one * too many"),
    ] {
        check_fault(&format!("{line}\n"), Format::System, 1, message);
    }
}

#[test]
fn an_unknown_zone_is_a_fault_at_its_line_and_drops_only_its_entries() {
    let (jobs, faults) = user("CRON_TZ=Mars/Olympus\n0 1 * * * a\nCRON_TZ=UTC\n0 1 * * * b\n");
    assert_eq!(jobs.iter().map(shell).collect::<Vec<_>>(), ["b"]);
    assert_eq!(faults.0.iter().map(|fault| fault.line).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn every_fault_of_a_file_is_found_in_one_reading() {
    let (jobs, faults) = user("60 * * * * a\n0 1 * * * b\n1--5 * * * * c\nnonsense\n0 2 * * * d\n");
    assert_eq!(jobs.len(), 2);
    assert_eq!(faults.0.iter().map(|fault| fault.line).collect::<Vec<_>>(), [1, 3, 4]);
}

#[test]
fn surprising_definitions_cause_warnings() {
    for (text, line, message) in [
        ("0 1 * * * a\r\n", 1, "carriage return"),
        ("0 1 * * * a\n0 2 * * * b", 2, "no newline"),
        ("0 1 * * * date +%F\n", 1, "write \\%"),
        ("0 0 13 * 5 a\n", 1, "OR on Fridays"),
        ("*/90 * * * * a\n", 1, "larger than its range"),
        ("USER=bob\n0 1 * * * a\n", 1, "cron sets this itself"),
        ("TZ=Europe/Paris\n0 1 * * * a\n", 1, "write CRON_TZ"),
        ("MAILTO=\"a@x, b@y\"\n0 1 * * * a\n", 1, "cron refuses ` ` there and sends no mail"),
        ("RANDOM_DELAY=soon\n0 1 * * * a\n", 1, "not a number of minutes"),
        ("@every 90s a\n", 1, "cron does not know"),
        ("0 1 * * * -n a\n", 1, "no MAILTO is above"),
        ("0 1 * * * a\n# sexton: timeout=2h\n", 2, "no entry follows"),
        ("0 1 * * * a\n\n0 1 * * * a\n", 3, "the same entry as on line 1"),
    ] {
        check_warning(text, line, message);
    }
}

#[test]
fn lines_with_cr_lf_mean_the_same_as_others() {
    let (jobs, _) = user("X=1\r\n\r\n# comment\r\n0 1 * * * a b\r\n");
    assert_eq!(shell(&jobs[0]), "a b");
    assert_eq!(jobs[0].env.get("X").map(String::as_str), Some("1"));
}

#[test]
fn a_directive_sets_fields_of_the_next_entry_only() {
    let text = "# sexton: name=nightly group=db timeout=2h concurrency=forbid catch_up=once enabled=false\n\
                #sexton: description=\"Dump of 'main'\" owner='data team' rules=default,postgres\n\
                # a remark\n\
                # sexton: success_exit_codes=0,3 retries.max=2 retries.on=failed,timed_out alert.after=3\n\
                #   sexton: alert.channels=oncall needs.memory=2GiB env.LEVEL=9\n\
                X=1\n\
                30 2 * * * /opt/dump\n\
                30 3 * * * /opt/other\n";
    let jobs = jobs(text);
    let first = &jobs[0];
    assert_eq!((first.group.as_str(), first.name.as_str()), ("db", "nightly"));
    assert_eq!(first.timeout, Some(Duration::from_secs(7200)));
    assert_eq!((first.concurrency, first.catch_up, first.enabled), (Concurrency::Forbid, CatchUp::Once, false));
    assert_eq!((first.description.as_str(), first.owner.as_str()), ("Dump of 'main'", "data team"));
    assert_eq!(first.rules, ["default", "postgres"]);
    assert_eq!(first.success_exit_codes, [0, 3]);
    let retries = first.retries.as_ref().expect("retries");
    assert_eq!((retries.max, &retries.on[..]), (2, &[Outcome::Failed, Outcome::TimedOut][..]));
    assert_eq!((first.alert.after, &first.alert.channels[..]), (3, &["oncall".to_owned()][..]));
    assert_eq!(first.needs.memory, 2 << 30);
    assert_eq!(first.env.get("LEVEL").map(String::as_str), Some("9"));
    let plain = job("X=1\n30 3 * * * /opt/other\n");
    assert_eq!(jobs[1], plain);
}

#[test]
fn defaults_apply_to_all_later_entries_and_a_directive_wins() {
    let text = "0 1 * * * a\n# sexton-defaults: timeout=1h group=web\n0 2 * * * b\n# sexton: timeout=2h\n0 3 * * * c\n\
                # sexton-defaults: timeout=3h\n0 4 * * * d\n";
    let found: Vec<_> =
        jobs(text).iter().map(|job| (job.group.clone(), job.timeout.map(|limit| limit.as_secs() / 3600))).collect();
    let expected = [("default", None), ("web", Some(1)), ("web", Some(2)), ("web", Some(3))];
    assert_eq!(found, expected.map(|(group, hours)| (group.to_owned(), hours)));
}

#[test]
fn two_entries_with_the_same_name_are_a_fault() {
    let text = "# sexton: name=a\n0 1 * * * x\n# sexton: name=a\n0 2 * * * y\n# sexton: name=a group=b\n0 3 * * * z\n";
    check_fault(text, Format::User, 4, "line 2 already has a job with this name");
    assert_eq!(user(text).0.len(), 2);
}

#[test]
fn a_file_that_ends_in_toml_is_a_jobs_file() {
    let options = Options::new("/srv/jobs.toml", Format::System);
    let toml = "[[job]]\nname = \"x\"\nschedule = \"@daily\"\ncommand = \"y\"\n";
    let read = job_files::read("jobs.toml", toml, &options);
    let job = read.jobs.job(0);
    assert_eq!((job.name.as_str(), job.source.as_deref()), ("x", Some("/srv/jobs.toml")));
    let read = job_files::read("crontab", "0 5 * * * root /opt/x\n", &options);
    let job = read.jobs.job(0);
    assert_eq!((shell(&job), job.user.as_deref()), ("/opt/x", Some("root")));
}

#[test]
fn a_comment_holds_any_bytes_and_only_other_lines_that_are_not_utf_8_are_left_out() {
    let text = b"# caf\xe9\n* * * * * a\n* * * * * b \xff\n# sexton: name=\xff\n* * * * * c\n* * * * * d\n";
    let (jobs, faults) = domain::crontab::parse("crontab", text, domain::crontab::Format::User);
    let commands: Vec<String> = jobs.iter().map(|job| job.command.to_string()).collect();
    assert_eq!(commands, ["a", "d"]);
    let lines: Vec<u32> = faults.0.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [3, 4], "{faults}");
}

#[test]
fn mailto_names_who_gets_the_output_of_the_entries_below_it() {
    let text = "0 1 * * * before\nMAILTO=ops@example.org\nMAILFROM=cron@example.org\n0 2 * * * -n after\n\
                MAILTO=\"\"\n0 3 * * * unwanted\nMAILTO=a@x, b@y\n0 4 * * * refused\n";
    let (jobs, _) = user(text);
    let mail: Vec<Option<MailSettings>> = jobs.into_iter().map(|job| job.mail).collect();
    let after =
        MailSettings { to: "ops@example.org".to_owned(), from: Some("cron@example.org".to_owned()), only_failed: true };
    assert_eq!(mail, [None, Some(after), None, None]);
}

#[test]
fn the_owner_gets_the_output_of_entries_without_mailto_as_the_prefix_n_states() {
    let text = "0 1 * * * all\n0 2 * * * -n failures\n# sexton: user=web\n0 3 * * * of-web\nMAILFROM=cron@example.org\n\
                0 4 * * * -n from\nMAILTO=\"\"\n0 5 * * * unwanted\nMAILTO=ops@example.org\n0 6 * * * -n to\n";
    let options = Options { mail_owner: Some("alice"), ..Options::new("crontab", Format::User) };
    let read = crontab::read("crontab", text, &options);
    assert_eq!(read.faults.to_string(), "", "no warning about -n");
    let shown = |mail: MailSettings| {
        let from = mail.from.unwrap_or_default();
        format!("{} {}{from}", mail.to, if mail.only_failed { "-n " } else { "" }).trim_end().to_owned()
    };
    let mail: Vec<Option<String>> = read.jobs.iter().map(|job| job.mail.map(shown)).collect();
    let expected = ["alice", "alice -n", "web", "alice -n cron@example.org", "", "ops@example.org -n cron@example.org"];
    assert_eq!(mail, expected.map(|text| (!text.is_empty()).then(|| text.to_owned())));
    let without = crontab::read("crontab", "0 2 * * * -n x\n", &Options::new("crontab", Format::User));
    assert!(without.faults.to_string().contains("`-n`: -n limits the mail"), "{}", without.faults);
}

/// The zone of each job on a host in Paris, and the names of those that have it from the host.
fn zones_in_paris(file: &str, text: &str) -> (Vec<String>, Vec<String>) {
    let paris = HostZone::named("Europe/Paris");
    let read = job_files::read(file, text, &Options { host_zone: Some(&paris), ..Options::new(file, Format::User) });
    assert!(!read.faults.has_faults(), "{}", read.faults);
    let zones = read.jobs.iter().map(|job| job.zone).collect();
    let from_host = (0..read.jobs.len()).filter(|index| read.jobs.is_in_host_zone(*index));
    (zones, from_host.map(|index| read.jobs.key(index).name).collect())
}

#[test]
fn entries_of_a_crontab_have_the_zone_of_the_host_unless_another_is_named() {
    let named = |name: &str, rest: &str| format!("# sexton: name={name} {rest}\n30 9 * * * x\n");
    let text = [
        named("a", ""),
        named("b", "zone=Asia/Tokyo"),
        "CRON_TZ=America/New_York\n".to_owned(),
        named("c", ""),
        named("d", "zone=local"),
        "CRON_TZ=local\n".to_owned(),
        named("e", ""),
        "CRON_TZ=:UTC\n".to_owned(),
        named("f", ""),
        "CRON_TZ=\n# sexton-defaults: zone=Asia/Tokyo\n".to_owned(),
        named("g", ""),
        "CRON_TZ=local\n".to_owned(),
        named("i", ""),
        "CRON_TZ=\n".to_owned(),
        "# sexton-defaults: zone=Local\n".to_owned(),
        named("h", ""),
    ];
    let (zones, from_host) = zones_in_paris("crontab", &text.concat());
    let (paris, tokyo) = ("Europe/Paris", "Asia/Tokyo");
    assert_eq!(zones, [paris, tokyo, "America/New_York", paris, paris, "UTC", tokyo, paris, paris]);
    assert_eq!(from_host, ["a", "d", "e", "i", "h"]);
}

#[test]
fn jobs_of_a_jobs_file_have_utc_unless_they_name_the_zone_of_the_host() {
    let named = |name: &str, zone: &str| {
        format!("[[job]]\nname = \"{name}\"\nschedule = \"@daily\"\ncommand = \"y\"\n{zone}\n")
    };
    let text = [named("a", ""), named("b", "zone = \"local\""), named("c", "zone = \"Asia/Tokyo\"")].concat();
    let (zones, from_host) = zones_in_paris("jobs.toml", &text);
    assert_eq!(zones, ["UTC", "Europe/Paris", "Asia/Tokyo"]);
    assert_eq!(from_host, ["b"]);
}

#[test]
fn a_host_zone_without_a_name_is_one_fault_where_it_is_needed() {
    let nameless = HostZone(Err("the zone of this host has no name".to_owned()));
    let text = "CRON_TZ=UTC\n0 1 * * * a\nCRON_TZ=\n0 2 * * * b\n0 3 * * * c\n@reboot d\n";
    let options = Options { host_zone: Some(&nameless), ..Options::new("crontab", Format::User) };
    let read = crontab::read("crontab", text, &options);
    assert_eq!(read.jobs.iter().map(|job| job.zone).collect::<Vec<_>>(), ["UTC", "UTC"]);
    assert_eq!(
        read.faults.to_string(),
        "crontab:4: the zone of this host has no name; write CRON_TZ=, like CRON_TZ=Europe/Paris, above the entry"
    );
    let text = "[[job]]\nname = \"a\"\nschedule = \"@daily\"\ncommand = \"y\"\nzone = \"local\"\n";
    let read = job_files::read("jobs.toml", text, &options);
    assert_eq!(
        read.faults.to_string(),
        "jobs.toml:5: `local`: the zone of this host has no name; write a name, like zone = \"Europe/Paris\""
    );
}
