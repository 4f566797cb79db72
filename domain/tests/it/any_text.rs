//! Whatever the text, it is read to an answer; what is accepted can be used.

use domain::crontab::{self, Format};
use domain::jobs_file;
use domain::plan::plan;
use domain::schedule::{Context, Schedule};
use jiff::Timestamp;
use proptest::prelude::*;

/// Texts made of the pieces that the readers look at, so that they get past the first check.
fn pieces(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => proptest::sample::select(pieces).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        2 => (0_u32..70).prop_map(|number| number.to_string()),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

const SCHEDULE: &[&str] = &[
    "*",
    " ",
    " ",
    " ",
    " ",
    "/",
    "-",
    ",",
    "~",
    "H",
    "H(",
    ")",
    "L",
    "W",
    "#",
    "?",
    "mon",
    "dec",
    "@",
    "@daily",
    "@every ",
    "@at ",
    "cron(",
    "rate(",
    "at(",
    "2026-03-08T02:30:00",
    "Z",
    "90s",
    "minutes",
    "é",
    "0",
    "1",
    "5",
    "29",
];

const CRONTAB: &[&str] = &[
    "\n",
    "\n",
    "\r\n",
    "* * * * * ",
    "0 5 * * * ",
    "*/90 2 13 * 5 ",
    "@daily ",
    "@every 90s ",
    "CRON_TZ=",
    "Europe/Paris",
    "X=",
    "\"",
    "'",
    "=",
    "%",
    "\\",
    "\\%",
    "# sexton: ",
    "# sexton-defaults: ",
    "name=",
    "timeout=2h ",
    "env.A=1 ",
    "retries.max=2 ",
    "group=",
    "a",
    "/opt/x",
    "root ",
    "-n ",
    "-",
    "\0",
    " ",
    "\t",
    "é",
    "\u{feff}",
];

const TOML: &[&str] = &[
    "[[job]]\n",
    "name = \"a\"\n",
    "name = \"b\"\n",
    "schedule = \"@daily\"\n",
    "schedule = \"",
    "H H * * *",
    "\"\n",
    "command = \"x\"\n",
    "argv = [\"x\"]\n",
    "argv = [",
    "]\n",
    "env = {",
    "}\n",
    "retries = { max = 1 }\n",
    "[job]\n",
    "[job.retries]\n",
    "timeout = \"1h\"\n",
    "zone = \"Europe/Paris\"\n",
    "=",
    "\"",
    "\n",
    "1",
    "-1",
    "1e999",
    "true",
    "\\u0000",
];

fn check_schedule(text: &str) {
    for zone in ["UTC", "America/New_York"] {
        let context = Context { zone, seed: "a/b", anchor: Timestamp::UNIX_EPOCH };
        if let Ok(schedule) = Schedule::parse(text, &context) {
            schedule.warnings();
            let again = Schedule::parse(&schedule.resolved(), &context);
            let again = again.unwrap_or_else(|says| panic!("{text} resolves to {}: {says}", schedule.resolved()));
            for after in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
                assert_eq!(again.next_after(after), schedule.next_after(after), "{text}");
            }
            let mut earlier = Timestamp::UNIX_EPOCH;
            for firing in schedule.firings(earlier).take(5) {
                assert!(firing.at > earlier && !firing.nominal.is_empty(), "{text}: {firing:?}");
                earlier = firing.at;
            }
        }
    }
}

fn check_crontab(text: &str) {
    for format in [Format::User, Format::System] {
        let (jobs, _) = crontab::parse("crontab", text, format);
        let window = plan(&jobs, Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let count = window.unwrap_or_else(|faults| panic!("{text}: {faults}")).take(10).count();
        assert!(count <= 10);
        let keys: std::collections::BTreeSet<_> = jobs.iter().map(domain::job::Job::key).collect();
        assert_eq!(keys.len(), jobs.len(), "{text}: two jobs of one name");
    }
}

fn check_jobs_file(text: &str) {
    let (jobs, _) = jobs_file::parse("jobs.toml", text);
    let written = jobs_file::write(&jobs).unwrap_or_else(|says| panic!("{text}: {says}"));
    assert_eq!(jobs_file::parse("jobs.toml", &written).0, jobs, "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_a_schedule_or_not(text in pieces(SCHEDULE), other in any::<String>()) {
        check_schedule(&text);
        check_schedule(&other);
    }

    #[test]
    fn any_text_is_a_crontab_with_faults_or_without(text in pieces(CRONTAB), other in any::<String>()) {
        check_crontab(&text);
        check_crontab(&other);
    }

    #[test]
    fn any_text_is_a_jobs_file_with_faults_or_without(text in pieces(TOML), other in any::<String>()) {
        check_jobs_file(&text);
        check_jobs_file(&other);
    }
}
