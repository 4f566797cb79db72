//! Client of DynamoDB for the ports. Counts each call, names it in errors, and refuses what AWS would refuse before it
//! is sent.
//!
//! Expressions write an attribute as `#name`; the placeholder names are collected from the expressions.

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

use crate::fault::{CallName, call_error};
use crate::item::{ITEM_BYTES_MAX, Item, item_bytes};
use crate::meter::{Meter, Usage};

const SERVICE: &str = "DynamoDB";

/// Items in one transaction (DynamoDB API reference, TransactWriteItems).
const TRANSACTION_MAX: usize = 100;

/// Concurrent calls of one port call with many parts. Chosen: one partition accepts 1000 writes a second, so these
/// take about 30 ms.
pub(crate) const PARALLEL_CALLS_MAX: usize = 32;

/// Client of one installation. Tables are named without the prefix.
#[derive(Clone, Debug)]
pub(crate) struct Dynamo {
    client: Client,
    prefix: String,
    meter: Arc<Meter>,
}

/// Result of a conditional write.
#[derive(Debug)]
pub(crate) enum ItemWriteResult {
    /// The item after the write, if it was requested; empty for a put.
    Done(Item),
    /// The condition did not hold; holds the stored item.
    Refused(Option<Item>),
}

/// A conditional change of one item.
#[derive(Clone, Debug, Default)]
pub(crate) struct ItemUpdate {
    pub expression: String,
    pub condition: String,
    pub values: Vec<(&'static str, AttributeValue)>,
    /// Whether the call returns the item after the write.
    pub return_item: bool,
}

/// A query for items of one partition of a table or index.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pub index: Option<&'static str>,
    pub condition: String,
    pub filter: String,
    pub values: Vec<(&'static str, AttributeValue)>,
    pub newest_first: bool,
    /// Strongly consistent; an index does not support it.
    pub consistent: bool,
    pub limit: Option<usize>,
    pub start: Option<Item>,
    /// Only these attributes; all when empty.
    pub projection: &'static str,
}

/// One page of a query or scan.
#[derive(Debug, Default)]
pub(crate) struct QueryPage {
    pub items: Vec<Item>,
    /// Start of the next page; none after the last page.
    pub next: Option<Item>,
}

/// One part of a transaction.
#[derive(Clone, Debug)]
pub(crate) enum TransactionPart {
    Put { table: &'static str, item: Item, condition: String, values: Vec<(&'static str, AttributeValue)> },
    Update { table: &'static str, key: Item, update: ItemUpdate },
}

/// Result of a transaction.
#[derive(Debug)]
pub(crate) enum TransactionResult {
    Done,
    /// For each part none if its condition held, otherwise the stored item.
    Refused(Vec<Option<Option<Item>>>),
}

impl Dynamo {
    pub(crate) fn new(client: Client, prefix: &str, meter: Arc<Meter>) -> Dynamo {
        Dynamo { client, prefix: prefix.to_owned(), meter }
    }

    fn table_name(&self, table: &str) -> String {
        format!("{}-{table}", self.prefix)
    }

    fn place(&self, table: &str) -> String {
        format!("the table {}", self.table_name(table))
    }

    /// Counts a call with the capacity that DynamoDB reported.
    fn add_usage<'c>(
        &self,
        action: &str,
        table: &str,
        capacities: impl IntoIterator<Item = &'c ConsumedCapacity>,
        items_read: usize,
    ) {
        let is_read = matches!(action, "GetItem" | "BatchGetItem" | "Query" | "Scan");
        let mut usage = Usage { requests: 1, billed_requests: 1, items_read: items_read as u64, ..Usage::default() };
        for capacity in capacities {
            let units = capacity.capacity_units().unwrap_or(0.0);
            *(if is_read { &mut usage.read_units } else { &mut usage.write_units }) += units;
        }
        self.meter.add(format!("dynamodb {action} {table}"), usage);
    }

    /// Counts a refused write. It costs what the write would have cost without its indexes, but the answer holds no
    /// units.
    fn add_refused_usage(&self, action: &str, table: &str, item_bytes: usize) {
        let write_units = item_bytes.div_ceil(1024).max(1) as f64;
        let usage = Usage { requests: 1, billed_requests: 1, write_units, ..Usage::default() };
        self.meter.add(format!("dynamodb {action} {table}"), usage);
    }

