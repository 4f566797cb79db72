//! Client of DynamoDB for the ports. Counts each call, names it in errors, and refuses what AWS would refuse before it
//! is sent.
//!
//! Expressions write an attribute as `#name`; the placeholder names are collected from the expressions.

mod batches;
mod transactions;
mod writes;

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{AttributeValue, ConsumedCapacity, ReturnConsumedCapacity};
use domain::ports::{PortError, PortResult};

use crate::fault::{CallName, call_error, cause_of};
use crate::item::{ITEM_BYTES_MAX, Item, item_bytes, text_at};
use crate::meter::{Meter, Usage};
use crate::names::Names;
use crate::retry::{Called, Retries};
use crate::tables::tables;
pub(crate) use transactions::{TransactionPart, TransactionResult};

const SERVICE: &str = "DynamoDB";

/// Concurrent calls of one port call with many parts. Chosen: one partition accepts 1000 writes a second, so these
/// take about 30 ms.
pub(crate) const PARALLEL_CALLS_MAX: usize = 32;

/// Client of one installation. Tables are named without the prefix.
#[derive(Clone, Debug)]
pub(crate) struct Dynamo {
    client: Client,
    prefix: String,
    meter: Arc<Meter>,
    retries: Retries,
    /// Partition key of each table, by its name with the prefix.
    partition_keys: Arc<HashMap<String, &'static str>>,
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

impl Dynamo {
    pub(crate) fn new(client: Client, names: &Names, meter: Arc<Meter>, retries: Retries) -> Dynamo {
        let keys = tables(names).into_iter().map(|table| (table.name, table.partition)).collect();
        Dynamo { client, prefix: names.prefix().to_owned(), meter, retries, partition_keys: Arc::new(keys) }
    }

    /// Names the partition of an item or key, for its pace.
    fn partition(&self, table: &str, item: &Item) -> Option<String> {
        let key = self.partition_keys.get(&self.table_name(table))?;
        Some(format!("{table} {}", text_at(item, key)?))
    }

    /// Makes a read until it succeeds or cannot. `count`: counts a failed attempt.
    async fn read<T, E, F>(
        &self,
        count: impl Fn() + Send + Sync,
        attempt: impl Fn() -> F + Send,
    ) -> Result<T, SdkError<E, HttpResponse>>
    where
        T: Send,
        E: ProvideErrorMetadata + std::error::Error + Send + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
    {
        let cause = |error: &SdkError<E, HttpResponse>| {
            count();
            cause_of(error)
        };
        let Called { result, .. } = self.retries.call(None, cause, attempt).await;
        result
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

    /// # Errors
    /// Returns why DynamoDB refuses the item.
    pub(crate) fn check_item_size(&self, table: &str, item: &Item) -> Result<(), String> {
        let bytes = item_bytes(item);
        if bytes <= ITEM_BYTES_MAX {
            return Ok(());
        }
        Err(format!(
            "an item of {bytes} bytes does not fit into {}, whose items have at most {ITEM_BYTES_MAX}; \
             shorten the job's command, environment or rules",
            self.place(table)
        ))
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
        let got = self.read(|| self.add_usage("GetItem", table, None, 0), || call.clone().send()).await;
        let got =
            got.map_err(|error| call_error(CallName { service: SERVICE, action: "GetItem", place: &place }, &error))?;
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
        let got = self.read(|| self.add_usage("Query", table, None, 0), || call.clone().send()).await;
        let got =
            got.map_err(|error| call_error(CallName { service: SERVICE, action: "Query", place: &place }, &error))?;
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
        let got = self.read(|| self.add_usage("Scan", table, None, 0), || call.clone().send()).await;
        let got =
            got.map_err(|error| call_error(CallName { service: SERVICE, action: "Scan", place: &place }, &error))?;
        self.add_usage("Scan", table, got.consumed_capacity(), got.scanned_count().max(0) as usize);
        Ok(QueryPage { next: got.last_evaluated_key, items: got.items.unwrap_or_default() })
    }
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
