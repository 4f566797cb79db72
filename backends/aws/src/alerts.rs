//! Alert states of jobs, and transitions with their alerts. A run that changes no state costs nothing here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use domain::alert::{DeliveryState, JobState, Transition};
use domain::job::JobKey;
use domain::ports::{AlertStep, AlertStore, Cursor, Page, PortResult, Stored};
use jiff::{SignedDuration, Timestamp};

use crate::Backend;
use crate::dynamo::{ItemUpdate, ItemWriteResult, Query, TransactionPart, TransactionResult, run_parallel};
use crate::item::{Item, from_item, n, number_at, s, sortable_instant, text_at, to_item};
use crate::tables::{ALERTS_BY_TIME, ALERTS_PENDING, CAME, EXPIRES, LISTED, PENDING, READY};

const ALERTS: &str = "alerts";

/// The one partition of each index. One is enough, because only changes of state become transitions.
const INDEXED: &str = "yes";

/// An alert step as parts of a transaction: first the state, if it changes, then the transitions.
#[derive(Debug, Default)]
pub(crate) struct StepParts {
    state: Option<TransactionPart>,
    transitions: Vec<TransactionPart>,
}

impl StepParts {
    /// `retention`: age at which the transitions expire.
    pub(crate) fn new(step: Option<&AlertStep>, retention: Duration) -> PortResult<StepParts> {
        let Some(step) = step else { return Ok(StepParts::default()) };
        let mut parts = StepParts::default();
        if let Some(change) = &step.state {
            let mut item = state_key(&change.key);
            item.insert("state".to_owned(), AttributeValue::M(to_item(&change.state)?));
            item.insert("version".to_owned(), n(change.expected + 1));
            let (condition, values) = match change.expected {
                0 => ("attribute_not_exists(#id)", vec![]),
                version => ("#version = :version", vec![(":version", n(version))]),
            };
            parts.state = Some(TransactionPart::Put { table: ALERTS, item, condition: condition.to_owned(), values });
        }
        for transition in &step.transitions {
            let item = transition_to_item(transition, retention)?;
            let condition = "attribute_not_exists(#id)".to_owned();
            parts.transitions.push(TransactionPart::Put { table: ALERTS, item, condition, values: vec![] });
        }
        Ok(parts)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.is_none() && self.transitions.is_empty()
    }

    pub(crate) fn parts(&self) -> Vec<TransactionPart> {
        self.state.iter().chain(&self.transitions).cloned().collect()
    }

    /// Whether the stored state has another version; `refused`: results of these parts in the transaction.
    pub(crate) fn state_is_refused(&self, refused: &[Option<Option<Item>>]) -> bool {
        self.state.is_some() && refused.first().is_some_and(Option::is_some)
    }
}

/// Returns the step without the transitions that are already stored.
pub(crate) fn without_stored(step: StepParts, refused: &[Option<Option<Item>>]) -> PortResult<StepParts> {
    let before = usize::from(step.state.is_some());
    let is_stored = |place: usize| refused.get(before + place).is_some_and(Option::is_some);
    let all = step.transitions.len();
    let transitions: Vec<TransactionPart> = step
        .transitions
        .into_iter()
        .enumerate()
        .filter(|(place, _)| !is_stored(*place))
        .map(|(_, part)| part)
        .collect();
    if transitions.len() == all {
        let message = "DynamoDB refused a transaction without naming the part";
        return Err(domain::ports::PortError::Retry(message.to_owned()));
    }
    Ok(StepParts { state: step.state, transitions })
}

#[async_trait]
impl AlertStore for Backend {
    async fn states(&self, keys: &[JobKey]) -> PortResult<Vec<Stored<JobState>>> {
        let wanted: BTreeSet<&JobKey> = keys.iter().collect();
        let items = self.dynamo.batch_get(ALERTS, wanted.into_iter().map(state_key).collect()).await?;
        let found: BTreeMap<&str, &Item> = items.iter().filter_map(|item| Some((text_at(item, "id")?, item))).collect();
        Ok(keys.iter().map(|key| state_from_item(found.get(state_id(key).as_str()).copied())).collect())
    }

