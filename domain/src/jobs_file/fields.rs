//! Reads and checks the fields of a job, from a jobs file or from a `# sexton:` directive of a crontab.

use std::time::Duration;

use jiff::Timestamp;

use crate::document::{Document, NamedKind, Section};
use crate::fault::Fault;
use crate::job::{AlertPolicy, CatchUp, Command, Concurrency, Job, JobKey, Needs, Retries};
use crate::jobs_file::GROUP_RESERVED;
use crate::run::Outcome;
use crate::schedule::{Context, Schedule};
use crate::units;
use crate::zones::zone_named;

/// Characters of the name of a group or a job: the limit of APP-NAME (RFC 5424, section 6.2.5). File names, CloudWatch
/// streams and queue names allow more.
pub const NAME_LENGTH_MAX: usize = 48;

/// Largest `retries.max`: attempts after the first. Chosen: more would hide a job that never works.
pub(super) const RETRIES_MAX: i64 = 100;

/// Largest `retries.backoff`: the factor between two delays. Chosen: with more, the second delay already reaches its
/// limit of a day.
pub(super) const BACKOFF_MAX: f64 = 10.0;

/// Largest `needs.cpu`: cores of one run. Chosen: more than the largest machines have (1,920 virtual CPUs on EC2).
pub(super) const CPU_MAX: f64 = 4096.0;

/// Largest `alert.after`: failed runs in a row before an alert. Chosen, not measured.
pub(super) const ALERT_AFTER_MAX: i64 = 1000;

/// The outcomes in `retries.on`.
pub(super) const RETRY_OUTCOMES: [Outcome; 4] =
    [Outcome::Failed, Outcome::FalseSuccess, Outcome::TimedOut, Outcome::Lost];

/// Largest `min_lines`. Chosen, not measured.
pub const MIN_LINES_MAX: i64 = 1_000_000_000;

/// Largest `max_open`: open runs of one job. Chosen: more runs of one job at once are a fault.
pub(super) const MAX_OPEN_MAX: i64 = 1000;

/// Bytes of one environment variable, name and value together: `MAX_ARG_STRLEN` of Linux (execve(2)).
const ENVIRONMENT_ENTRY_BYTES_MAX: usize = 131_072;

/// The keys of a job in a directive: its group, its name, and all that [`read`] reads.
pub fn keys() -> Vec<&'static str> {
    let mut section = Document::empty("").section_of_words(0, Vec::new());
    read(&mut section, &mut Job::new(JobKey::new("", ""), "", Command::Shell(String::new())));
    ["group", "name"].into_iter().chain(section.known_keys().iter().copied()).collect()
}

/// Reads all fields of a job except name, schedule and command. An absent field keeps the value in `job`.
pub fn read(section: &mut Section, job: &mut Job) {
    set(&mut job.zone, section.text("zone"));
    set(&mut job.enabled, section.flag("enabled"));
    set_some(&mut job.user, section.text("user"));
    set_some(&mut job.cwd, section.text("cwd"));
    read_environment(section, job);
    set_some(&mut job.stdin, section.text("stdin"));
    set_some(&mut job.timeout, limit(section, "timeout"));
    set(&mut job.kill_grace, section.duration("kill_grace"));
    set_some(&mut job.start_within, limit(section, "start_within"));
    read_random_delay(section, job);
    set_some(&mut job.quiet_limit, limit(section, "quiet_limit"));
    set_some(&mut job.late_output_limit, limit(section, "late_output_limit"));
    set_some(&mut job.min_duration, section.duration("min_duration"));
    set_some(&mut job.max_duration, limit(section, "max_duration"));
    set_some(&mut job.min_lines, section.integer("min_lines", 1..=MIN_LINES_MAX).map(|lines| lines as u32));
    let concurrency = [
        ("allow", Concurrency::Allow),
        ("forbid", Concurrency::Forbid),
        ("queue", Concurrency::Queue),
        ("replace", Concurrency::Replace),
    ];
    set(&mut job.concurrency, section.choice("concurrency", &concurrency));
    set_some(&mut job.max_open, section.integer("max_open", 1..=MAX_OPEN_MAX).map(|max| max as u32));
    let catch_up = [("skip", CatchUp::Skip), ("once", CatchUp::Once), ("all", CatchUp::All)];
    set(&mut job.catch_up, section.choice("catch_up", &catch_up));
    if let Some(codes) = section.integers("success_exit_codes", 0..=255) {
        job.success_exit_codes = codes.into_iter().map(|code| code as i32).collect();
    }
    if let Some(inner) = section.section("retries") {
        job.retries = Some(retries(inner, job.retries.take()));
    }
    if let Some(inner) = section.section("needs") {
        job.needs = needs(inner, job.needs);
    }
    set(&mut job.rules, section.references("rules", NamedKind::RulePack));
    if let Some(inner) = section.section("alert") {
        job.alert = alert(inner, std::mem::take(&mut job.alert));
    }
    set(&mut job.description, section.text("description"));
    set(&mut job.owner, section.text("owner"));
}

