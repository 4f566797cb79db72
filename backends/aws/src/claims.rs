//! Who runs what, and who is alive. All that a runner's role may do in DynamoDB is here: one conditional update of a run,
//! and one of the runner's own item, both under keys that begin with its group.

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use domain::ports::{BEAT_OVERTAKEN_MAX, Beat, Claim, Claims, PortError, PortResult};
use domain::run::{Run, RunId, RunKey};
use jiff::Timestamp;

use crate::Backend;
use crate::dynamo::{Change, Changed, Part};
use crate::item::{Item, instant, item_of, n, s};
use crate::runs::{RUNS, key_of, run_of};
use crate::settings::{RUNNERS, beat_of};

/// Runs of a runner that it is to stop: a set of their names in its item.
const STOPS: &str = "stops";

#[async_trait]
impl Claims for Backend {
    async fn claim(&self, run: &RunKey, attempt: u32, runner: &str, host: &str, at: Timestamp) -> PortResult<Claim> {
        let change = Change {
            set: "SET #state = :claimed, #runner = :runner, #host = :host, #claimed_at = :at ADD #version :one"
                .to_owned(),
            condition: "#attempt = :attempt AND #state = :scheduled AND attribute_not_exists(#held) \
                        AND (attribute_not_exists(#start_by) OR #start_by >= :at)"
                .to_owned(),
            values: vec![
                (":claimed", s("claimed")),
                (":scheduled", s("scheduled")),
                (":runner", s(runner)),
                (":host", s(host)),
                (":at", s(instant(at))),
                (":attempt", n(attempt)),
                (":one", n(1)),
            ],
            all_new: false,
        };
        match self.dynamo.update(RUNS, key_of(run)?, change).await? {
            Changed::Done(_) => Ok(Claim::Granted),
            Changed::Refused(None) => Ok(Claim::Refused),
            Changed::Refused(Some(item)) => {
                let mut stored: Run = run_of(&item).map_err(PortError::Permanent)?.record;
                let before = stored.state;
                let claim = stored.claim(attempt, runner, host, at);
                // It is this runner's already; what could still be taken would have been taken.
                Ok(if stored.state == before { claim } else { Claim::Refused })
            }
        }
    }

    async fn beat(&self, beat: &Beat) -> PortResult<Vec<RunId>> {
        let ahead = beat.at.checked_add(BEAT_OVERTAKEN_MAX).unwrap_or(Timestamp::MAX);
        let change = Change {
            set: "SET #beat = :beat, #at = :at".to_owned(),
            condition: "attribute_not_exists(#at) OR #at <= :at OR #at > :ahead".to_owned(),
            values: vec![
                (":beat", AttributeValue::M(item_of(beat)?)),
                (":at", s(instant(beat.at))),
                (":ahead", s(instant(ahead))),
            ],
            all_new: true,
        };
        let item = match self.dynamo.update(RUNNERS, item_key(home_of(beat), &beat.runner), change).await? {
            Changed::Done(item) => item,
            Changed::Refused(item) => item.unwrap_or_default(),
        };
        let Some(AttributeValue::Ss(mut stops)) = item.get(STOPS).cloned() else { return Ok(Vec::new()) };
        stops.sort();
        Ok(stops.into_iter().map(RunId).collect())
    }
}

impl Backend {
    /// What is to be changed for the runner of a run that somebody asked to stop: told while the run is its, forgotten
    /// when it is over.
    pub(crate) async fn stop_part(&self, run: &Run) -> PortResult<Option<Part>> {
        let (Some(runner), Some(_)) = (&run.runner, run.stop_requested_at) else { return Ok(None) };
        let mut beats: Vec<Beat> = self.runners().await?.iter().filter_map(beat_of).collect();
        beats.retain(|beat| beat.runner == *runner);
        let latest = beats.iter().max_by_key(|beat| beat.at);
        let home = latest.map_or(run.group.as_str(), home_of);
        let verb = if run.is_open() { "ADD" } else { "DELETE" };
        let change = Change {
            set: format!("{verb} #{STOPS} :run_id"),
            values: vec![(":run_id", AttributeValue::Ss(vec![run.run_id.0.clone()]))],
            ..Change::default()
        };
        Ok(Some(Part::Update { table: RUNNERS, key: item_key(home, runner), change }))
    }
}

/// The group under which a runner stands: the first of its own, by name.
fn home_of(beat: &Beat) -> &str {
    beat.groups.iter().map(String::as_str).min().unwrap_or("*")
}

fn item_key(group: &str, runner: &str) -> Item {
    Item::from([("group".to_owned(), s(group)), ("runner".to_owned(), s(runner))])
}
