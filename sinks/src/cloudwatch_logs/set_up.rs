//! Optional settings of the groups that a sink created: retention and tags. A setting that fails holds no line; it is
//! retried in the background and reported until it is applied. Called by `create`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::cloudwatch_logs::client::Client;
use crate::cloudwatch_logs::create::to_bytes;
use crate::cloudwatch_logs::rate_limiter::RateLimiter;
use crate::engine::locked;
use crate::error::{SinkError, SinkResult};
use crate::sink::SetUpFault;

/// Less than half of an account's quota per second (service quotas: PutRetentionPolicy 5).
const SETTINGS_PER_SECOND: u32 = 2;
/// Settings that wait to be applied. Chosen: a few 100 kB of names at most.
const WAITING_MAX: usize = 1024;
/// Longest time that the first lines of a new group wait for its settings. Chosen: the service answers sooner.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// What a new group still lacks.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Setting {
    /// In days.
    Retention(u32),
    Tags(BTreeMap<String, String>),
}

pub(super) struct SetUp {
    random: fn() -> u64,
    calls: RateLimiter,
    /// Wait between two attempts.
    every: Duration,
    waiting: Mutex<Waiting>,
    fault: SetUpFault,
}

#[derive(Default)]
struct Waiting {
    /// Group, setting, and the last error.
    settings: Vec<(String, Setting, String)>,
    has_task: bool,
}

impl SetUp {
    pub(super) fn new(random: fn() -> u64, every: Duration) -> Arc<SetUp> {
        let calls = RateLimiter::new(SETTINGS_PER_SECOND);
        Arc::new(SetUp { random, calls, every, waiting: Mutex::default(), fault: SetUpFault::default() })
    }

    /// What the operator should know: a setting that could not be applied.
    pub(super) fn fault(&self) -> SetUpFault {
        self.fault.clone()
    }

    /// # Errors
    /// Too many groups lack a setting: no more are created.
    pub(super) fn check_room(&self, group: &str) -> SinkResult<()> {
        if locked(&self.waiting).settings.len() < WAITING_MAX {
            return Ok(());
        }
        let message = format!("{WAITING_MAX} log groups wait for their settings; {group} is created after them");
        Err(SinkError::retry(message))
    }

    /// Applies the setting, or retries in the background until it is applied.
    pub(super) async fn apply(self: &Arc<Self>, client: &Arc<Client>, group: &str, setting: Setting) {
        let fault = match tokio::time::timeout(APPLY_TIMEOUT, self.call(client, group, &setting, None)).await {
            Ok(Ok(())) => return,
            Ok(Err(fault)) => fault,
            Err(_) => format!("no answer within {} s", APPLY_TIMEOUT.as_secs()),
        };
        self.apply_later(client, group, setting, fault);
    }

    /// Applies a setting that has failed with `fault` in the background.
    pub(super) fn apply_later(self: &Arc<Self>, client: &Arc<Client>, group: &str, setting: Setting, fault: String) {
        tracing::warn!(group, "{}", describe(&setting, group, &fault));
        let mut waiting = locked(&self.waiting);
        waiting.settings.push((group.to_owned(), setting, fault));
        self.report(&waiting);
        if !std::mem::replace(&mut waiting.has_task, true) {
            tokio::spawn(retry(Arc::downgrade(self), client.clone(), self.every));
        }
    }

    /// Returns false when nothing waits any more.
    async fn retry_once(&self, client: &Client) -> bool {
        let settings = locked(&self.waiting).settings.clone();
        for (group, setting, before) in settings {
            let result = self.call(client, &group, &setting, Some(&before)).await;
            let mut waiting = locked(&self.waiting);
            let is_it = |known: &(String, Setting, String)| known.0 == group && known.1 == setting;
            match result {
                Ok(()) => {
                    tracing::info!(group, "applied a setting that had failed");
                    waiting.settings.retain(|known| !is_it(known));
                }
                Err(fault) => {
                    waiting
                        .settings
                        .iter_mut()
                        .filter(|known| is_it(known))
                        .for_each(|known| known.2.clone_from(&fault));
                }
            }
            self.report(&waiting);
        }
        let mut waiting = locked(&self.waiting);
        waiting.has_task = !waiting.settings.is_empty();
        waiting.has_task
    }

    fn report(&self, waiting: &Waiting) {
        let text = waiting.settings.first().map(|(group, setting, fault)| {
            let more = match waiting.settings.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            format!("{}{more}", describe(setting, group, fault))
        });
        *locked(&self.fault) = text;
    }

    async fn call(&self, client: &Client, group: &str, setting: &Setting, before: Option<&str>) -> Result<(), String> {
        self.calls.wait(self.random).await;
        let (action, body) = match setting {
            Setting::Retention(days) => {
                ("PutRetentionPolicy", json!({ "logGroupName": group, "retentionInDays": days }))
            }
            // Only a denial shows the account, which the name of the resource contains.
            Setting::Tags(tags) => match before.and_then(|before| resource_in(before, group)) {
                Some(arn) => ("TagResource", json!({ "resourceArn": arn, "tags": tags })),
                None => ("TagLogGroup", json!({ "logGroupName": group, "tags": tags })),
            },
        };
        client.call(action, to_bytes(&body)).await.map(drop).map_err(|failure| failure.error.message)
    }
}

/// Ends with the sink.
async fn retry(set_up: Weak<SetUp>, client: Arc<Client>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(set_up) = set_up.upgrade() else { return };
        if !set_up.retry_once(&client).await {
            return;
        }
    }
}

fn describe(setting: &Setting, group: &str, fault: &str) -> String {
    match setting {
        Setting::Retention(days) => format!("cannot set the retention of log group {group} to {days} days: {fault}"),
        Setting::Tags(_) => format!("cannot tag log group {group}: {fault}"),
    }
}

/// The group's name as a resource, from the message of a denial: `... on resource:
/// arn:aws:logs:REGION:ACCOUNT:log-group:NAME because ...`.
fn resource_in(message: &str, group: &str) -> Option<String> {
    let start = message.find("arn:aws")?;
    let arn = message.get(start..)?.split_whitespace().find(|word| word.contains(":logs:"))?;
    let end = arn.find(":log-group:")?;
    Some(format!("{}:log-group:{group}", arn.get(..end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_names_the_group_as_a_resource() {
        let denied = "User: arn:aws-us-gov:sts::123456789012:assumed-role/r is not authorized to perform: logs:TagResource \
                      on resource: arn:aws-us-gov:logs:us-gov-west-1:123456789012:log-group:/x:log-stream: because no \
                      identity-based policy allows the logs:TagResource action";
        let arn = "arn:aws-us-gov:logs:us-gov-west-1:123456789012:log-group:/x";
        assert_eq!(resource_in(denied, "/x").as_deref(), Some(arn));
        assert_eq!(resource_in("not authorized", "/x"), None);
        assert_eq!(resource_in("User: arn:aws:iam::1:user/u is not authorized", "/x"), None);
    }
}
