//! Reads the variables that the template sets, and starts the log: JSON objects on standard error, one per line, whose
//! fields CloudWatch Logs Insights finds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use aws::{ALERTS_CHANNEL, Aws, Options};
use services::pruner::RetentionPolicy;

const DAY: Duration = Duration::from_secs(86_400);

/// The variables that `template.yaml` sets. All are optional.
#[derive(Clone, Debug)]
pub struct Environment {
    /// From `SEXTON_PREFIX`, `SEXTON_HISTORY_DAYS`, `SEXTON_DUE_SHARDS` and `SEXTON_UNSIGNED`.
    pub options: Options,
    /// From `SEXTON_HISTORY_DAYS` and `SEXTON_RUNS_PER_JOB`.
    pub keep: RetentionPolicy,
    /// ARN of the topic for alerts, from `SEXTON_ALERTS_TOPIC`.
    pub alerts_topic: Option<String>,
}

impl Environment {
    /// Reads the variables of this process.
    ///
    /// # Errors
    /// Returns one sentence that names the invalid variable.
    pub fn from_process() -> Result<Environment, String> {
        Environment::read(|name| std::env::var(name).ok())
    }

    /// Reads variables through `variable`, which returns none for an absent one.
    ///
    /// # Errors
    /// Returns one sentence that names the invalid variable.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Environment, String> {
        let mut options = Options::default();
        let mut keep = RetentionPolicy::default();
        if let Some(prefix) = variable("SEXTON_PREFIX") {
            options.prefix = prefix;
        }
        if let Some(days) = parse_number(&variable, "SEXTON_HISTORY_DAYS")? {
            options.retention = DAY * days;
            keep.age_max = DAY * days;
        }
        options.shards = parse_number(&variable, "SEXTON_DUE_SHARDS")?;
        options.unsigned = match variable("SEXTON_UNSIGNED").as_deref() {
            None => None,
            Some("yes") => Some(true),
            Some("no") => Some(false),
            Some(text) => return Err(format!("the variable SEXTON_UNSIGNED is `{text}`; write yes or no")),
        };
        if let Some(runs) = parse_number(&variable, "SEXTON_RUNS_PER_JOB")? {
            keep.runs_per_job_max = runs as usize;
        }
        Ok(Environment { options, keep, alerts_topic: variable("SEXTON_ALERTS_TOPIC") })
    }

    /// Returns the ARN of each alert channel's topic.
    pub fn topics(&self) -> BTreeMap<String, String> {
        self.alerts_topic.iter().map(|topic| (ALERTS_CHANNEL.to_owned(), topic.clone())).collect()
    }

    /// Opens the installation.
    ///
    /// # Errors
    /// Returns the errors of [`aws::connect`].
    pub async fn connect(&self) -> Result<Aws, aws::ConnectError> {
        aws::connect(&self.options).await
    }
}

/// Longest timeout of a Lambda (AWS Lambda developer guide, quotas).
const TIMEOUT_MAX: Duration = Duration::from_secs(900);

/// Assumed for a call whose deadline cannot be right. Chosen: half of the scheduler's timeout in the template.
const TIMEOUT_ASSUMED: Duration = Duration::from_secs(60);

/// When Lambda ends this call, by its deadline.
pub fn timeout_of(context: &lambda_runtime::Context) -> Instant {
    Instant::now() + time_left(context.deadline(), SystemTime::now())
}

/// The time until the deadline. One that has passed, or is further away than any, is of another clock.
fn time_left(deadline: SystemTime, now: SystemTime) -> Duration {
    let left = deadline.duration_since(now).ok();
    left.filter(|left| !left.is_zero() && *left <= TIMEOUT_MAX).unwrap_or(TIMEOUT_ASSUMED)
}

fn parse_number(variable: impl Fn(&str) -> Option<String>, name: &str) -> Result<Option<u32>, String> {
    let Some(text) = variable(name) else { return Ok(None) };
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("the variable {name} is `{text}`; write a whole number of at least 1")),
        Ok(number) => Ok(Some(number)),
    }
}

/// Returns a name that no other instance of the Lambda has: the name of its log stream.
pub fn worker_name() -> String {
    std::env::var("AWS_LAMBDA_LOG_STREAM_NAME").unwrap_or_else(|_| format!("process {}", std::process::id()))
}

/// Starts the log as JSON lines. `SEXTON_LOG` is its filter, `info` by default.
pub fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SEXTON_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,aws_config=warn"));
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Environment, String> {
        Environment::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn variables_are_read_and_an_invalid_one_is_named() {
        let complete =
            read(&[("SEXTON_PREFIX", "x"), ("SEXTON_HISTORY_DAYS", "7"), ("SEXTON_DUE_SHARDS", "4")]).unwrap();
        assert_eq!(complete.options.prefix, "x");
        assert_eq!((complete.options.retention, complete.options.shards), (DAY * 7, Some(4)));
        assert_eq!(read(&[]).unwrap().options.prefix, "sexton");
        assert_eq!(read(&[]).unwrap().options.unsigned, None);
        for (text, unsigned) in [("yes", true), ("no", false)] {
            assert_eq!(read(&[("SEXTON_UNSIGNED", text)]).unwrap().options.unsigned, Some(unsigned));
        }
        assert!(read(&[("SEXTON_UNSIGNED", "true")]).unwrap_err().contains("SEXTON_UNSIGNED"));
        for bad in ["", "0", "-1", "many"] {
            let message = read(&[("SEXTON_RUNS_PER_JOB", bad)]).unwrap_err();
            assert!(message.contains("SEXTON_RUNS_PER_JOB"), "{message}");
        }
    }

    #[test]
    fn a_deadline_of_another_clock_is_replaced() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        for (deadline, left) in [(1120, 120), (1001, 1), (1000, 60), (0, 60), (1900, 900), (1901, 60)] {
            let deadline = SystemTime::UNIX_EPOCH + Duration::from_secs(deadline);
            assert_eq!(time_left(deadline, now), Duration::from_secs(left), "{deadline:?}");
        }
    }
}
