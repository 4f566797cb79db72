//! Claims and heartbeats. These are the only calls that a runner's role may make to DynamoDB: a conditional update of a
//! run, and one of the runner's own item, both under keys that begin with its group.

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use domain::ports::{Claim, Claims, HEARTBEAT_REORDER_MAX, Heartbeat, PortError, PortResult};
use domain::run::{Run, RunId, RunKey};
use jiff::Timestamp;

use crate::Backend;
use crate::dynamo::{ItemUpdate, ItemWriteResult, TransactionPart};
use crate::item::{Item, n, s, sortable_instant, to_item};
use crate::runs::{RUNS, item_key as run_item_key, run_from_item};
use crate::settings::{RUNNERS, beat_from_item};

/// Attribute of a runner's item: the ids of its runs with a stop request, as a set.
const STOPS: &str = "stops";

#[async_trait]
impl Claims for Backend {
    async fn claim(&self, run: &RunKey, attempt: u32, runner: &str, host: &str, at: Timestamp) -> PortResult<Claim> {
        let update = ItemUpdate {
            expression: "SET #state = :claimed, #runner = :runner, #host = :host, #claimed_at = :at ADD #version :one"
                .to_owned(),
            condition: "#attempt = :attempt AND #state = :scheduled AND attribute_not_exists(#held) \
                        AND (attribute_not_exists(#start_by) OR #start_by >= :at)"
                .to_owned(),
            values: vec![
                (":claimed", s("claimed")),
                (":scheduled", s("scheduled")),
                (":runner", s(runner)),
                (":host", s(host)),
                (":at", s(sortable_instant(at))),
                (":attempt", n(attempt)),
                (":one", n(1)),
            ],
            return_item: false,
        };
        match self.dynamo.update(RUNS, run_item_key(run)?, update).await? {
            ItemWriteResult::Done(_) => Ok(Claim::Granted),
            ItemWriteResult::Refused(None) => Ok(Claim::Refused),
            ItemWriteResult::Refused(Some(item)) => {
                let mut stored: Run = run_from_item(&item).map_err(PortError::Permanent)?.record;
                let before = stored.state;
                let claim = stored.claim(attempt, runner, host, at);
                // Granted only if this runner already has the run: a run that is still free would have met the
                // condition.
                Ok(if stored.state == before { claim } else { Claim::Refused })
            }
        }
    }

    async fn heartbeat(&self, beat: &Heartbeat) -> PortResult<Vec<RunId>> {
        let ahead = beat.at.checked_add(HEARTBEAT_REORDER_MAX).unwrap_or(Timestamp::MAX);
        let update = ItemUpdate {
            expression: "SET #beat = :beat, #at = :at".to_owned(),
            condition: "attribute_not_exists(#at) OR #at <= :at OR #at > :ahead".to_owned(),
            values: vec![
                (":beat", AttributeValue::M(to_item(beat)?)),
                (":at", s(sortable_instant(beat.at))),
                (":ahead", s(sortable_instant(ahead))),
            ],
            return_item: true,
        };
        let item = match self.dynamo.update(RUNNERS, runner_item_key(home_group(beat), &beat.runner), update).await? {
            ItemWriteResult::Done(item) => item,
            ItemWriteResult::Refused(item) => item.unwrap_or_default(),
        };
        let Some(AttributeValue::Ss(mut stops)) = item.get(STOPS).cloned() else { return Ok(Vec::new()) };
        stops.sort();
        Ok(stops.into_iter().map(RunId).collect())
    }
}

impl Backend {
    /// Returns the update of a runner's item for a run with a stop request: adds the run while a process of it may be
    /// running, and removes it afterwards.
    pub(crate) async fn stop_request_update(&self, run: &Run) -> PortResult<Option<TransactionPart>> {
        let (Some(runner), Some(_)) = (&run.runner, run.stop_requested_at) else { return Ok(None) };
        let mut beats: Vec<Heartbeat> = self.runners().await?.iter().filter_map(beat_from_item).collect();
        beats.retain(|beat| beat.runner == *runner);
        let latest = beats.iter().max_by_key(|beat| beat.at);
        let home = latest.map_or(run.group.as_str(), home_group);
        let verb = if run.is_open() || run.needs_stop_request() { "ADD" } else { "DELETE" };
        let update = ItemUpdate {
            expression: format!("{verb} #{STOPS} :run_id"),
            values: vec![(":run_id", AttributeValue::Ss(vec![run.run_id.0.clone()]))],
            ..ItemUpdate::default()
        };
        Ok(Some(TransactionPart::Update { table: RUNNERS, key: runner_item_key(home, runner), update }))
    }
}

/// The group under which a runner is stored: the first of its groups, by name.
fn home_group(beat: &Heartbeat) -> &str {
    beat.groups.iter().map(String::as_str).min().unwrap_or("*")
}

fn runner_item_key(group: &str, runner: &str) -> Item {
    Item::from([("group".to_owned(), s(group)), ("runner".to_owned(), s(runner))])
}
