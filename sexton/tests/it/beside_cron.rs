//! Debian's own cron and Sexton run the same crontabs beside each other, in one namespace: same minutes, same users,
//! same environment, same input, same mail, and background children live on in both.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use testbed::{DEADLINE, DebianCron, wait_until};

use crate::driver::{Folder, Up};

/// A zone whose offset is no whole hour, so that a firing by UTC cannot be right by chance.
const ZONE: &str = "Asia/Kathmandu";

/// Variables that only Sexton sets. Documented in docs/configuration.md.
const ADDED: [&str; 6] =
    ["SEXTON_RUN_ID", "SEXTON_GROUP", "SEXTON_JOB", "SEXTON_ATTEMPT", "SEXTON_NOMINAL", "SEXTON_KEEPER"];

/// The crontab of a user. `w` is the path that a command writes to: it differs for cron and Sexton. Each file is
/// complete when it has its name.
fn user_crontab(folder: &str, minute: i8, hour: i8) -> String {
    let to = format!("w={folder}/${{SEXTON_RUN_ID:+sexton.}}");
    format!(
        "MAILTO=ops@example.org\n\
         A_VALUE = '  two  blanks'\n\
         {minute} {hour} * * * {to}; {{ id -un; id -Gn; pwd; umask; date +\\%R; }} > ${{w}}facts.part; env > ${{w}}env.part; \
         mv ${{w}}facts.part ${{w}}facts; mv ${{w}}env.part ${{w}}env\n\
         * * * * * {to}; cat > ${{w}}input.part; mv ${{w}}input.part ${{w}}input%one%two\\%\n\
         * * * * * echo printed; exit 3\n\
         * * * * * {to}; (sleep 3; echo late; : > ${{w}}late) & echo started\n\
         MAILTO=\"\"\n\
         * * * * * echo unwanted\n"
    )
}

fn read(folder: &Folder, name: &str) -> String {
    std::fs::read_to_string(folder.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn variables(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Sender, recipient, subject, type and body of the mails; equal ones once.
fn mails(cron: &DebianCron, of_sexton: bool) -> Vec<String> {
    let kept = |line: &&str| ["From:", "To:", "Subject:", "Content-Type:"].iter().any(|name| line.starts_with(name));
    let mails = cron.mails().into_iter().filter(|mail| mail.contains("\nX-Sexton-Run: ") == of_sexton);
    let mut found: Vec<String> = mails
        .filter_map(|mail| {
            let (head, body) = mail.split_once("\n\n")?;
            Some(format!("{}\n\n{body}", head.lines().filter(kept).collect::<Vec<_>>().join("\n")))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn the_same_crontab_does_the_same_under_debians_cron_and_under_sexton() {
    let folder = Folder::new();
    open_to_all(&folder.path(""));
    // Far enough for both to have read their files; the check of the minute is in local time.
    let first = Timestamp::now() + SignedDuration::from_secs(80);
    let local = first.to_zoned(TimeZone::get(ZONE).expect("a zone"));
    let crontab = user_crontab(folder.text("").trim_end_matches('/'), local.minute(), local.hour());
    let system = format!(
        "* * * * * games w={0}/${{SEXTON_RUN_ID:+sexton.}}system; id -un > $w.part; mv $w.part $w\n",
        folder.text("").trim_end_matches('/')
    );
    let Some(cron) = DebianCron::start(&folder.path(""), ZONE, &[("daemon", &crontab)], &[("packaged", &system)])
    else {
        return;
    };
    let mut command: Command = cron.beside(env!("CARGO_BIN_EXE_sexton"));
    command.env_remove("TZ").env_remove("SEXTON_CONFIG");
    command.args(["up", "--crontab", "/var/spool/cron/crontabs/daemon", "--crontab", "/etc/cron.d/packaged"]);
    let up = Up::serve(&folder.path("state"), command);

    let both = |name: &str| folder.path(name).exists() && folder.path(&format!("sexton.{name}")).exists();
    let minutes = DEADLINE + std::time::Duration::from_secs(150);
    for name in ["facts", "env", "input", "late", "system"] {
        wait_until(minutes, || both(name) || up.printed().contains("panicked"));
    }
    for name in ["facts", "input", "system"] {
        assert_eq!(read(&folder, &format!("sexton.{name}")), read(&folder, name), "{name}\n{}", up.printed());
    }
    assert_eq!(read(&folder, "input"), "one\ntwo%\n");

    let (by_cron, mut by_sexton) = (variables(&read(&folder, "env")), variables(&read(&folder, "sexton.env")));
    for name in ADDED {
        assert!(by_sexton.remove(name).is_some(), "{name} is missing");
    }
    assert_eq!(by_sexton.remove("USER"), by_cron.get("LOGNAME").cloned(), "USER is an addition of Sexton");
    let path = by_sexton.remove("PATH").unwrap_or_default();
    assert!(path.starts_with(&by_cron["PATH"]), "PATH begins like cron's: {path}");
    let without_path: BTreeMap<String, String> =
        by_cron.into_iter().filter(|(name, _)| name != "PATH" && name != "SEXTON_RUN_ID").collect();
    assert_eq!(by_sexton, without_path);

    wait_until(minutes, || mails(&cron, false).len() >= 2 && mails(&cron, true).len() >= 2);
    assert_eq!(mails(&cron, true), mails(&cron, false));
    assert!(mails(&cron, false).iter().any(|mail| mail.ends_with("\n\nstarted\n")));
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o1777)).expect("own folder");
}
