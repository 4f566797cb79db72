//! What the template says to a Lambda, and where it says what it does: on standard error, one JSON object a line, which
//! CloudWatch Logs Insights takes apart.

use std::collections::BTreeMap;
use std::time::Duration;

use aws::{Aws, Options};
use services::pruner::RetentionPolicy;

const DAY: Duration = Duration::from_secs(86_400);

/// The channel that people subscribe to; an installation on AWS has this one.
pub const ALERTS_CHANNEL: &str = "alerts";

/// The variables that `template.yaml` sets. All may be absent.
#[derive(Clone, Debug)]
pub struct Environment {
    pub options: Options,
    pub keep: RetentionPolicy,
    /// The ARN of the topic for alerts.
    pub alerts_topic: Option<String>,
}

impl Environment {
    /// Of this process.
    ///
    /// # Errors
    /// One sentence that names the variable.
    pub fn from_process() -> Result<Environment, String> {
        Environment::read(|name| std::env::var(name).ok())
    }

    /// # Errors
    /// One sentence that names the variable.
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
        if let Some(runs) = parse_number(&variable, "SEXTON_RUNS_PER_JOB")? {
            keep.runs_per_job_max = runs as usize;
        }
        Ok(Environment { options, keep, alerts_topic: variable("SEXTON_ALERTS_TOPIC") })
    }

    /// The channels for alerts, each with its topic.
    pub fn topics(&self) -> BTreeMap<String, String> {
        self.alerts_topic.iter().map(|topic| (ALERTS_CHANNEL.to_owned(), topic.clone())).collect()
    }

    /// Opens the ports.
    ///
    /// # Errors
    /// As [`aws::connect`].
    pub async fn connect(&self) -> Result<Aws, aws::ConnectError> {
        aws::connect(&self.options).await
    }
}

fn parse_number(variable: impl Fn(&str) -> Option<String>, name: &str) -> Result<Option<u32>, String> {
    let Some(text) = variable(name) else { return Ok(None) };
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("the variable {name} is `{text}`; write a whole number of at least 1")),
        Ok(number) => Ok(Some(number)),
    }
}

/// Tells this worker from the others of its kind: the log stream is one of each.
pub fn worker_name() -> String {
    std::env::var("AWS_LAMBDA_LOG_STREAM_NAME").unwrap_or_else(|_| format!("process {}", std::process::id()))
}

/// Says what happens as JSON lines. `SEXTON_LOG` chooses what (default `info`).
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
        for bad in ["", "0", "-1", "many"] {
            let message = read(&[("SEXTON_RUNS_PER_JOB", bad)]).unwrap_err();
            assert!(message.contains("SEXTON_RUNS_PER_JOB"), "{message}");
        }
    }
}
