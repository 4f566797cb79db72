//! Claims and heartbeats. These are the only calls that a runner's role may make to DynamoDB: a conditional update of a
//! run, and one of the runner's own item, both under keys that begin with its group.

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use domain::ports::{
    Claim, Claimant, Claims, HEARTBEAT_REORDER_MAX, Heartbeat, HeartbeatAnswer, NAME_HELD, PortError, PortResult,
};
use domain::run::{Run, RunId, RunKey};
use jiff::Timestamp;

use crate::Backend;
use crate::dynamo::{ItemUpdate, ItemWriteResult, TransactionPart};
use crate::item::{Item, n, s, sortable_instant, to_item};
use crate::runs::{RUNS, item_key as run_item_key, run_from_item};
use crate::settings::{RUNNERS, beat_from_item};

/// Attribute of a runner's item: the ids of its runs with a stop request, as a set.
const STOPS: &str = "stops";

/// The attributes of a run that a claim of this release or the last one writes or compares, with the keys. The role of
/// runners (`lambdas/group.yaml`) may access no others. `checked` is that of `sexton check` of the last release.
pub const CLAIM_ATTRIBUTES: [&str; 12] = [
    "bucket",
    "run_id",
    "state",
    "runner",
    "runner_id",
    "host",
    "claimed_at",
    "version",
    "attempt",
    "held",
    "start_by",
    "checked",
];

/// The conditional update by which a runner takes an attempt.
pub(crate) fn claim_update(attempt: u32, by: Claimant<'_>, at: Timestamp) -> ItemUpdate {
    let set_id = if by.id.is_some() { ", #runner_id = :runner_id" } else { "" };
    let mut update = ItemUpdate {
        expression: format!(
            "SET #state = :claimed, #runner = :runner, #host = :host, #claimed_at = :at{set_id} ADD #version :one"
        ),
        condition: "#attempt = :attempt AND #state = :scheduled AND attribute_not_exists(#held) \
                    AND (attribute_not_exists(#start_by) OR #start_by >= :at)"
            .to_owned(),
        values: vec![
            (":claimed", s("claimed")),
            (":scheduled", s("scheduled")),
            (":runner", s(by.runner)),
            (":host", s(by.host)),
            (":at", s(sortable_instant(at))),
            (":attempt", n(attempt)),
            (":one", n(1)),
        ],
        return_item: false,
    };
    update.values.extend(by.id.map(|id| (":runner_id", s(id))));
    update
}

#[async_trait]
impl Claims for Backend {
    async fn claim(&self, run: &RunKey, attempt: u32, by: Claimant<'_>, at: Timestamp) -> PortResult<Claim> {
        match self.dynamo.update(RUNS, run_item_key(run)?, claim_update(attempt, by, at)).await? {
            ItemWriteResult::Done(_) => Ok(Claim::Granted),
            ItemWriteResult::Refused(None) => Ok(Claim::Refused),
            ItemWriteResult::Refused(Some(item)) => {
                let mut stored: Run = run_from_item(&item).map_err(PortError::Permanent)?.record;
                let before = stored.state;
                let claim = stored.claim(attempt, by, at);
                // Granted only if this runner already has the run: a run that is still free would have met the
                // condition.
                Ok(if stored.state == before { claim } else { Claim::Refused })
            }
        }
    }

    async fn heartbeat(&self, beat: &Heartbeat) -> PortResult<HeartbeatAnswer> {
        let ahead = beat.at.checked_add(HEARTBEAT_REORDER_MAX).unwrap_or(Timestamp::MAX);
        let mut update = ItemUpdate {
            expression: "SET #beat = :beat, #at = :at".to_owned(),
            condition: "(attribute_not_exists(#at) OR #at <= :at OR #at > :ahead)".to_owned(),
            values: vec![
                (":beat", AttributeValue::M(to_item(beat)?)),
                (":at", s(sortable_instant(beat.at))),
                (":ahead", s(sortable_instant(ahead))),
            ],
            return_item: true,
        };
        if let Some(id) = &beat.id {
            update.condition +=
                " AND (attribute_not_exists(#beat.#id) OR #beat.#id = :id OR #at <= :silent OR #at >= :other_clock)";
            let silent = beat.at.checked_sub(NAME_HELD).unwrap_or(Timestamp::MIN);
            let other_clock = beat.at.checked_add(NAME_HELD).unwrap_or(Timestamp::MAX);
            update.values.extend([
                (":id", s(id)),
                (":silent", s(sortable_instant(silent))),
                (":other_clock", s(sortable_instant(other_clock))),
            ]);
        }
        let item = match self.dynamo.update(RUNNERS, runner_item_key(home_group(beat), &beat.runner), update).await? {
            ItemWriteResult::Done(item) => item,
            ItemWriteResult::Refused(item) => {
                let item = item.unwrap_or_default();
                if let Some(rival) = beat_from_item(&item).and_then(|stored| beat.has_rival(&stored)) {
                    return Ok(HeartbeatAnswer::NameInUse(rival));
                }
                item
            }
        };
        let mut stops = match item.get(STOPS) {
            Some(AttributeValue::Ss(stops)) => stops.clone(),
            _ => Vec::new(),
        };
        stops.sort();
        Ok(HeartbeatAnswer::Stops(stops.into_iter().map(RunId).collect()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamo::attribute_names;

    #[test]
    fn a_claim_accesses_only_the_attributes_that_the_role_of_runners_may_access() {
        let by = Claimant { runner: "r", host: "h", id: Some("i") };
        let update = claim_update(1, by, Timestamp::UNIX_EPOCH);
        let names = attribute_names(&[&update.expression, &update.condition]).unwrap_or_default();
        let unlisted: Vec<&String> = names.values().filter(|name| !CLAIM_ATTRIBUTES.contains(&name.as_str())).collect();
        assert_eq!((names.len() > 5, unlisted), (true, vec![]));
        let run = RunKey::new("db", RunId::unscheduled(Timestamp::UNIX_EPOCH, [0; 6]));
        let keys = run_item_key(&run).expect("a key");
        assert!(keys.keys().all(|key| CLAIM_ATTRIBUTES.contains(&key.as_str())), "{keys:?}");
        assert!(!CLAIM_ATTRIBUTES.contains(&"outcome"));
    }
}