    fn check_item_size(&self, table: &str, item: &Item) -> PortResult<()> {
        let bytes = item_bytes(item);
        if bytes <= ITEM_BYTES_MAX {
            return Ok(());
        }
        Err(PortError::Permanent(format!(
            "an item of {bytes} bytes does not fit into {}, whose items have at most {ITEM_BYTES_MAX}; \
             shorten the job's command, environment or rules",
            self.place(table)
        )))
    }

    pub(crate) async fn put(
        &self,
        table: &'static str,
        item: Item,
        condition: &str,
        values: Vec<(&'static str, AttributeValue)>,
    ) -> PortResult<ItemWriteResult> {
        self.check_item_size(table, &item)?;
        let bytes = item_bytes(&item);
        let call = self
            .client
            .put_item()
            .table_name(self.table_name(table))
            .set_item(Some(item))
            .set_condition_expression(non_empty(condition))
            .set_expression_attribute_names(attribute_names(&[condition]))
            .set_expression_attribute_values(attribute_values(values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        match call.send().await {
            Ok(done) => {
                self.add_usage("PutItem", table, done.consumed_capacity(), 0);
                Ok(ItemWriteResult::Done(Item::new()))
            }
            Err(error) => {
                self.add_refused_usage("PutItem", table, bytes);
                let place = self.place(table);
                let port_error = call_error(CallName { service: SERVICE, action: "PutItem", place: &place }, &error);
                match error.into_service_error() {
                    aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(refused) => {
                        Ok(ItemWriteResult::Refused(refused.item))
                    }
                    _ => Err(port_error),
                }
            }
        }
    }

    pub(crate) async fn update(
        &self,
        table: &'static str,
        key: Item,
        update: ItemUpdate,
    ) -> PortResult<ItemWriteResult> {
        let returned = if update.return_item { ReturnValue::AllNew } else { ReturnValue::None };
        let call = self
            .client
            .update_item()
            .table_name(self.table_name(table))
            .set_key(Some(key))
            .update_expression(&update.expression)
            .set_condition_expression(non_empty(&update.condition))
            .set_expression_attribute_names(attribute_names(&[&update.expression, &update.condition]))
            .set_expression_attribute_values(attribute_values(update.values))
            .return_values(returned)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        match call.send().await {
            Ok(done) => {
                self.add_usage("UpdateItem", table, done.consumed_capacity(), 0);
                Ok(ItemWriteResult::Done(done.attributes.unwrap_or_default()))
            }
            Err(error) => {
                self.add_refused_usage("UpdateItem", table, 1);
                let place = self.place(table);
                let port_error = call_error(CallName { service: SERVICE, action: "UpdateItem", place: &place }, &error);
                match error.into_service_error() {
                    aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException(
                        refused,
                    ) => Ok(ItemWriteResult::Refused(refused.item)),
                    _ => Err(port_error),
                }
            }
        }
    }

    /// Deletes an item if the condition holds; an empty condition always holds. Idempotent.
    pub(crate) async fn delete(
        &self,
        table: &'static str,
        key: Item,
        condition: &str,
        values: Vec<(&'static str, AttributeValue)>,
    ) -> PortResult<()> {
        let call = self
            .client
            .delete_item()
            .table_name(self.table_name(table))
            .set_key(Some(key))
            .set_condition_expression(non_empty(condition))
            .set_expression_attribute_names(attribute_names(&[condition]))
            .set_expression_attribute_values(attribute_values(values))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        match call.send().await {
            Ok(done) => self.add_usage("DeleteItem", table, done.consumed_capacity(), 0),
            Err(error) => {
                self.add_refused_usage("DeleteItem", table, 1);
                if error.as_service_error().is_some_and(|error| error.is_conditional_check_failed_exception()) {
                    return Ok(());
                }
                let place = self.place(table);
                return Err(call_error(CallName { service: SERVICE, action: "DeleteItem", place: &place }, &error));
            }
        }
        Ok(())
    }

    /// Reads one item, strongly consistent.
    pub(crate) async fn get(&self, table: &'static str, key: Item) -> PortResult<Option<Item>> {
        let call = self
            .client
            .get_item()
            .table_name(self.table_name(table))
            .set_key(Some(key))
            .consistent_read(true)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let place = self.place(table);
        let got = call.send().await.map_err(|error| {
            self.add_usage("GetItem", table, None, 0);
            call_error(CallName { service: SERVICE, action: "GetItem", place: &place }, &error)
        })?;
        self.add_usage("GetItem", table, got.consumed_capacity(), usize::from(got.item.is_some()));
        Ok(got.item)
    }

    /// Reads one page of a query.
    pub(crate) async fn query(&self, table: &'static str, query: Query) -> PortResult<QueryPage> {
        let place = self.place(table);
        let call = self
            .client
            .query()
            .table_name(self.table_name(table))
            .set_index_name(query.index.map(str::to_owned))
            .set_expression_attribute_names(attribute_names(&[&query.condition, &query.filter, query.projection]))
            .key_condition_expression(query.condition)
            .set_filter_expression(non_empty(&query.filter))
            .set_projection_expression(non_empty(query.projection))
            .set_expression_attribute_values(attribute_values(query.values))
            .scan_index_forward(!query.newest_first)
            .consistent_read(query.consistent)
            .set_limit(query.limit.map(|limit| i32::try_from(limit.max(1)).unwrap_or(i32::MAX)))
            .set_exclusive_start_key(query.start)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let got = call.send().await.map_err(|error| {
            self.add_usage("Query", table, None, 0);
            call_error(CallName { service: SERVICE, action: "Query", place: &place }, &error)
        })?;
        self.add_usage("Query", table, got.consumed_capacity(), got.scanned_count().max(0) as usize);
        Ok(QueryPage { next: got.last_evaluated_key, items: got.items.unwrap_or_default() })
    }

    /// Reads all pages of a query.
    pub(crate) async fn query_all(&self, table: &'static str, mut query: Query) -> PortResult<Vec<Item>> {
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

    /// Reads one page of a whole table, strongly consistent.
    pub(crate) async fn scan(
        &self,
        table: &'static str,
        start: Option<Item>,
        limit: Option<i32>,
    ) -> PortResult<QueryPage> {
        let place = self.place(table);
        let call = self
            .client
            .scan()
            .table_name(self.table_name(table))
            .set_exclusive_start_key(start)
            .set_limit(limit)
            .consistent_read(true)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let got = call.send().await.map_err(|error| {
            self.add_usage("Scan", table, None, 0);
            call_error(CallName { service: SERVICE, action: "Scan", place: &place }, &error)
        })?;
        self.add_usage("Scan", table, got.consumed_capacity(), got.scanned_count().max(0) as usize);
        Ok(QueryPage { next: got.last_evaluated_key, items: got.items.unwrap_or_default() })
    }

    /// Writes all parts or none. Costs twice the units of single writes.
    pub(crate) async fn transact(&self, parts: Vec<TransactionPart>) -> PortResult<TransactionResult> {
        let table = match parts.first() {
            Some(TransactionPart::Put { table, .. } | TransactionPart::Update { table, .. }) => *table,
            None => return Ok(TransactionResult::Done),
        };
        let place = format!("{} and others", self.place(table));
        if parts.len() > TRANSACTION_MAX {
            return Err(PortError::Permanent(format!(
                "a transaction of {} items on {place} exceeds DynamoDB's limit of {TRANSACTION_MAX}",
                parts.len()
            )));
        }
        let count = parts.len();
        let items = parts.into_iter().map(|part| self.transact_item(part)).collect::<PortResult<Vec<_>>>()?;
        let call = self.client.transact_write_items().set_transact_items(Some(items));
        match call.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await {
            Ok(done) => {
                self.add_usage("TransactWriteItems", table, done.consumed_capacity(), 0);
                Ok(TransactionResult::Done)
            }
            Err(error) => {
                self.add_refused_usage("TransactWriteItems", table, 2 * 1024 * count);
                let port_error =
                    call_error(CallName { service: SERVICE, action: "TransactWriteItems", place: &place }, &error);
                match error.into_service_error() {
                    TransactWriteItemsError::TransactionCanceledException(cancelled) => {
                        to_transaction_result(cancelled.cancellation_reasons.unwrap_or_default(), &place)
                    }
                    _ => Err(port_error),
                }
            }
        }
    }

    fn transact_item(&self, part: TransactionPart) -> PortResult<TransactWriteItem> {
        let item = TransactWriteItem::builder();
        let old = ReturnValuesOnConditionCheckFailure::AllOld;
        let built = match part {
            TransactionPart::Put { table, item: content, condition, values } => {
                self.check_item_size(table, &content)?;
                let put = Put::builder()
                    .table_name(self.table_name(table))
                    .set_item(Some(content))
                    .set_expression_attribute_names(attribute_names(&[&condition]))
                    .set_condition_expression(non_empty(&condition))
                    .set_expression_attribute_values(attribute_values(values))
                    .return_values_on_condition_check_failure(old);
                put.build().map(|put| item.put(put))
            }
            TransactionPart::Update { table, key, update } => {
                let built = Update::builder()
                    .table_name(self.table_name(table))
                    .set_key(Some(key))
                    .set_expression_attribute_names(attribute_names(&[&update.expression, &update.condition]))
                    .update_expression(&update.expression)
                    .set_condition_expression(non_empty(&update.condition))
                    .set_expression_attribute_values(attribute_values(update.values))
                    .return_values_on_condition_check_failure(old);
                built.build().map(|built| item.update(built))
            }
        };
        Ok(built.map_err(|error| PortError::Permanent(error.to_string()))?.build())
    }
}

/// Converts the reasons of a cancelled transaction: refused conditions are a result, all other reasons are errors.
fn to_transaction_result(reasons: Vec<CancellationReason>, place: &str) -> PortResult<TransactionResult> {
    let call_name = CallName { service: SERVICE, action: "TransactWriteItems", place };
    let mut parts = Vec::with_capacity(reasons.len());
    for reason in reasons {
        match reason.code.as_deref() {
            None | Some("None") => parts.push(None),
            Some("ConditionalCheckFailed") => parts.push(Some(reason.item)),
            Some("TransactionConflict" | "ProvisionedThroughputExceeded" | "ThrottlingError") => {
                let message = reason.message.as_deref().unwrap_or("another process writes the same item");
                return Err(PortError::Retry(format!(
                    "DynamoDB TransactWriteItems on {place} must be retried: {message}"
                )));
            }
            Some(code) => {
                return Err(crate::fault::code_error(
                    call_name,
                    400,
                    code,
                    reason.message.as_deref().unwrap_or("no message"),
                ));
            }
        }
    }
    Ok(TransactionResult::Refused(parts))
}

/// Runs all calls, at most [`PARALLEL_CALLS_MAX`] at once. Returns the results in order, or the first error after all
/// calls have ended.
pub(crate) async fn run_parallel<I, T, F>(inputs: Vec<I>, work: impl Fn(I) -> F) -> PortResult<Vec<T>>
where
    I: Send + 'static,
    T: Send + 'static,
    F: Future<Output = PortResult<T>> + Send + 'static,
{
    let mut answers: Vec<Option<PortResult<T>>> = inputs.iter().map(|_| None).collect();
    let mut running = tokio::task::JoinSet::new();
    let mut waiting = inputs.into_iter().enumerate();
    loop {
        while running.len() < PARALLEL_CALLS_MAX
            && let Some((place, input)) = waiting.next()
        {
            let call = work(input);
            running.spawn(async move { (place, call.await) });
        }
        match running.join_next().await {
            Some(Ok((place, answer))) => answers[place] = Some(answer),
            Some(Err(error)) => return Err(PortError::Retry(format!("a concurrent call failed: {error}"))),
            None => break,
        }
    }
    answers.into_iter().flatten().collect()
}

fn non_empty(expression: &str) -> Option<String> {
    (!expression.is_empty()).then(|| expression.to_owned())
}

/// Maps each placeholder `#name` of the expressions to the attribute `name`.
pub(crate) fn attribute_names(expressions: &[&str]) -> Option<HashMap<String, String>> {
    let mut names = HashMap::new();
    for expression in expressions {
        for part in expression.split('#').skip(1) {
            let end = part.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(part.len());
            names.insert(format!("#{}", &part[..end]), part[..end].to_owned());
        }
    }
    (!names.is_empty()).then_some(names)
}

fn attribute_values(values: Vec<(&'static str, AttributeValue)>) -> Option<HashMap<String, AttributeValue>> {
    (!values.is_empty()).then(|| values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_placeholder_of_the_expressions_is_mapped_to_its_attribute() {
        let names = attribute_names(&["SET #state = :x, #job_key=:y", "", "attribute_not_exists(#held)"]).unwrap();
        let mut names: Vec<(&str, &str)> = names.iter().map(|(key, name)| (key.as_str(), name.as_str())).collect();
        names.sort_unstable();
        assert_eq!(names, [("#held", "held"), ("#job_key", "job_key"), ("#state", "state")]);
        assert_eq!(attribute_names(&["", "x = :y"]), None);
    }
}