/// The longest `random_delay`. A day, as in cronie, so that a firing starts before the next one of a daily job.
const RANDOM_DELAY_MAX: Duration = Duration::from_secs(86_400);

/// Zero, in a directive below a RANDOM_DELAY, means no delay.
fn read_random_delay(section: &mut Section, job: &mut Job) {
    let line = section.line_of("random_delay");
    let Some(limit) = section.duration("random_delay") else { return };
    match check_random_delay(limit) {
        Ok(()) => job.random_delay = Some(limit).filter(|limit| !limit.is_zero()),
        Err(message) => section.fault(line, units::format_duration(limit), message),
    }
}

/// Checks the limit of a delay.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub fn check_random_delay(limit: Duration) -> Result<(), String> {
    match limit > RANDOM_DELAY_MAX {
        true => Err("`random_delay` is longer than a day; write at most 24h".to_owned()),
        false => Ok(()),
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn set_some<T>(place: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *place = value;
    }
}

/// Reads a duration that must not be zero.
fn limit(section: &mut Section, key: &'static str) -> Option<Duration> {
    let line = section.line_of(key);
    let limit = section.duration(key)?;
    if limit.is_zero() {
        section.fault(line, "0s", format!("`{key}` is zero, which stops every run; write a longer one, or omit it"));
        return None;
    }
    Some(limit)
}

fn read_environment(section: &mut Section, job: &mut Job) {
    let line = section.line_of("env");
    for (name, value) in section.map("env").unwrap_or_default() {
        match check_environment(&name, &value) {
            Ok(()) => drop(job.env.insert(name, value)),
            Err(message) => section.fault(line, name, message),
        }
    }
}

/// Checks that a process can get this variable.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub fn check_environment(name: &str, value: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err("not a variable name; write one without `=`".to_owned());
    }
    if value.contains('\0') {
        return Err("the value contains a NUL byte; remove it".to_owned());
    }
    if name.len() + value.len() + 2 > ENVIRONMENT_ENTRY_BYTES_MAX {
        return Err(format!(
            "longer than {ENVIRONMENT_ENTRY_BYTES_MAX} bytes; put it in a file and pass the file's path"
        ));
    }
    Ok(())
}

fn retries(mut section: Section, earlier: Option<Retries>) -> Retries {
    let mut retries = earlier.unwrap_or(Retries {
        max: 1,
        delay: Duration::from_secs(60),
        backoff: 2.0,
        on: vec![Outcome::Failed, Outcome::Lost],
    });
    set(&mut retries.max, section.integer("max", 0..=RETRIES_MAX).map(|max| max as u32));
    set(&mut retries.delay, section.duration("delay"));
    set(&mut retries.backoff, section.number("backoff", 1.0..=BACKOFF_MAX));
    let line = section.line_of("on");
    if let Some(words) = section.texts("on") {
        let read = |word: &String| {
            let outcome = RETRY_OUTCOMES.into_iter().find(|outcome| outcome.name() == word);
            if outcome.is_none() {
                let all = RETRY_OUTCOMES.map(Outcome::name).join(", ");
                section.fault(line, word.as_str(), format!("not an outcome to retry on; write some of {all}"));
            }
            outcome
        };
        retries.on = words.iter().filter_map(read).collect();
    }
    section.reject_unknown_keys();
    retries
}

