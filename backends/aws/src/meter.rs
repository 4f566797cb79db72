//! What the calls of this process cost: requests and capacity units by kind of call. Read by the cost benchmark and by
//! tests that hold the budget.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// SQS counts a request for each 64 KiB of payload (Amazon SQS pricing).
const SQS_CHUNK_BYTES: usize = 64 * 1024;

/// What calls of one kind came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Calls over the network, answered or not.
    pub requests: u64,
    /// Requests as the service bills them: SQS counts each 64 KiB.
    pub billed_requests: u64,
    /// DynamoDB's read request units, as it reported them.
    pub read_units: f64,
    /// DynamoDB's write request units, as it reported them, indexes included; a refused conditional write counts as one.
    pub write_units: f64,
    /// Items that DynamoDB gave.
    pub items_read: u64,
}

/// Counts by kind: service, action and what it was done to, like `dynamodb PutItem runs`, `sqs SendMessageBatch orders`.
#[derive(Debug, Default)]
pub struct Meter {
    usage: Mutex<BTreeMap<String, Usage>>,
}

impl Meter {
    /// What was spent since the start, by kind.
    pub fn usage(&self) -> BTreeMap<String, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All kinds whose name begins so, together.
    pub fn total(&self, prefix: &str) -> Usage {
        let mut total = Usage::default();
        for (_, usage) in self.usage().range(prefix.to_owned()..).take_while(|(kind, _)| kind.starts_with(prefix)) {
            total.requests += usage.requests;
            total.billed_requests += usage.billed_requests;
            total.read_units += usage.read_units;
            total.write_units += usage.write_units;
            total.items_read += usage.items_read;
        }
        total
    }

    pub(crate) fn add(&self, kind: String, more: Usage) {
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let total = usage.entry(kind).or_default();
        total.requests += more.requests;
        total.billed_requests += more.billed_requests;
        total.read_units += more.read_units;
        total.write_units += more.write_units;
        total.items_read += more.items_read;
    }

    pub(crate) fn add_request(&self, kind: String, payload_bytes: usize) {
        let billed_requests = payload_bytes.div_ceil(SQS_CHUNK_BYTES).max(1) as u64;
        self.add(kind, Usage { requests: 1, billed_requests, ..Usage::default() });
    }
}
