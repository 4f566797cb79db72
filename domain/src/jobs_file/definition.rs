//! Checks a whole job that was not read from a file, such as one from the API, by the rules of files.

use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::Timestamp;

use super::fields::{
    ALERT_AFTER_MAX, BACKOFF_MAX, CPU_MAX, MAX_OPEN_MAX, MIN_LINES_MAX, RETRIES_MAX, RETRY_OUTCOMES, check_environment,
    check_group, check_name, check_random_delay, schedule,
};
use crate::job::{Command, Job};
use crate::run::Outcome;

/// Checks a job.
///
/// # Errors
/// One lower-case sentence with the remedy, for the first fault.
pub fn check_job(job: &Job) -> Result<(), String> {
    check_group(&job.group)?;
    check_name("name", &job.name)?;
    schedule(job, Timestamp::UNIX_EPOCH)?;
    check_command(&job.command)?;
    for (name, value) in &job.env {
        check_environment(name, value).map_err(|message| format!("variable `{name}` in `env`: {message}"))?;
    }
    for (key, text) in [("user", &job.user), ("cwd", &job.cwd)] {
        if text.as_ref().is_some_and(|text| text.contains('\0')) {
            return Err(format!("`{key}` contains a NUL byte; remove it"));
        }
    }
    let limits = [
        ("timeout", job.timeout),
        ("start_within", job.start_within),
        ("quiet_limit", job.quiet_limit),
        ("late_output_limit", job.late_output_limit),
        ("max_duration", job.max_duration),
        ("alert.remind", job.alert.remind),
    ];
    for (key, limit) in limits {
        if limit == Some(Duration::ZERO) {
            return Err(format!("`{key}` is zero; write a longer one, or omit it"));
        }
    }
    if let Some(limit) = job.random_delay {
        check_random_delay(limit)?;
    }
    check_range("alert.after", f64::from(job.alert.after), 1.0..=ALERT_AFTER_MAX as f64)?;
    if let Some(max_open) = job.max_open {
        check_range("max_open", f64::from(max_open), 1.0..=MAX_OPEN_MAX as f64)?;
    }
    if let Some(lines) = job.min_lines {
        check_range("min_lines", f64::from(lines), 1.0..=MIN_LINES_MAX as f64)?;
    }
    check_range("needs.cpu", job.needs.cpu, 0.0..=CPU_MAX)?;
    for code in &job.success_exit_codes {
        check_range("success_exit_codes", f64::from(*code), 0.0..=255.0)?;
    }
    if let Some(retries) = &job.retries {
        check_range("retries.max", f64::from(retries.max), 0.0..=RETRIES_MAX as f64)?;
        check_range("retries.backoff", retries.backoff, 1.0..=BACKOFF_MAX)?;
        if let Some(wrong) = retries.on.iter().find(|outcome| !RETRY_OUTCOMES.contains(outcome)) {
            let all = RETRY_OUTCOMES.map(Outcome::name).join(", ");
            return Err(format!("`retries.on` has {}, on which no run is retried; write some of {all}", wrong.name()));
        }
    }
    Ok(())
}

/// Checks that a process can be started with this command.
fn check_command(command: &Command) -> Result<(), String> {
    let has_nul = |text: &String| text.contains('\0');
    match command {
        Command::Shell(text) if text.trim().is_empty() => Err("`command` is empty; write what to run".to_owned()),
        Command::Shell(text) if has_nul(text) => Err("`command` contains a NUL byte; remove it".to_owned()),
        Command::Argv(words) if words.first().is_none_or(String::is_empty) => {
            Err("`argv` is empty; write argv = [\"program\", \"argument\"]".to_owned())
        }
        Command::Argv(words) if words.iter().any(has_nul) => Err("`argv` contains a NUL byte; remove it".to_owned()),
        Command::Shell(_) | Command::Argv(_) => Ok(()),
    }
}

