//! Batch calls on one table. DynamoDB may leave a part undone, which is sent again.

use std::time::Duration;

use aws_sdk_dynamodb::types::{DeleteRequest, KeysAndAttributes, PutRequest, ReturnConsumedCapacity, WriteRequest};
use domain::ports::{PortError, PortResult};

use super::{Dynamo, SERVICE, run_parallel};
use crate::fault::{CallName, call_error};
use crate::item::Item;

/// Requests of one call (DynamoDB API reference, BatchWriteItem).
const BATCH_WRITE_MAX: usize = 25;
/// Keys of one call (DynamoDB API reference, BatchGetItem).
const BATCH_GET_MAX: usize = 100;

/// Calls until a batch with an undone part fails. Chosen: their delays add up to 0.75 s, within a tick's time.
const BATCH_ATTEMPTS_MAX: u32 = 5;
/// Delay before the second call; doubled before each later one. Chosen, not measured.
const BATCH_DELAY: Duration = Duration::from_millis(50);

impl Dynamo {
    /// Reads the items of these keys, strongly consistent, in any order. Absent items are left out. Keys must differ.
    pub(crate) async fn batch_get(&self, table: &'static str, keys: Vec<Item>) -> PortResult<Vec<Item>> {
        let name = self.table_name(table);
        let mut found = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(BATCH_GET_MAX) {
            let mut remaining = chunk.to_vec();
            let mut retries = BatchRetries::default();
            while !remaining.is_empty() {
                retries.start_attempt("BatchGetItem", &self.place(table)).await?;
                let named = remaining.len();
                let asked = KeysAndAttributes::builder().set_keys(Some(remaining)).consistent_read(true).build();
                let asked = asked.map_err(|error| PortError::Permanent(error.to_string()))?;
                let call = self.client.batch_get_item().request_items(&name, asked);
                let got = call.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await;
                let mut got = got.map_err(|error| {
                    self.add_usage("BatchGetItem", table, None, 0);
                    let place = self.place(table);
                    call_error(CallName { service: SERVICE, action: "BatchGetItem", place: &place }, &error)
                })?;
                let items = got.responses.as_mut().and_then(|all| all.remove(&name)).unwrap_or_default();
                let unprocessed = got.unprocessed_keys.as_mut().and_then(|all| all.remove(&name));
                remaining = unprocessed.map(|keys| keys.keys).unwrap_or_default();
                // An absent item costs as much as a stored one.
                self.add_usage("BatchGetItem", table, got.consumed_capacity(), named - remaining.len());
                found.extend(items);
            }
        }
        Ok(found)
    }

    /// Overwrites items. Not atomic; repeating the call with the same items is harmless.
    pub(crate) async fn batch_put(&self, table: &'static str, items: Vec<Item>) -> PortResult<()> {
        let mut requests = Vec::with_capacity(items.len());
        for item in items {
            self.check_item_size(table, &item)?;
            let put = PutRequest::builder().set_item(Some(item)).build();
            let put = put.map_err(|error| PortError::Permanent(error.to_string()))?;
            requests.push(WriteRequest::builder().put_request(put).build());
        }
        self.batch_write(table, requests).await
    }

    /// Deletes items. Not atomic; repeating the call is harmless.
    pub(crate) async fn batch_delete(&self, table: &'static str, keys: Vec<Item>) -> PortResult<()> {
        let mut requests = Vec::with_capacity(keys.len());
        for key in keys {
            let delete = DeleteRequest::builder().set_key(Some(key)).build();
            let delete = delete.map_err(|error| PortError::Permanent(error.to_string()))?;
            requests.push(WriteRequest::builder().delete_request(delete).build());
        }
        self.batch_write(table, requests).await
    }

    async fn batch_write(&self, table: &'static str, requests: Vec<WriteRequest>) -> PortResult<()> {
        let this = self.clone();
        let chunks = requests.chunks(BATCH_WRITE_MAX).map(<[_]>::to_vec).collect();
        let write = move |chunk: Vec<WriteRequest>| {
            let this = this.clone();
            async move { this.batch_write_chunk(table, chunk).await }
        };
        run_parallel(chunks, write).await?;
        Ok(())
    }

    async fn batch_write_chunk(&self, table: &'static str, mut remaining: Vec<WriteRequest>) -> PortResult<()> {
        let (name, place) = (self.table_name(table), self.place(table));
        let mut retries = BatchRetries::default();
        while !remaining.is_empty() {
            retries.start_attempt("BatchWriteItem", &place).await?;
            let call = self.client.batch_write_item().request_items(&name, remaining);
            let mut done =
                call.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await.map_err(|error| {
                    self.add_usage("BatchWriteItem", table, None, 0);
                    call_error(CallName { service: SERVICE, action: "BatchWriteItem", place: &place }, &error)
                })?;
            self.add_usage("BatchWriteItem", table, done.consumed_capacity(), 0);
            remaining = done.unprocessed_items.as_mut().and_then(|all| all.remove(&name)).unwrap_or_default();
        }
        Ok(())
    }
}

/// Counts the calls of a batch, and waits between them.
#[derive(Default)]
struct BatchRetries {
    attempts: u32,
}

impl BatchRetries {
    async fn start_attempt(&mut self, action: &str, place: &str) -> PortResult<()> {
        if self.attempts == BATCH_ATTEMPTS_MAX {
            return Err(PortError::Retry(format!(
                "{SERVICE} {action} on {place} left a part undone {BATCH_ATTEMPTS_MAX} times; the table is throttled"
            )));
        }
        if self.attempts > 0 {
            tokio::time::sleep(BATCH_DELAY * 2_u32.pow(self.attempts - 1)).await;
        }
        self.attempts += 1;
        Ok(())
    }
}
