//! Creates streams and groups that a put found missing, within the account's quotas. Called by `put`. A group's
//! creation holds only the streams of that group.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::cloudwatch_logs::answer::{CallFailure, FailureCause};
use crate::cloudwatch_logs::batch::LogStream;
use crate::cloudwatch_logs::client::Client;
use crate::cloudwatch_logs::options::{CloudwatchLogsConfig, NewGroup};
use crate::cloudwatch_logs::rate_limiter::RateLimiter;
use crate::cloudwatch_logs::set_up::{SetUp, Setting};
use crate::engine::locked;
use crate::error::{ErrorClass, SinkError, SinkResult};

/// Half of an account's quota per second (service quotas: CreateLogStream 50, CreateLogGroup 10); jitter lengthens the
/// intervals further.
const STREAMS_PER_SECOND: u32 = 25;
const GROUPS_PER_SECOND: u32 = 5;
/// Groups that are remembered as created here. Chosen: a few 100 kB of names at most.
const GROUPS_MAX: usize = 1024;

pub(super) struct Creator {
    create_group: bool,
    create_stream: bool,
    new_group: NewGroup,
    random: fn() -> u64,
    streams: RateLimiter,
    creates: RateLimiter,
    groups: Mutex<Groups>,
    set_up: Arc<SetUp>,
}

#[derive(Default)]
struct Groups {
    created: BTreeMap<String, Instant>,
    /// A group is created by one task at a time, so a hundred new streams of one group create it once.
    being_created: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
}

impl Groups {
    /// Forgets another group when there are many: a missing one costs one more call.
    fn note_created(&mut self, group: &str) {
        while self.created.len() >= GROUPS_MAX {
            self.created.pop_first();
        }
        self.created.insert(group.to_owned(), Instant::now());
    }

    fn lock_of(&mut self, group: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.being_created.retain(|_, lock| Arc::strong_count(lock) > 1);
        self.being_created.entry(group.to_owned()).or_default().clone()
    }
}

impl Creator {
    pub(super) fn new(config: &CloudwatchLogsConfig, random: fn() -> u64, set_up: Arc<SetUp>) -> Creator {
        Creator {
            create_group: config.create_group,
            create_stream: config.create_stream,
            new_group: config.new_group.clone(),
            random,
            streams: RateLimiter::new(STREAMS_PER_SECOND),
            creates: RateLimiter::new(GROUPS_PER_SECOND),
            groups: Mutex::default(),
            set_up,
        }
    }

    /// Creates the stream, and its group when that is missing. Idempotent.
    ///
    /// # Errors
    /// Misconfigured when this sink may not create what is missing; else the service's error.
    pub(super) async fn create(&self, client: &Arc<Client>, log_stream: &LogStream) -> SinkResult<()> {
        let LogStream { group, stream } = log_stream;
        if !self.create_stream {
            let message = format!(
                "no stream {stream} in log group {group}, and create_stream is false; create the stream, or set create_stream = true"
            );
            return Err(SinkError::misconfigured(message));
        }
        let requested_at = Instant::now();
        match self.create_stream(client, log_stream).await {
            Err(CallFailure { cause: FailureCause::NotFound, .. }) => {}
            created => return created.map_err(|failure| failure.error),
        }
        self.create_group(client, group, requested_at).await?;
        self.create_stream(client, log_stream).await.map_err(|failure| match failure.cause {
            // It was created a moment ago and is not visible everywhere yet.
            FailureCause::NotFound => SinkError { class: ErrorClass::Retry, ..failure.error },
            _ => failure.error,
        })
    }

    async fn create_stream(&self, client: &Client, log_stream: &LogStream) -> Result<(), CallFailure> {
        self.streams.wait(self.random).await;
        let body = json!({ "logGroupName": log_stream.group, "logStreamName": log_stream.stream });
        accept_existing(client.call("CreateLogStream", to_bytes(&body)).await)
    }

    async fn create_group(&self, client: &Arc<Client>, group: &str, requested_at: Instant) -> SinkResult<()> {
        if !self.create_group {
            return Err(missing_group(group));
        }
        let lock = locked(&self.groups).lock_of(group);
        let _alone = lock.lock().await;
        // Another task created it while this one waited. One created before the request was deleted since.
        if locked(&self.groups).created.get(group).is_some_and(|created| *created > requested_at) {
            return Ok(());
        }
        self.set_up.check_room(group)?;
        self.creates.wait(self.random).await;
        let mut missing = None;
        let tags = &self.new_group.tags;
        let created = match client.call("CreateLogGroup", self.group_body(group, true)).await {
            // Tags need a permission of their own. The lines are worth more than the tags.
            Err(denied) if denied.cause == FailureCause::Denied && !tags.is_empty() => {
                self.creates.wait(self.random).await;
                missing = Some((Setting::Tags(tags.clone()), denied.error.message));
                client.call("CreateLogGroup", self.group_body(group, false)).await
            }
            created => created,
        };
        // Another runner has created a group that was missing a moment ago, and may have died before it set the
        // retention: set it twice rather than never.
        accept_existing(created).map_err(|failure| failure.error)?;
        locked(&self.groups).note_created(group);
        if let Some((setting, fault)) = missing {
            self.set_up.apply_later(client, group, setting, fault);
        }
        if let Some(days) = self.new_group.retention_days {
            self.set_up.apply(client, group, Setting::Retention(days)).await;
        }
        Ok(())
    }

    fn group_body(&self, group: &str, with_tags: bool) -> Bytes {
        let mut body = Map::new();
        body.insert("logGroupName".to_owned(), group.into());
        if let Some(class) = self.new_group.class {
            body.insert("logGroupClass".to_owned(), class.into());
        }
        if let Some(key) = &self.new_group.kms_key {
            body.insert("kmsKeyId".to_owned(), key.as_str().into());
        }
        if with_tags && !self.new_group.tags.is_empty() {
            body.insert("tags".to_owned(), json!(self.new_group.tags));
        }
        to_bytes(&Value::Object(body))
    }
}

/// The group is missing, and this sink may not create it.
pub(super) fn missing_group(group: &str) -> SinkError {
    SinkError::misconfigured(format!(
        "no log group {group}, and create_group is not true; create the group, or set create_group = true"
    ))
}

pub(super) fn to_bytes(body: &Value) -> Bytes {
    Bytes::from(body.to_string())
}

fn accept_existing(answer: Result<Bytes, CallFailure>) -> Result<(), CallFailure> {
    match answer {
        Ok(_) | Err(CallFailure { cause: FailureCause::Exists, .. }) => Ok(()),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_groups_are_limited() {
        let mut groups = Groups::default();
        for number in 0..3 * GROUPS_MAX {
            groups.note_created(&format!("/cron/{number}"));
            drop(groups.lock_of(&format!("/cron/{number}")));
        }
        assert_eq!((groups.created.len(), groups.being_created.len()), (GROUPS_MAX, 1));
        assert!(groups.created.contains_key(&format!("/cron/{}", 3 * GROUPS_MAX - 1)), "the last is remembered");
    }
}
