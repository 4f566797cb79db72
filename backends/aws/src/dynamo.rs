//! DynamoDB as the ports use it: each call counted, its fault named, and what AWS would refuse refused before it is sent.
//!
//! In expressions, an attribute is written `#name`; the placeholders are made from what stands there.

mod batches;

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ConsumedCapacity, Put, ReturnConsumedCapacity, ReturnValue,
    ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use domain::ports::{PortError, PortResult};

use crate::fault::{Deed, fault};
use crate::item::{ITEM_BYTES_MAX, Item, bytes_of};
use crate::meter::{Meter, Spent};

const SERVICE: &str = "DynamoDB";

/// DynamoDB API reference: TransactWriteItems.
const TRANSACTION_MAX: usize = 100;

/// Calls at the same time, of one port call with many parts. Ours: what one partition takes in 30 ms.
pub const PARALLEL_MAX: usize = 32;

/// DynamoDB with the names of one installation.
#[derive(Clone, Debug)]
pub struct Dynamo {
    client: Client,
    prefix: String,
    meter: Arc<Meter>,
}

/// What came of a conditional write.
#[derive(Debug)]
pub enum Changed {
    /// The attributes that were asked for; none for a put.
    Done(Item),
    /// The condition did not hold; this is what is there.
    Refused(Option<Item>),
}

/// A conditional change of one item.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub set: String,
    pub condition: String,
    pub values: Vec<(&'static str, AttributeValue)>,
    /// Whether the whole item is wanted afterwards.
    pub all_new: bool,
}

/// Items of one partition of a table or index.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub index: Option<&'static str>,
    pub condition: String,
    pub filter: String,
    pub values: Vec<(&'static str, AttributeValue)>,
    pub backward: bool,
    /// Not to be had of an index.
    pub consistent: bool,
    pub limit: Option<usize>,
    pub start: Option<Item>,
    /// Only these attributes; all when empty.
    pub wanted: &'static str,
}

#[derive(Debug, Default)]
pub struct Found {
    pub items: Vec<Item>,
    /// Where the next page begins.
    pub next: Option<Item>,
}

/// One part of a transaction.
#[derive(Clone, Debug)]
pub enum Part {
    Put { table: &'static str, item: Item, condition: String, values: Vec<(&'static str, AttributeValue)> },
    Update { table: &'static str, key: Item, change: Change },
}

/// What came of a transaction.
#[derive(Debug)]
pub enum Transacted {
    Done,
    /// For each part, whether its condition held, and what was there when it did not.
    Refused(Vec<Option<Option<Item>>>),
}

impl Dynamo {
    pub fn new(client: Client, prefix: &str, meter: Arc<Meter>) -> Dynamo {
        Dynamo { client, prefix: prefix.to_owned(), meter }
    }

    fn name(&self, table: &str) -> String {
        format!("{}-{table}", self.prefix)
    }

    fn place(&self, table: &str) -> String {
        format!("the table {}", self.name(table))
    }

