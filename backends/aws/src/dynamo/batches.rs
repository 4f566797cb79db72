//! Many keys or items of one table in one call. DynamoDB may leave some undone, and then is asked again.

use std::time::Duration;

use aws_sdk_dynamodb::types::{DeleteRequest, KeysAndAttributes, PutRequest, ReturnConsumedCapacity, WriteRequest};
use domain::ports::{PortError, PortResult};

use super::{Dynamo, SERVICE, run_parallel};
use crate::fault::{CallName, call_error};
use crate::item::Item;

/// DynamoDB API reference: BatchWriteItem, BatchGetItem.
const BATCH_WRITE_MAX: usize = 25;
const BATCH_GET_MAX: usize = 100;

/// Tries for what a batch left undone, with [`BATCH_DELAY`] times a power of two between them.
const BATCH_ATTEMPTS_MAX: u32 = 5;
const BATCH_DELAY: Duration = Duration::from_millis(50);

impl Dynamo {
    /// The items of these keys that exist, in no order. Strongly consistent. Keys must differ.
    pub async fn batch_get(&self, table: &'static str, keys: Vec<Item>) -> PortResult<Vec<Item>> {
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
                // What is not there costs as much as what is.
                self.add_usage("BatchGetItem", table, got.consumed_capacity(), named - remaining.len());
                found.extend(items);
            }
        }
        Ok(found)
    }

    /// Puts items whose content is a function of their keys. Not atomic; doing it again is harmless.
    pub async fn batch_put(&self, table: &'static str, items: Vec<Item>) -> PortResult<()> {
        let mut requests = Vec::with_capacity(items.len());
        for item in items {
            self.check_item_size(table, &item)?;
            let put = PutRequest::builder().set_item(Some(item)).build();
            let put = put.map_err(|error| PortError::Permanent(error.to_string()))?;
            requests.push(WriteRequest::builder().put_request(put).build());
        }
        self.batch_write(table, requests).await
    }

    pub async fn batch_delete(&self, table: &'static str, keys: Vec<Item>) -> PortResult<()> {
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

/// Waits between the tries of a batch, and gives up in time.
#[derive(Default)]
struct BatchRetries {
    attempts: u32,
}

impl BatchRetries {
    async fn start_attempt(&mut self, action: &str, place: &str) -> PortResult<()> {
        if self.attempts == BATCH_ATTEMPTS_MAX {
            return Err(PortError::Retry(format!(
                "{SERVICE} {action} on {place} left a part undone {BATCH_ATTEMPTS_MAX} times; it is throttled"
            )));
        }
        if self.attempts > 0 {
            tokio::time::sleep(BATCH_DELAY * 2_u32.pow(self.attempts - 1)).await;
        }
        self.attempts += 1;
        Ok(())
    }
}
