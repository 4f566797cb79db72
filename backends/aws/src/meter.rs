//! Counts the requests and capacity units of this process by kind of call. Read by the cost benchmark and by tests that
//! check the budget.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// SQS counts a request for each 64 KiB of payload (Amazon SQS pricing).
const SQS_CHUNK_BYTES: usize = 64 * 1024;

/// Cost of all calls of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Calls sent over the network, answered or not.
    pub requests: u64,
    /// Requests as the service bills them: SQS counts one for each 64 KiB.
    pub billed_requests: u64,
    /// Read request units that DynamoDB reported.
    pub read_units: f64,
    /// Write request units that DynamoDB reported, indexes included. A refused conditional write reports none and
    /// counts one unit for each KiB of its item.
    pub write_units: f64,
    /// Items that DynamoDB read.
    pub items_read: u64,
}

/// Usage by kind of call: service, action and table or queue, such as `dynamodb PutItem runs` or
/// `sqs SendMessageBatch orders`.
#[derive(Debug, Default)]
pub struct Meter {
    usage: Mutex<BTreeMap<String, Usage>>,
}

impl Meter {
    /// Returns the usage since the start of the process, by kind.
    pub fn usage(&self) -> BTreeMap<String, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sums all kinds whose name begins with `prefix`.
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