fn check_range(key: &str, value: f64, range: RangeInclusive<f64>) -> Result<(), String> {
    match range.contains(&value) {
        true => Ok(()),
        false => Err(format!("`{key}` is {value}; write a number from {} to {}", range.start(), range.end())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Each fault is refused in a jobs file and in a job from elsewhere; what is within the limits is accepted in both.
    #[test]
    fn a_job_from_elsewhere_is_checked_as_one_of_a_file() {
        let long = "x".repeat(131_072);
        let cases: Vec<(&str, Value, bool)> = vec![
            ("env", json!({ "A": "b" }), true),
            ("env", json!({ "": "b" }), false),
            ("env", json!({ "A=B": "b" }), false),
            ("env", json!({ "A\u{0}B": "b" }), false),
            ("env", json!({ "A": "b\u{0}" }), false),
            ("env", json!({ "A": &long[3..] }), true),
            ("env", json!({ "A": &long[2..] }), false),
            ("env", json!({ &long[..]: "" }), false),
            ("timeout", json!("0s"), false),
            ("start_within", json!("0s"), false),
            ("quiet_limit", json!("0s"), false),
            ("random_delay", json!("24h"), true),
            ("random_delay", json!("24h1s"), false),
            ("min_duration", json!("0s"), true),
            ("max_duration", json!("0s"), false),
            ("min_lines", json!(1_000_000_000), true),
            ("min_lines", json!(1_000_000_001), false),
            ("min_lines", json!(0), false),
            ("success_exit_codes", json!([0, 255]), true),
            ("success_exit_codes", json!([256]), false),
            ("success_exit_codes", json!([-1]), false),
            ("max_open", json!(1000), true),
            ("max_open", json!(0), false),
            ("max_open", json!(1001), false),
            ("retries", json!({ "max": 100, "delay": "1s", "backoff": 10.0, "on": ["lost"] }), true),
            ("retries", json!({ "max": 101, "delay": "1s", "backoff": 1.0, "on": ["lost"] }), false),
            ("retries", json!({ "max": 1, "delay": "1s", "backoff": 0.5, "on": ["lost"] }), false),
            ("retries", json!({ "max": 1, "delay": "1s", "backoff": 10.5, "on": ["lost"] }), false),
            ("retries", json!({ "max": 1, "delay": "1s", "backoff": 1.0, "on": ["skipped"] }), false),
            ("needs", json!({ "cpu": 4096.0, "memory": "1KiB" }), true),
            ("needs", json!({ "cpu": 4097.0, "memory": "1KiB" }), false),
            ("needs", json!({ "cpu": -1.0, "memory": "1KiB" }), false),
            ("alert", json!({ "after": 0 }), false),
            ("alert", json!({ "after": 1001 }), false),
            ("alert", json!({ "after": 1, "remind": "0s" }), false),
            ("command", json!(" "), false),
            ("command", json!("a\u{0}"), false),
            ("argv", json!([]), false),
            ("argv", json!([""]), false),
            ("argv", json!(["true", "a\u{0}"]), false),
            ("name", json!("a/b"), false),
            ("schedule", json!("61 * * * *"), false),
        ];
        for (key, value, is_good) in cases {
            let mut record = json!({ "group": "g", "name": "n", "schedule": "@daily", "command": "true" });
            if key == "argv" {
                record.as_object_mut().expect("an object").remove("command");
            }
            record[key] = value;
            let shown = record.to_string();
            let shown = &shown[..shown.len().min(200)];
            let job: Job = serde_json::from_value(record.clone()).unwrap_or_else(|error| panic!("{error}: {shown}"));
            assert_eq!(check_job(&job).is_ok(), is_good, "{:?}: {shown}", check_job(&job));
            let text = toml::to_string(&json!({ "job": [record] })).expect("TOML");
            let (jobs, faults) = crate::jobs_file::parse("jobs.toml", &text);
            assert_eq!(jobs.len() == 1, is_good, "{faults}: {shown}");
        }
    }
}
