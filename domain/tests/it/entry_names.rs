//! Names, groups and former names of entries of a crontab that have no name.

use domain::crontab::{FileContent, Format, Options, Place, read};
use domain::job::{Job, JobKey};
use domain::jobs_file::fields;
use jiff::Timestamp;

const SOURCE: &str = "/srv/app/crontab";

fn content(options: &Options<'_>, text: &str) -> FileContent {
    let content = read("shown", text, options);
    assert!(!content.faults.has_faults(), "{text}: {}", content.faults);
    content
}

fn keys(options: &Options<'_>, text: &str) -> Vec<String> {
    content(options, text).jobs.iter().map(|job| job.key().to_string()).collect()
}

#[track_caller]
fn only(options: &Options<'_>, text: &str) -> Job {
    let jobs = content(options, text).jobs;
    assert_eq!(jobs.len(), 1, "{text}");
    jobs.job(0)
}

#[test]
fn an_entry_is_named_after_file_and_program_and_keeps_its_name_when_its_schedule_changes() {
    let options = Options::new(SOURCE, Format::User);
    let before = keys(&options, "0 5 * * * /opt/bin/report --all\n");
    assert!(before[0].starts_with("default/crontab-report-"), "{before:?}");
    for text in ["30 6 * * 1 /opt/bin/report --all\n", "@daily /opt/bin/report --all\n"] {
        assert_eq!(keys(&options, text), before, "{text}");
    }
    let among = keys(&options, "0 4 * * * x\nA=1\n0 5 * * *  /opt/bin/report --all\n0 6 * * * y\n");
    assert_eq!(among[1], before[0]);
}

#[test]
fn file_user_and_command_are_the_identity_of_an_entry() {
    let system = |source, user: &str| {
        let options = Options::new(source, Format::System);
        only(&options, &format!("0 5 * * * {user} /opt/x --all\n")).name
    };
    let user =
        |source, command: &str| only(&Options::new(source, Format::User), &format!("0 5 * * * {command}\n")).name;
    let names = [
        system("/etc/crontab", "root"),
        system("/etc/crontab", "daemon"),
        system("/etc/crontab2", "root"),
        user("/a/crontab", "/opt/x --all"),
        user("/b/crontab", "/opt/x --all"),
        user("/b/crontab", "/opt/x"),
        user("/b/crontab", "/opt/x%input"),
    ];
    for (at, name) in names.iter().enumerate() {
        assert!(!names[..at].contains(name), "{names:?}");
    }
    let spool = |name| Options { user: Some(name), ..Options::new("/var/spool/cron/crontabs/x", Format::User) };
    let of_user = |name| only(&spool(name), "0 5 * * * /opt/x\n");
    assert_ne!(of_user("daemon").name, of_user("bin").name);
    assert_eq!(of_user("daemon").user.as_deref(), Some("daemon"));
}

#[test]
fn equal_entries_are_numbered_in_the_order_of_the_file_also_when_one_is_faulty() {
    let options = Options::new(SOURCE, Format::User);
    let content_of = |text: &str| read("shown", text, &options);
    let two = content_of("0 5 * * * /opt/x\n0 17 * * * /opt/x\n");
    let first = two.jobs.job(0).name.clone();
    assert_eq!((two.jobs.key(1).name, two.jobs.job(1).schedule), (format!("{first}-2"), "0 17 * * *".to_owned()));
    assert_eq!(two.faults.to_string(), "", "two schedules of one command are common");
    let three = content_of("0 5 * * * /opt/x\n61 * * * * /opt/x\n0 5 * * * /opt/x\n");
    let names: Vec<String> = three.jobs.keys().map(|key| key.name).collect();
    assert_eq!(names, [first.clone(), format!("{first}-3")]);
    let warning = three.faults.to_string();
    assert!(warning.contains("the same entry as on line 1, so it also runs as"), "{warning}");
    let named = content_of(&format!("# sexton: name={first}\n0 5 * * * y\n0 5 * * * /opt/x\n"));
    assert_eq!(named.jobs.key(1).name, format!("{first}-2"));
}

#[test]
fn the_file_name_is_the_group_of_entries_in_a_directory() {
    fn in_directory(source: &str) -> Options<'_> {
        Options { place: Place::Directory, ..Options::new(source, Format::System) }
    }
    let text = "9 * * * * root [ -x /usr/lib/php/sessionclean ] && /usr/lib/php/sessionclean\n";
    let key = keys(&in_directory("/etc/cron.d/php"), text).remove(0);
    assert!(key.starts_with("php/sessionclean-"), "{key}");
    let own_group = format!("# sexton: group=web\n{text}");
    assert!(keys(&in_directory("/etc/cron.d/php"), &own_group)[0].starts_with("web/sessionclean-"));
    let named = format!("# sexton: name=clean\n{text}");
    assert_eq!(keys(&in_directory("/etc/cron.d/php"), &named), ["php/clean"]);
    let requested = Options { group: Some("all"), ..in_directory("/etc/cron.d/php") };
    assert!(keys(&requested, text)[0].starts_with("all/sessionclean-"));
    for (file, group) in [("sexton", "sexton_"), ("-x", "x"), ("a@b", "a_b"), (&"g".repeat(60), &"g".repeat(48))] {
        let source = format!("/etc/cron.d/{file}");
        assert_eq!(only(&in_directory(&source), text).group, group, "{file}");
    }
}

