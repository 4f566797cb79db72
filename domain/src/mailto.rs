//! Mail with the output of a run, as cron sends it (crontab(5): MAILTO, MAILFROM). Built by the runner, sent through
//! [`Mailer`].

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ports::PortResult;
use crate::run::RunId;

/// Who gets the output of a job's runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailSettings {
    /// MAILTO: addresses or names of accounts, separated by commas.
    pub to: String,
    /// MAILFROM: the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Only the output of runs that did not succeed (cronie's `-n`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_failed: bool,
}

impl MailSettings {
    /// All output to these recipients.
    pub fn new(to: impl Into<String>) -> MailSettings {
        MailSettings { to: to.into(), from: None, only_failed: false }
    }
}

/// The output of one attempt, to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputMail {
    /// The run.
    pub run_id: RunId,
    /// Recipients and sender.
    pub settings: MailSettings,
    /// The user that the command ran as.
    pub user: String,
    /// The host that it ran on.
    pub host: String,
    /// The command as it is in the crontab.
    pub command: String,
    /// The variables of the job.
    pub environment: BTreeMap<String, String>,
    /// What the command printed, both streams.
    pub text: Vec<u8>,
    /// When the command ended.
    pub ended_at: Timestamp,
}

/// Sends mail with output.
#[async_trait]
pub trait Mailer: Send + Sync {
    /// Returns when a mail server, or the sendmail of this machine, has accepted the mail.
    async fn send(&self, mail: &OutputMail) -> PortResult<()>;
}

/// Characters that Debian's cron allows in MAILTO beside letters and digits, except at its start.
const RECIPIENT_MARKS: &str = "@!:%-.,_+";

/// Checks recipients as Debian's cron does before it passes them to sendmail.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub fn check_recipients(text: &str) -> Result<(), String> {
    let allowed = |(index, c): (usize, char)| c.is_ascii_alphanumeric() || (index > 0 && RECIPIENT_MARKS.contains(c));
    match text.char_indices().find(|found| !allowed(*found)) {
        None if !text.is_empty() => Ok(()),
        None => Err("names no recipient; write an address".to_owned()),
        Some((_, c)) => Err(format!(
            "cron refuses `{}` there and sends no mail; write addresses separated by commas, without blanks",
            c.escape_default()
        )),
    }
}

/// The recipients of a checked text.
pub fn recipients(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|one| !one.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_are_those_that_debians_cron_accepts() {
        for good in ["root", "ops@example.org", "a@x,b@y", "ops+cron@example.org", "host!user", "user%x@y"] {
            assert_eq!(check_recipients(good), Ok(()), "{good}");
        }
        for bad in ["", "a@x, b@y", "-oQ/tmp", "@x", "a@x;rm", "\"Ops\" <a@x>", "a@x\n", "\u{e9}@x", "a/b"] {
            assert!(check_recipients(bad).is_err(), "{bad}");
        }
        assert_eq!(recipients("a@x,,b").collect::<Vec<_>>(), ["a@x", "b"]);
    }
}
