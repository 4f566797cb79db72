//! Batch calls on one table. DynamoDB may leave a part undone, which is sent again.

use aws_sdk_dynamodb::types::{DeleteRequest, KeysAndAttributes, PutRequest, ReturnConsumedCapacity, WriteRequest};
use domain::ports::{PortError, PortResult};

use super::{Dynamo, SERVICE, run_parallel};
use crate::fault::{CallName, Cause, call_error};
use crate::item::Item;

/// Requests of one call (DynamoDB API reference, BatchWriteItem).
const BATCH_WRITE_MAX: usize = 25;
/// Keys of one call (DynamoDB API reference, BatchGetItem).
const BATCH_GET_MAX: usize = 100;

impl Dynamo {
    /// Reads the items of these keys, strongly consistent, in any order. Absent items are left out. Keys must differ.
    pub(crate) async fn batch_get(&self, table: &'static str, keys: Vec<Item>) -> PortResult<Vec<Item>> {
        let name = self.table_name(table);
        let mut found = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(BATCH_GET_MAX) {
            let mut remaining = chunk.to_vec();
            let mut backoff = self.retries.backoff();
            loop {
                let named = remaining.len();
                let asked = KeysAndAttributes::builder().set_keys(Some(remaining)).consistent_read(true).build();
                let asked = asked.map_err(|error| PortError::Permanent(error.to_string()))?;
                let call = self.client.batch_get_item().request_items(&name, asked);
                let call = call.return_consumed_capacity(ReturnConsumedCapacity::Total);
                let count = || self.add_usage("BatchGetItem", table, None, 0);
                let mut got = self.read(count, || call.clone().send()).await.map_err(|error| {
                    let place = self.place(table);
                    call_error(CallName { service: SERVICE, action: "BatchGetItem", place: &place }, &error)
                })?;
                let items = got.responses.as_mut().and_then(|all| all.remove(&name)).unwrap_or_default();
                let unprocessed = got.unprocessed_keys.as_mut().and_then(|all| all.remove(&name));
                remaining = unprocessed.map(|keys| keys.keys).unwrap_or_default();
                // An absent item costs as much as a stored one.
                self.add_usage("BatchGetItem", table, got.consumed_capacity(), named - remaining.len());
                found.extend(items);
                if remaining.is_empty() {
                    break;
                }
                if !backoff.wait_after(Cause::Throttled, None).await {
                    return Err(undone("BatchGetItem", &self.place(table)));
                }
            }
        }
        Ok(found)
    }

    /// Overwrites items. Not atomic; repeating the call with the same items is harmless.
    pub(crate) async fn batch_put(&self, table: &'static str, items: Vec<Item>) -> PortResult<()> {
        let mut requests = Vec::with_capacity(items.len());
        for item in items {
            self.check_item_size(table, &item).map_err(PortError::Permanent)?;
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
        let call_name = CallName { service: SERVICE, action: "BatchWriteItem", place: &place };
        let mut backoff = self.retries.backoff();
        loop {
            // Most batches write one partition.
            let partition = remaining.first().and_then(|request| self.partition(table, written(request)?));
            let call = self.client.batch_write_item().request_items(&name, remaining);
            let call = call.return_consumed_capacity(ReturnConsumedCapacity::Total);
            let count = || self.add_usage("BatchWriteItem", table, None, 0);
            let called = self.write(partition.clone(), count, || call.clone().send()).await;
            let mut done = called.result.map_err(|error| call_error(call_name, &error))?;
            self.add_usage("BatchWriteItem", table, done.consumed_capacity(), 0);
            remaining = done.unprocessed_items.as_mut().and_then(|all| all.remove(&name)).unwrap_or_default();
            if remaining.is_empty() {
                return Ok(());
            }
            if !backoff.wait_after(Cause::Throttled, partition.as_deref()).await {
                return Err(undone("BatchWriteItem", &place));
            }
        }
    }
}

/// The item or key of a request.
fn written(request: &WriteRequest) -> Option<&Item> {
    let put = request.put_request.as_ref().map(|put| &put.item);
    put.or_else(|| Some(&request.delete_request.as_ref()?.key))
}

/// The error of a batch with an undone part.
fn undone(action: &str, place: &str) -> PortError {
    PortError::Retry(format!("{SERVICE} {action} on {place} left a part undone; the table is throttled"))
}