#[test]
fn default_names_are_legal_and_short_enough() {
    let long = "very-long-program-name-that-has-no-end.sh".repeat(3);
    for (source, command, start) in [
        ("/x/e2scrub_all", "/sbin/e2scrub_all -A", "e2scrub_all-"),
        ("/x/certbot-renew", "certbot -q renew", "certbot-renew-"),
        ("/x/munin", "munin-cron", "munin-cron-"),
        ("standard input", "/opt/x", "x-"),
        ("/x/été crontab", "/opt/x", "tcrontab-x-"),
        ("/x/ü", "ü", "job-"),
        ("/x/an-equally-long-name-of-a-file-without-an-end", &*long, "an-equally"),
    ] {
        let text = format!("0 5 * * * {command}\n").repeat(3);
        for job in content(&Options::new(source, Format::User), &text).jobs.iter() {
            assert!(job.name.starts_with(start), "{source}: {}", job.name);
            assert_eq!(fields::check_name("name", &job.name), Ok(()), "{source}");
        }
    }
}

#[test]
fn a_former_name_is_that_of_the_build_before_with_its_number() {
    let options = Options::new(SOURCE, Format::User);
    let text = "*/5 * * * * backup.sh\n*/5 * * * * backup.sh\n0 1 * * * backup.sh\n";
    let content = content(&options, text);
    let former: Vec<String> =
        (0..3).map(|index| content.jobs.former_names(index).last().expect("one").to_string()).collect();
    assert_eq!(former[..2], ["default/backup.sh-fd223879", "default/backup.sh-fd223879-2"]);
    assert!(former[2].starts_with("default/backup.sh-") && former[2].len() == former[0].len(), "{former:?}");
    // A file that was named itself, and then its directory.
    let in_directory = Options { place: Place::Directory, ..options };
    let other = read("shown", text, &in_directory);
    assert!(other.jobs.former_names(0).contains(&content.jobs.key(0)));
    assert!(content.jobs.former_names(0).contains(&other.jobs.key(0)));
    let named = read("shown", "# sexton: name=x\n* * * * * y\n", &options);
    assert!(named.jobs.former_names(0).is_empty());
}

#[test]
fn the_minute_of_a_hashed_schedule_stays_that_of_the_former_name() {
    let schedule = |job: &Job| fields::schedule(job, Timestamp::UNIX_EPOCH).expect("a schedule").resolved().to_owned();
    let options = Options::new(SOURCE, Format::User);
    let job = only(&options, "H H * * * backup.sh\n");
    let former = content(&options, "H H * * * backup.sh\n").jobs.former_names(0).last().expect("one").clone();
    let stored = Job { name: former.name, seed: None, ..job.clone() };
    assert_eq!(schedule(&job), schedule(&stored));
    assert_eq!(only(&options, "5 * * * * backup.sh\n").seed, None);
}

#[test]
fn entries_of_a_crontab_of_a_user_run_as_no_other_user() {
    let options = Options { user: Some("daemon"), ..Options::new("/var/spool/cron/crontabs/daemon", Format::User) };
    for line in ["# sexton: user=root", "# sexton-defaults: user=root", "#sexton: name=x user=daemon"] {
        let content = read("shown", format!("{line}\n* * * * * x\n"), &options);
        let faults = content.faults.to_string();
        assert!(faults.starts_with("shown:1: `user`: this is the crontab of `daemon`"), "{line}: {faults}");
        assert!(content.jobs.iter().all(|job| job.user.as_deref() == Some("daemon")), "{line}");
    }
}

#[test]
fn the_group_of_alerts_about_sexton_is_reserved() {
    let options = Options::new(SOURCE, Format::User);
    for line in ["# sexton: group=sexton", "# sexton-defaults: group=sexton"] {
        let content = read("shown", format!("{line}\n* * * * * x\n"), &options);
        assert!(content.faults.to_string().contains("the group `sexton` is reserved"), "{}", content.faults);
        assert!(content.jobs.iter().all(|job| job.key() != JobKey::new("sexton", &job.name)));
    }
    let toml = "[[job]]\ngroup = \"sexton\"\nname = \"x\"\nschedule = \"@daily\"\ncommand = \"y\"\n";
    let (jobs, faults) = domain::jobs_file::parse("jobs.toml", toml);
    assert!(jobs.is_empty() && faults.to_string().contains("is reserved"), "{faults}");
}
