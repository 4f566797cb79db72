//! Creates streams and groups that a put found missing, within the account's quotas: all runners share them, and many
//! start jobs at the same minute. Called by `put`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::cloudwatch_logs::answer::{CallFailure, FailureCause};
use crate::cloudwatch_logs::batch::LogStream;
use crate::cloudwatch_logs::client::Client;
use crate::cloudwatch_logs::options::CloudwatchLogsConfig;
use crate::error::{ErrorClass, SinkError, SinkResult};

/// Half of an account's quota per second (service quotas: CreateLogStream 50, CreateLogGroup 10, PutRetentionPolicy 5);
/// jitter lengthens the intervals further.
const STREAMS_PER_SECOND: u32 = 25;
const GROUPS_PER_SECOND: u32 = 5;
const RETENTIONS_PER_SECOND: u32 = 2;
/// Longest delay of the first call of a burst. Chosen: spreads the calls of runners that start at the same instant.
const BURST_JITTER: Duration = Duration::from_millis(500);
/// Groups that are remembered as created here, and groups without retention. Chosen: a few 100 kB of names at most.
const GROUPS_MAX: usize = 1024;

pub(super) struct Creator {
    create_group: bool,
    create_stream: bool,
    new_group: crate::cloudwatch_logs::options::NewGroup,
    random: fn() -> u64,
    streams: RateLimiter,
    /// One group is created at a time, so a hundred new streams of one group create it once.
    groups: Mutex<Groups>,
}

struct Groups {
    creates: RateLimiter,
    retentions: RateLimiter,
    created: BTreeMap<String, Instant>,
    /// Created, and not yet given their retention.
    without_retention: BTreeSet<String>,
}

impl Groups {
    /// Forgets another group when there are many: a missing one costs one more call.
    fn note_created(&mut self, group: &str, wants_retention: bool) {
        while self.created.len() >= GROUPS_MAX {
            self.created.pop_first();
        }
        self.created.insert(group.to_owned(), Instant::now());
        if wants_retention {
            self.without_retention.insert(group.to_owned());
        }
    }
}

impl Creator {
    pub(super) fn new(config: &CloudwatchLogsConfig, random: fn() -> u64) -> Creator {
        let groups = Groups {
            creates: RateLimiter::new(GROUPS_PER_SECOND),
            retentions: RateLimiter::new(RETENTIONS_PER_SECOND),
            created: BTreeMap::new(),
            without_retention: BTreeSet::new(),
        };
        Creator {
            create_group: config.create_group,
            create_stream: config.create_stream,
            new_group: config.new_group.clone(),
            random,
            streams: RateLimiter::new(STREAMS_PER_SECOND),
            groups: Mutex::new(groups),
        }
    }