    async fn raise(&self, step: &AlertStep) -> PortResult<bool> {
        let mut step = StepParts::new(Some(step), self.retention)?;
        if step.state.is_none() {
            for part in step.transitions {
                if let TransactionPart::Put { table, item, condition, values } = part {
                    self.dynamo.put(table, item, &condition, values).await?;
                }
            }
            return Ok(true);
        }
        loop {
            match self.dynamo.transact(step.parts()).await? {
                TransactionResult::Done => return Ok(true),
                TransactionResult::Refused(refused) if step.state_is_refused(&refused) => return Ok(false),
                TransactionResult::Refused(refused) => step = without_stored(step, &refused)?,
            }
        }
    }

    async fn claim(&self, worker: &str, at: Timestamp, until: Timestamp, most: usize) -> PortResult<Vec<Transition>> {
        let mut due = Query {
            index: Some(ALERTS_PENDING),
            condition: format!("#{PENDING} = :yes AND #{READY} <= :at"),
            values: vec![(":yes", s(INDEXED)), (":at", s(format!("{}$", sortable_instant(at))))],
            limit: Some(most),
            ..Query::default()
        };
        let mut claimed = Vec::new();
        loop {
            let mut found = self.dynamo.query(ALERTS, due.clone()).await?;
            // At once as many as can still be claimed, so that none is claimed and not returned.
            while !found.items.is_empty() {
                let next: Vec<Item> = found.items.drain(..found.items.len().min(most - claimed.len())).collect();
                let (backend, worker) = (self.clone(), worker.to_owned());
                let claim = move |item: Item| {
                    let (backend, worker) = (backend.clone(), worker.clone());
                    async move { backend.claim_transition(&item, &worker, until).await }
                };
                claimed.extend(run_parallel(next, claim).await?.into_iter().flatten());
                if claimed.len() == most {
                    return Ok(claimed);
                }
            }
            if found.next.is_none() {
                return Ok(claimed);
            }
            due.start = found.next;
        }
    }

    async fn settle(&self, worker: &str, transitions: &[Transition], kept_until: Option<Timestamp>) -> PortResult<()> {
        let (backend, worker) = (self.clone(), worker.to_owned());
        let settle = move |transition: Transition| {
            let (backend, worker) = (backend.clone(), worker.clone());
            async move { backend.settle_transition(&worker, &transition, kept_until).await }
        };
        run_parallel(transitions.to_vec(), settle).await.map(drop)
    }

    async fn list(&self, after: Option<&Cursor>, most: usize) -> PortResult<Page<Transition>> {
        let before = after.map_or("~", |after| after.0.as_str());
        let mut query = Query {
            index: Some(ALERTS_BY_TIME),
            condition: format!("#{LISTED} = :yes AND #{CAME} < :before"),
            values: vec![(":yes", s(INDEXED)), (":before", s(before))],
            newest_first: true,
            limit: Some(most),
            ..Query::default()
        };
        let (mut records, mut last, mut seen) = (Vec::new(), None, 0);
        loop {
            let found = self.dynamo.query(ALERTS, query.clone()).await?;
            for item in &found.items {
                // An unreadable transition was quarantined when it was claimed.
                records.extend(transition_from_item(item).ok());
                last = text_at(item, CAME).map(str::to_owned);
                seen += 1;
            }
            if seen >= most || found.next.is_none() {
                let next = last.filter(|_| seen >= most).map(Cursor);
                return Ok(Page { records, next });
            }
            query.start = found.next;
            query.limit = Some(most - seen);
        }
    }
}

