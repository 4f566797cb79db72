//! The fields of a job as people write them, in a jobs file or after `# sexton:` in a crontab.

use std::time::Duration;

use jiff::Timestamp;

use crate::document::{Document, Section};
use crate::fault::Fault;
use crate::job::{AlertPolicy, CatchUp, Concurrency, Job, Needs, Retries};
use crate::run::Outcome;
use crate::schedule::{Context, Schedule};

/// Characters of a group or a job's name: APP-NAME of syslog (RFC 5424, section 6.2.5) holds 48, and everything else
/// that carries the name (file names, CloudWatch streams, queue names) holds more.
pub const NAME_LENGTH_MAX: usize = 48;

/// Attempts after the first; more would hide a job that never works.
const RETRIES_MAX: i64 = 100;

/// A delay that grows faster than tenfold from retry to retry reaches its bound at once.
const BACKOFF_MAX: f64 = 10.0;

/// Cores of the largest machines that clouds rent out, rounded up.
const CPU_MAX: f64 = 4096.0;

/// Bad runs in a row before an alert; whoever wants none writes no channel.
const ALERT_AFTER_MAX: i64 = 1000;

/// Environment names and values, together; Linux gives a process no more than this for one of them
/// (`MAX_ARG_STRLEN`, execve(2)). Bytes.
const ENVIRONMENT_ENTRY_MAX: usize = 131_072;

/// Takes every field that a job may have besides its name, schedule and command. Those that are absent keep the value
/// that `job` has.
pub fn read(section: &mut Section, job: &mut Job) {
    set(&mut job.zone, section.text("zone"));
    set(&mut job.enabled, section.flag("enabled"));
    set_some(&mut job.user, section.text("user"));
    set_some(&mut job.cwd, section.text("cwd"));
    environment(section, job);
    set_some(&mut job.stdin, section.text("stdin"));
    set_some(&mut job.timeout, limit(section, "timeout"));
    set(&mut job.kill_grace, section.duration("kill_grace"));
    set_some(&mut job.start_within, limit(section, "start_within"));
    set_some(&mut job.quiet_limit, limit(section, "quiet_limit"));
    set_some(&mut job.min_duration, section.duration("min_duration"));
    let concurrency = [
        ("allow", Concurrency::Allow),
        ("forbid", Concurrency::Forbid),
        ("queue", Concurrency::Queue),
        ("replace", Concurrency::Replace),
    ];
    set(&mut job.concurrency, section.choice("concurrency", &concurrency));
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
    set(&mut job.rules, section.texts("rules"));
    if let Some(inner) = section.section("alert") {
        job.alert = alert(inner, std::mem::take(&mut job.alert));
    }
    set(&mut job.description, section.text("description"));
    set(&mut job.owner, section.text("owner"));
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

/// A duration that would stop everything at once if it were zero.
fn limit(section: &mut Section, key: &'static str) -> Option<Duration> {
    let line = section.line_of(key);
    let limit = section.duration(key)?;
    if limit.is_zero() {
        section.fault(line, "0s", format!("`{key}` of nothing stops every run; write a longer one, or leave it out"));
        return None;
    }
    Some(limit)
}

fn environment(section: &mut Section, job: &mut Job) {
    let line = section.line_of("env");
    for (name, value) in section.map("env").unwrap_or_default() {
        match check_environment(&name, &value) {
            Ok(()) => drop(job.env.insert(name, value)),
            Err(message) => section.fault(line, name, message),
        }
    }
}

/// Whether a process can be given this variable.
///
/// # Errors
/// One lower-case sentence.
pub fn check_environment(name: &str, value: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err("not a name for a variable; write one without = in it".to_owned());
    }
    if value.contains('\0') {
        return Err("the value has a NUL byte in it; remove it".to_owned());
    }
    if name.len() + value.len() + 2 > ENVIRONMENT_ENTRY_MAX {
        return Err(format!("longer than {ENVIRONMENT_ENTRY_MAX} bytes; put it in a file and name the file"));
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
        const ON: [Outcome; 4] = [Outcome::Failed, Outcome::FalseSuccess, Outcome::TimedOut, Outcome::Lost];
        let read = |word: &String| {
            let outcome = ON.into_iter().find(|outcome| outcome.name() == word);
            if outcome.is_none() {
                let all = ON.map(Outcome::name).join(", ");
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
    set(&mut alert.channels, section.texts("channels"));
    section.reject_unknown_keys();
    alert
}

/// Whether a group or a job may be called so: the name becomes part of file names, CloudWatch streams, queue names and
/// syslog's APP-NAME.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() {
        return Err(format!("the {what} is empty; write letters, digits, `_`, `-` or `.`"));
    }
    if let Some(wrong) = name.chars().find(|c| !legal(*c)) {
        return Err(format!("the {what} has {wrong:?} in it; write letters, digits, `_`, `-` and `.` only"));
    }
    if name.starts_with(['.', '-']) {
        return Err(format!("the {what} begins with `{}`; begin it with a letter, a digit or `_`", &name[..1]));
    }
    if name.len() > NAME_LENGTH_MAX {
        return Err(format!("the {what} has {} characters; write at most {NAME_LENGTH_MAX}", name.len()));
    }
    Ok(())
}

/// Reports a group or a name that cannot be used.
pub fn check_names(document: &Document, line: u32, job: &Job) {
    for (what, name) in [("group", &job.group), ("name", &job.name)] {
        if let Err(message) = check_name(what, name) {
            document.push(Fault::new(document.file(), line, name.as_str(), message));
        }
    }
}

/// Reports what is wrong and what may surprise in a job's schedule and zone.
pub fn check_schedule(document: &Document, line: u32, job: &Job) {
    match schedule(job, Timestamp::UNIX_EPOCH) {
        Ok(schedule) => {
            for message in schedule.warnings() {
                document.push(Fault::warning(document.file(), line, job.schedule.as_str(), message));
            }
        }
        Err(message) => document.push(Fault::new(document.file(), line, job.schedule.as_str(), message)),
    }
}

/// A job's schedule. `first_seen` is where `rate()` and `@every` count from when the job itself does not say.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub fn schedule(job: &Job, first_seen: Timestamp) -> Result<Schedule, String> {
    let seed = job.key().to_string();
    let context = Context { zone: &job.zone, seed: &seed, anchor: job.anchor.unwrap_or(first_seen) };
    Schedule::parse(&job.schedule, &context)
}
