//! Secrets of jobs. A job's `env` holds references, not values. The runner resolves them just before it starts the
//! command. The values appear in no queue, table, event, log, file or argument list.

use std::fmt;

use async_trait::async_trait;

use crate::ports::PortResult;

/// The place at which a secret value is stored. Written as the value of a variable in a job's `env`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// `env:NAME`: a variable of the runner's own environment.
    Variable(String),
    /// `file:/path`: the text of a file on the runner's machine.
    File(String),
    /// `ssm:/path`: a parameter of the Systems Manager Parameter Store.
    Parameter(String),
    /// `secretsmanager:NAME` or `secretsmanager:ARN`, with `#KEY` for one value of a secret that is a JSON object.
    Secret {
        /// Name or ARN of the secret.
        id: String,
        /// Key of one value of the JSON object.
        key: Option<String>,
    },
}

impl Reference {
    /// None for a text that is a plain value: `http://x:1`, `file:relative`, `env:`.
    pub fn parse(text: &str) -> Option<Reference> {
        let (kind, place) = text.split_once(':')?;
        match (kind, place) {
            (_, "") => None,
            ("env", name) => Some(Reference::Variable(name.to_owned())),
            ("file", path) if path.starts_with('/') => Some(Reference::File(path.to_owned())),
            ("ssm", name) => Some(Reference::Parameter(name.to_owned())),
            ("secretsmanager", place) => Some(match place.split_once('#') {
                Some((id, key)) => Reference::Secret { id: id.to_owned(), key: Some(key.to_owned()) },
                None => Reference::Secret { id: place.to_owned(), key: None },
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Variable(name) => write!(f, "env:{name}"),
            Reference::File(path) => write!(f, "file:{path}"),
            Reference::Parameter(name) => write!(f, "ssm:{name}"),
            Reference::Secret { id, key: None } => write!(f, "secretsmanager:{id}"),
            Reference::Secret { id, key: Some(key) } => write!(f, "secretsmanager:{id}#{key}"),
        }
    }
}

/// Resolves references. A port of the runner.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// Returns the value as the job gets it. Called for every attempt; nothing is cached.
    ///
    /// # Errors
    /// One sentence that names the reference and the remedy, never a value. `Retry` if the same call may succeed later.
    async fn value(&self, reference: &Reference) -> PortResult<String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_differ_from_plain_values_and_are_written_as_they_were_read() {
        let check = |text: &str, expected: Option<Reference>| {
            let read = Reference::parse(text);
            assert_eq!(read, expected, "{text}");
            read.into_iter().for_each(|reference| assert_eq!(reference.to_string(), text));
        };
        let secret =
            |id: &str, key: Option<&str>| Some(Reference::Secret { id: id.into(), key: key.map(str::to_owned) });
        check("env:HOME", Some(Reference::Variable("HOME".into())));
        check("file:/etc/key", Some(Reference::File("/etc/key".into())));
        check("ssm:/db/password", Some(Reference::Parameter("/db/password".into())));
        check("secretsmanager:db", secret("db", None));
        let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-AbCdEf";
        check(&format!("secretsmanager:{arn}#password"), secret(arn, Some("password")));
        for text in ["", "plain", "http://x:1", "file:relative", "env:", "ssm:", "secretsmanager:", ":x"] {
            check(text, None);
        }
    }
}