impl Backend {
    /// Claims a transition that the index lists; none if another worker was faster.
    async fn claim_transition(&self, item: &Item, worker: &str, until: Timestamp) -> PortResult<Option<Transition>> {
        let (Some(id), Some(ready)) = (text_at(item, "id"), text_at(item, READY)) else { return Ok(None) };
        let bare_id = id.strip_prefix(TRANSITION_PREFIX).unwrap_or(id);
        let key = Item::from([("id".to_owned(), s(id))]);
        let transition = match transition_from_item(item) {
            Ok(transition) => transition,
            Err(why) => {
                let update = ItemUpdate { expression: format!("REMOVE #{PENDING}"), ..ItemUpdate::default() };
                self.dynamo.update(ALERTS, key, update).await?;
                self.quarantine("alert", bare_id, &why).await;
                return Ok(None);
            }
        };
        let update = ItemUpdate {
            expression: format!("SET #{READY} = :until, #worker = :worker"),
            condition: format!("#{PENDING} = :yes AND #{READY} = :ready"),
            values: vec![
                (":until", s(sort_key(until, bare_id))),
                (":worker", s(worker)),
                (":yes", s(INDEXED)),
                (":ready", s(ready)),
            ],
            return_item: false,
        };
        let claimed = matches!(self.dynamo.update(ALERTS, key, update).await?, ItemWriteResult::Done(_));
        Ok(claimed.then_some(transition))
    }
}

impl Backend {
    /// Stores the result of a claimed transition. Changes nothing if another worker has claimed it since.
    async fn settle_transition(
        &self,
        worker: &str,
        transition: &Transition,
        kept_until: Option<Timestamp>,
    ) -> PortResult<()> {
        let pending = transition.delivery == DeliveryState::Pending;
        let ready = kept_until.unwrap_or(transition.not_before);
        let mut values = vec![
            (":transition", AttributeValue::M(to_item(transition)?)),
            (":ready", s(sort_key(ready, &transition.id))),
            (":worker", s(worker)),
        ];
        let set = format!("SET #transition = :transition, #{READY} = :ready");
        let expression = match (pending, kept_until) {
            (true, Some(_)) => set,
            (true, None) => {
                values.push((":yes", s(INDEXED)));
                format!("{set}, #{PENDING} = :yes REMOVE #worker")
            }
            (false, _) => format!("{set} REMOVE #worker, #{PENDING}"),
        };
        let update = ItemUpdate { expression, condition: "#worker = :worker".to_owned(), values, return_item: false };
        // A refused write is ignored: another worker has claimed the transition since.
        self.dynamo.update(ALERTS, transition_key(&transition.id), update).await.map(drop)
    }
}

/// Start of a transition's id in the table. Part of the stored format.
const TRANSITION_PREFIX: &str = "told:";

fn state_id(key: &JobKey) -> String {
    format!("state:{key}")
}

fn state_key(key: &JobKey) -> Item {
    Item::from([("id".to_owned(), s(state_id(key)))])
}

/// An unreadable state counts as that of a new job: at worst, one alert is repeated.
fn state_from_item(item: Option<&Item>) -> Stored<JobState> {
    let state = item.and_then(|item| from_item(item.get("state")?.as_m().ok()?).ok());
    let version = item.and_then(|item| number_at(item, "version"));
    Stored { record: state.unwrap_or_default(), version: version.unwrap_or(0) }
}

fn transition_key(id: &str) -> Item {
    Item::from([("id".to_owned(), s(format!("{TRANSITION_PREFIX}{id}")))])
}

/// A text that sorts by instant, then by id.
fn sort_key(at: Timestamp, id: &str) -> String {
    format!("{}#{id}", sortable_instant(at))
}

fn transition_to_item(transition: &Transition, retention: Duration) -> PortResult<Item> {
    let mut item = transition_key(&transition.id);
    let retention = SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX);
    let expires = transition.at.checked_add(retention).unwrap_or(Timestamp::MAX);
    item.insert("transition".to_owned(), AttributeValue::M(to_item(transition)?));
    item.insert(READY.to_owned(), s(sort_key(transition.not_before, &transition.id)));
    item.insert(LISTED.to_owned(), s(INDEXED));
    item.insert(CAME.to_owned(), s(sort_key(transition.at, &transition.id)));
    item.insert(EXPIRES.to_owned(), n(expires.as_second()));
    if transition.delivery == DeliveryState::Pending {
        item.insert(PENDING.to_owned(), s(INDEXED));
    }
    Ok(item)
}

fn transition_from_item(item: &Item) -> Result<Transition, String> {
    let transition = item.get("transition").and_then(|transition| transition.as_m().ok());
    from_item(transition.ok_or("the attribute `transition` is missing or not a map")?)
}