    /// Counts a call; `refused` writes are billed and tell nothing.
    fn count<'c>(
        &self,
        action: &str,
        table: &str,
        capacities: impl IntoIterator<Item = &'c ConsumedCapacity>,
        items_read: usize,
    ) {
        let is_read = matches!(action, "GetItem" | "BatchGetItem" | "Query" | "Scan");
        let mut spent = Spent { requests: 1, billed_requests: 1, items_read: items_read as u64, ..Spent::default() };
        for capacity in capacities {
            let units = capacity.capacity_units().unwrap_or(0.0);
            *(if is_read { &mut spent.read_units } else { &mut spent.write_units }) += units;
        }
        self.meter.add(format!("dynamodb {action} {table}"), spent);
    }

    /// A refused condition costs what the write would have cost without its indexes; the answer does not say how much.
    fn count_refused(&self, action: &str, table: &str, item_bytes: usize) {
        let write_units = item_bytes.div_ceil(1024).max(1) as f64;
        let spent = Spent { requests: 1, billed_requests: 1, write_units, ..Spent::default() };
        self.meter.add(format!("dynamodb {action} {table}"), spent);
    }

    fn fits(&self, table: &str, item: &Item) -> PortResult<()> {
        let bytes = bytes_of(item);
        if bytes <= ITEM_BYTES_MAX {
            return Ok(());
        }
        Err(PortError::Permanent(format!(
            "an item of {bytes} bytes does not fit into {}, which takes {ITEM_BYTES_MAX}; make the job's command, environment or rules smaller",
            self.place(table)
        )))
    }

    pub async fn put(
        &self,
        table: &'static str,
        item: Item,
        condition: &str,
        values: Vec<(&'static str, AttributeValue)>,
    ) -> PortResult<Changed> {
        self.fits(table, &item)?;
        let bytes = bytes_of(&item);
        let call = self
            .client
            .put_item()
            .table_name(self.name(table))
            .set_item(Some(item))
            .set_condition_expression(some(condition))
            .set_expression_attribute_names(names_in(&[condition]))
            .set_expression_attribute_values(values_of(values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        match call.send().await {
            Ok(done) => {
                self.count("PutItem", table, done.consumed_capacity(), 0);
                Ok(Changed::Done(Item::new()))
            }
            Err(error) => {
                self.count_refused("PutItem", table, bytes);
                let place = self.place(table);
                let told = fault(Deed { service: SERVICE, action: "PutItem", place: &place }, &error);
                match error.into_service_error() {
                    aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(refused) => {
                        Ok(Changed::Refused(refused.item))
                    }
                    _ => Err(told),
                }
            }
        }
    }

    pub async fn update(&self, table: &'static str, key: Item, change: Change) -> PortResult<Changed> {
        let returned = if change.all_new { ReturnValue::AllNew } else { ReturnValue::None };
        let call = self
            .client
            .update_item()
            .table_name(self.name(table))
            .set_key(Some(key))
            .update_expression(&change.set)
            .set_condition_expression(some(&change.condition))
            .set_expression_attribute_names(names_in(&[&change.set, &change.condition]))
            .set_expression_attribute_values(values_of(change.values))
            .return_values(returned)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        match call.send().await {
            Ok(done) => {
                self.count("UpdateItem", table, done.consumed_capacity(), 0);
                Ok(Changed::Done(done.attributes.unwrap_or_default()))
            }
            Err(error) => {
                self.count_refused("UpdateItem", table, 1);
                let place = self.place(table);
                let told = fault(Deed { service: SERVICE, action: "UpdateItem", place: &place }, &error);
                match error.into_service_error() {
                    aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException(
                        refused,
                    ) => Ok(Changed::Refused(refused.item)),
                    _ => Err(told),
                }
            }
        }
    }

    /// Deletes an item if the condition holds (empty: in any case). Idempotent.
    pub async fn delete(
        &self,
        table: &'static str,
        key: Item,
        condition: &str,
        values: Vec<(&'static str, AttributeValue)>,
    ) -> PortResult<()> {
        let call = self
            .client
            .delete_item()
            .table_name(self.name(table))
            .set_key(Some(key))
            .set_condition_expression(some(condition))
            .set_expression_attribute_names(names_in(&[condition]))
            .set_expression_attribute_values(values_of(values))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        match call.send().await {
            Ok(done) => self.count("DeleteItem", table, done.consumed_capacity(), 0),
            Err(error) => {
                self.count_refused("DeleteItem", table, 1);
                if error.as_service_error().is_some_and(|error| error.is_conditional_check_failed_exception()) {
                    return Ok(());
                }
                let place = self.place(table);
                return Err(fault(Deed { service: SERVICE, action: "DeleteItem", place: &place }, &error));
            }
        }
        Ok(())
    }

    /// Strongly consistent.
    pub async fn get(&self, table: &'static str, key: Item) -> PortResult<Option<Item>> {
        let call = self
            .client
            .get_item()
            .table_name(self.name(table))
            .set_key(Some(key))
            .consistent_read(true)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let place = self.place(table);
        let got = call.send().await.map_err(|error| {
            self.count("GetItem", table, None, 0);
            fault(Deed { service: SERVICE, action: "GetItem", place: &place }, &error)
        })?;
        self.count("GetItem", table, got.consumed_capacity(), usize::from(got.item.is_some()));
        Ok(got.item)
    }

    /// One page.
    pub async fn query(&self, table: &'static str, query: Query) -> PortResult<Found> {
        let place = self.place(table);
        let call = self
            .client
            .query()
            .table_name(self.name(table))
            .set_index_name(query.index.map(str::to_owned))
            .set_expression_attribute_names(names_in(&[&query.condition, &query.filter, query.wanted]))
            .key_condition_expression(query.condition)
            .set_filter_expression(some(&query.filter))
            .set_projection_expression(some(query.wanted))
            .set_expression_attribute_values(values_of(query.values))
            .scan_index_forward(!query.backward)
            .consistent_read(query.consistent)
            .set_limit(query.limit.map(|limit| i32::try_from(limit.max(1)).unwrap_or(i32::MAX)))
            .set_exclusive_start_key(query.start)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let got = call.send().await.map_err(|error| {
            self.count("Query", table, None, 0);
            fault(Deed { service: SERVICE, action: "Query", place: &place }, &error)
        })?;
        self.count("Query", table, got.consumed_capacity(), got.scanned_count().max(0) as usize);
        Ok(Found { next: got.last_evaluated_key, items: got.items.unwrap_or_default() })
    }

    /// All pages.
    pub async fn query_all(&self, table: &'static str, mut query: Query) -> PortResult<Vec<Item>> {
        let mut items = Vec::new();
        loop {
            let found = self.query(table, query.clone()).await?;
            items.extend(found.items);
            if found.next.is_none() {
                return Ok(items);
            }
            query.start = found.next;
        }
    }

    /// One page of a whole table, strongly consistent.
    pub async fn scan(&self, table: &'static str, start: Option<Item>, limit: Option<i32>) -> PortResult<Found> {
        let place = self.place(table);
        let call = self
            .client
            .scan()
            .table_name(self.name(table))
            .set_exclusive_start_key(start)
            .set_limit(limit)
            .consistent_read(true)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let got = call.send().await.map_err(|error| {
            self.count("Scan", table, None, 0);
            fault(Deed { service: SERVICE, action: "Scan", place: &place }, &error)
        })?;
        self.count("Scan", table, got.consumed_capacity(), got.scanned_count().max(0) as usize);
        Ok(Found { next: got.last_evaluated_key, items: got.items.unwrap_or_default() })
    }

    /// All or nothing. Costs two units for each that a single write costs.
    pub async fn transact(&self, parts: Vec<Part>) -> PortResult<Transacted> {
        let table = match parts.first() {
            Some(Part::Put { table, .. } | Part::Update { table, .. }) => *table,
            None => return Ok(Transacted::Done),
        };
        let place = format!("{} and others", self.place(table));
        if parts.len() > TRANSACTION_MAX {
            return Err(PortError::Permanent(format!(
                "a transaction of {} items on {place} is larger than DynamoDB's {TRANSACTION_MAX}",
                parts.len()
            )));
        }
        let count = parts.len();
        let items = parts.into_iter().map(|part| self.transact_item(part)).collect::<PortResult<Vec<_>>>()?;
        let call = self.client.transact_write_items().set_transact_items(Some(items));
        match call.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await {
            Ok(done) => {
                self.count("TransactWriteItems", table, done.consumed_capacity(), 0);
                Ok(Transacted::Done)
            }
            Err(error) => {
                self.count_refused("TransactWriteItems", table, 2 * 1024 * count);
                let told = fault(Deed { service: SERVICE, action: "TransactWriteItems", place: &place }, &error);
                match error.into_service_error() {
                    TransactWriteItemsError::TransactionCanceledException(cancelled) => {
                        refused(cancelled.cancellation_reasons.unwrap_or_default(), &place)
                    }
                    _ => Err(told),
                }
            }
        }
    }

    fn transact_item(&self, part: Part) -> PortResult<TransactWriteItem> {
        let item = TransactWriteItem::builder();
        let old = ReturnValuesOnConditionCheckFailure::AllOld;
        let built = match part {
            Part::Put { table, item: content, condition, values } => {
                self.fits(table, &content)?;
                let put = Put::builder()
                    .table_name(self.name(table))
                    .set_item(Some(content))
                    .set_expression_attribute_names(names_in(&[&condition]))
                    .set_condition_expression(some(&condition))
                    .set_expression_attribute_values(values_of(values))
                    .return_values_on_condition_check_failure(old);
                put.build().map(|put| item.put(put))
            }
            Part::Update { table, key, change } => {
                let update = Update::builder()
                    .table_name(self.name(table))
                    .set_key(Some(key))
                    .set_expression_attribute_names(names_in(&[&change.set, &change.condition]))
                    .update_expression(&change.set)
                    .set_condition_expression(some(&change.condition))
                    .set_expression_attribute_values(values_of(change.values))
                    .return_values_on_condition_check_failure(old);
                update.build().map(|update| item.update(update))
            }
        };
        Ok(built.map_err(|error| PortError::Permanent(error.to_string()))?.build())
    }
}

/// Only refused conditions are an answer; anything else that cancels a transaction is a fault.
fn refused(reasons: Vec<CancellationReason>, place: &str) -> PortResult<Transacted> {
    let deed = Deed { service: SERVICE, action: "TransactWriteItems", place };
    let mut parts = Vec::with_capacity(reasons.len());
    for reason in reasons {
        match reason.code.as_deref() {
            None | Some("None") => parts.push(None),
            Some("ConditionalCheckFailed") => parts.push(Some(reason.item)),
            Some("TransactionConflict" | "ProvisionedThroughputExceeded" | "ThrottlingError") => {
                let says = reason.message.as_deref().unwrap_or("somebody else writes the same item");
                return Err(PortError::Retry(format!("DynamoDB TransactWriteItems on {place} must wait: {says}")));
            }
            Some(code) => {
                return Err(crate::fault::told(deed, 400, code, reason.message.as_deref().unwrap_or("no message")));
            }
        }
    }
    Ok(Transacted::Refused(parts))
}

/// Does all, at most [`PARALLEL_MAX`] at a time; the answers in order, or the first error once all have ended.
pub async fn in_parallel<I, T, F>(inputs: Vec<I>, work: impl Fn(I) -> F) -> PortResult<Vec<T>>
where
    I: Send + 'static,
    T: Send + 'static,
    F: Future<Output = PortResult<T>> + Send + 'static,
{
    let mut answers: Vec<Option<PortResult<T>>> = inputs.iter().map(|_| None).collect();
    let mut running = tokio::task::JoinSet::new();
    let mut waiting = inputs.into_iter().enumerate();
    loop {
        while running.len() < PARALLEL_MAX
            && let Some((place, input)) = waiting.next()
        {
            let one = work(input);
            running.spawn(async move { (place, one.await) });
        }
        match running.join_next().await {
            Some(Ok((place, answer))) => answers[place] = Some(answer),
            Some(Err(error)) => return Err(PortError::Retry(format!("a call was given up: {error}"))),
            None => break,
        }
    }
    answers.into_iter().flatten().collect()
}

fn some(expression: &str) -> Option<String> {
    (!expression.is_empty()).then(|| expression.to_owned())
}

/// `#name` in the expressions stands for the attribute `name`.
fn names_in(expressions: &[&str]) -> Option<HashMap<String, String>> {
    let mut names = HashMap::new();
    for expression in expressions {
        for part in expression.split('#').skip(1) {
            let end = part.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(part.len());
            names.insert(format!("#{}", &part[..end]), part[..end].to_owned());
        }
    }
    (!names.is_empty()).then_some(names)
}

fn values_of(values: Vec<(&'static str, AttributeValue)>) -> Option<HashMap<String, AttributeValue>> {
    (!values.is_empty()).then(|| values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_made_from_the_expressions() {
        let names = names_in(&["SET #state = :x, #job_key=:y", "", "attribute_not_exists(#held)"]).unwrap();
        let mut names: Vec<(&str, &str)> = names.iter().map(|(key, name)| (key.as_str(), name.as_str())).collect();
        names.sort_unstable();
        assert_eq!(names, [("#held", "held"), ("#job_key", "job_key"), ("#state", "state")]);
        assert_eq!(names_in(&["", "x = :y"]), None);
    }
}