fn needs(mut section: Section, earlier: Needs) -> Needs {
    let mut needs = earlier;
    set(&mut needs.cpu, section.number("cpu", 0.0..=CPU_MAX));
    set(&mut needs.memory, section.size("memory"));
    section.reject_unknown_keys();
    needs
}

fn alert(mut section: Section, earlier: AlertPolicy) -> AlertPolicy {
    let mut alert = earlier;
    set(&mut alert.after, section.integer("after", 1..=ALERT_AFTER_MAX).map(|after| after as u32));
    set_some(&mut alert.remind, limit(&mut section, "remind"));
    set(&mut alert.channels, section.references("channels", NamedKind::AlertChannel));
    section.reject_unknown_keys();
    alert
}

/// Checks the name of a group or a job; it becomes part of file names, CloudWatch streams, queue names and the APP-NAME
/// of syslog.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() {
        return Err(format!("the {what} is empty; write letters, digits, `_`, `-` or `.`"));
    }
    if let Some(wrong) = name.chars().find(|c| !legal(*c)) {
        return Err(format!("the {what} contains {wrong:?}; write letters, digits, `_`, `-` and `.` only"));
    }
    if name.starts_with(['.', '-']) {
        return Err(format!("the {what} starts with `{}`; start it with a letter, a digit or `_`", &name[..1]));
    }
    if name.len() > NAME_LENGTH_MAX {
        return Err(format!("the {what} has {} characters; write at most {NAME_LENGTH_MAX}", name.len()));
    }
    Ok(())
}

/// Checks the group of a job.
///
/// # Errors
/// As [`check_name`]; also for the group that is reserved.
pub fn check_group(group: &str) -> Result<(), String> {
    check_name("group", group)?;
    match group {
        GROUP_RESERVED => {
            Err(format!("the group `{GROUP_RESERVED}` is reserved for alerts about Sexton itself; choose another name"))
        }
        _ => Ok(()),
    }
}

/// Reports an invalid group or name.
pub fn check_names(document: &Document, line: u32, job: &Job) {
    for (name, checked) in [(&job.group, check_group(&job.group)), (&job.name, check_name("name", &job.name))] {
        if let Err(message) = checked {
            document.push(Fault::new(document.file(), line, name.as_str(), message));
        }
    }
}

/// Reports an unknown zone of a job.
pub fn check_zone(document: &Document, line: u32, job: &Job) {
    if let Err(message) = zone_named(&job.zone) {
        document.push(Fault::new(document.file(), line, job.zone.as_str(), message));
    }
}

/// Reports faults and warnings of a job's schedule, also when its zone is unknown.
pub fn check_schedule(document: &Document, line: u32, job: &Job) {
    let zone = if zone_named(&job.zone).is_ok() { job.zone.as_str() } else { "UTC" };
    match schedule_in(zone, job, Timestamp::UNIX_EPOCH) {
        Ok(schedule) => {
            for message in schedule.warnings() {
                document.push(Fault::warning(document.file(), line, job.schedule.as_str(), message));
            }
        }
        Err(message) => document.push(Fault::new(document.file(), line, job.schedule.as_str(), message)),
    }
}

/// Parses a job's schedule. `first_seen`: where `rate()` and `@every` count from when the job has no anchor.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub fn schedule(job: &Job, first_seen: Timestamp) -> Result<Schedule, String> {
    schedule_in(&job.zone, job, first_seen)
}

fn schedule_in(zone: &str, job: &Job, first_seen: Timestamp) -> Result<Schedule, String> {
    let seed = job.seed.clone().unwrap_or_else(|| job.key().to_string());
    let context = Context { zone, seed: &seed, anchor: job.anchor.unwrap_or(first_seen) };
    Schedule::parse(&job.schedule, &context)
}