    /// Creates the stream, and its group when that is missing. Idempotent.
    ///
    /// # Errors
    /// Misconfigured when this sink may not create what is missing; else the service's error.
    pub(super) async fn create(&self, client: &Client, log_stream: &LogStream) -> SinkResult<()> {
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

    async fn create_group(&self, client: &Client, group: &str, requested_at: Instant) -> SinkResult<()> {
        if !self.create_group {
            return Err(missing_group(group));
        }
        let mut groups = self.groups.lock().await;
        // Another task created it while this one waited. One created before the request was deleted since.
        if groups.created.get(group).is_some_and(|created| *created > requested_at) {
            return self.put_retention(client, group, &mut groups).await;
        }
        if groups.without_retention.len() >= GROUPS_MAX {
            let message = format!("{GROUPS_MAX} log groups wait for their retention; {group} is created after them");
            return Err(SinkError::retry(message));
        }
        groups.creates.wait(self.random).await;
        let created = client.call("CreateLogGroup", self.group_body(group)).await;
        // Another runner has created a group that was missing a moment ago, and may have died before it set the
        // retention: set it twice rather than never.
        accept_existing(created).map_err(|failure| failure.error)?;
        groups.note_created(group, self.new_group.retention_days.is_some());
        self.put_retention(client, group, &mut groups).await
    }

    /// Sets the retention of a group that was created here.
    async fn put_retention(&self, client: &Client, group: &str, groups: &mut Groups) -> SinkResult<()> {
        let Some(days) = self.new_group.retention_days else { return Ok(()) };
        if !groups.without_retention.contains(group) {
            return Ok(());
        }
        groups.retentions.wait(self.random).await;
        let body = json!({ "logGroupName": group, "retentionInDays": days });
        client.call("PutRetentionPolicy", to_bytes(&body)).await.map_err(|failure| failure.error)?;
        groups.without_retention.remove(group);
        Ok(())
    }

    /// Sets a retention that failed when the group was created, before the next put to the group.
    ///
    /// # Errors
    /// The service's error.
    pub(super) async fn apply_retention(&self, client: &Client, group: &str) -> SinkResult<()> {
        if self.new_group.retention_days.is_none() {
            return Ok(());
        }
        let mut groups = self.groups.lock().await;
        self.put_retention(client, group, &mut groups).await
    }

    fn group_body(&self, group: &str) -> Bytes {
        let mut body = Map::new();
        body.insert("logGroupName".to_owned(), group.into());
        if let Some(class) = self.new_group.class {
            body.insert("logGroupClass".to_owned(), class.into());
        }
        if let Some(key) = &self.new_group.kms_key {
            body.insert("kmsKeyId".to_owned(), key.as_str().into());
        }
        if !self.new_group.tags.is_empty() {
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

/// Spaces calls evenly, with jitter.
struct RateLimiter {
    every: Duration,
    next: Mutex<Option<Instant>>,
}

impl RateLimiter {
    fn new(per_second: u32) -> RateLimiter {
        RateLimiter { every: Duration::from_secs(1) / per_second, next: Mutex::new(None) }
    }

    async fn wait(&self, random: fn() -> u64) {
        let share = |most: Duration| most.mul_f64((random() >> 11) as f64 / (1u64 << 53) as f64);
        let mut next = self.next.lock().await;
        let now = Instant::now();
        let at = match *next {
            Some(at) if at > now => at,
            _ => now + share(BURST_JITTER),
        };
        *next = Some(at + self.every + share(self.every / 4));
        drop(next);
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// SplitMix64 (Steele, Lea, Flood 2014), with the same seed in every test process.
    fn random() -> u64 {
        static STATE: AtomicU64 = AtomicU64::new(20_261_123);
        let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The most calls within any second.
    fn busiest(turns: &[Instant]) -> usize {
        let within = |from: Instant| turns.iter().filter(|at| **at >= from && at.duration_since(from) < SECOND).count();
        turns.iter().map(|from| within(*from)).max().unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_exceeds_its_share_of_the_quota_even_across_minutes() {
        for per_second in [STREAMS_PER_SECOND, GROUPS_PER_SECOND, RETENTIONS_PER_SECOND] {
            let limiter = RateLimiter::new(per_second);
            let mut turns = Vec::new();
            // A burst that ends in one minute, one at the start of the next, and one during that.
            for wait in [0, 40, 60_000, 1] {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                for _ in 0..3 * per_second {
                    limiter.wait(random).await;
                    turns.push(Instant::now());
                }
            }
            assert!(busiest(&turns) <= per_second as usize, "{} of {per_second}", busiest(&turns));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn runners_that_start_at_the_same_instant_spread_their_calls() {
        const RUNNERS: u32 = 200;
        let mut first_turns = tokio::task::JoinSet::new();
        let minute = Instant::now();
        for _ in 0..RUNNERS {
            first_turns.spawn(async move {
                RateLimiter::new(STREAMS_PER_SECOND).wait(random).await;
                minute.elapsed()
            });
        }
        let waits = first_turns.join_all().await;
        assert!(waits.iter().all(|wait| *wait <= BURST_JITTER + Duration::from_millis(1)), "{waits:?}");
        // With an even spread each fifth of the jitter has its share of the runners.
        for fifth in 0..5 {
            let from = BURST_JITTER / 5 * fifth;
            let within = waits.iter().filter(|wait| **wait >= from && **wait < from + BURST_JITTER / 5).count();
            assert!(within > RUNNERS as usize / 10, "{within} runners from {from:?} on");
        }
    }

    #[test]
    fn remembered_groups_are_limited() {
        let mut groups = Groups {
            creates: RateLimiter::new(1),
            retentions: RateLimiter::new(1),
            created: BTreeMap::new(),
            without_retention: BTreeSet::new(),
        };
        for number in 0..3 * GROUPS_MAX {
            groups.note_created(&format!("/cron/{number}"), false);
        }
        assert_eq!((groups.created.len(), groups.without_retention.len()), (GROUPS_MAX, 0));
        assert!(groups.created.contains_key(&format!("/cron/{}", 3 * GROUPS_MAX - 1)), "the last is remembered");
    }
}
