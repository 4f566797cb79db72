//! A model of DynamoDB's partitions: each accepts a number of write units a second, and throttles what exceeds it.
//! Parts of a batch are left undone.
//!
//! Source: DynamoDB developer guide, partitions and data distribution; read/write capacity, write request units.

use std::collections::HashMap;
use std::time::Instant;

use serde_json::Value;

use super::AwsCall;

/// Bytes of one write unit.
const UNIT_BYTES: usize = 1024;

/// The partitions of all tables that are limited.
#[derive(Debug)]
pub(crate) struct WriteLimits {
    /// Partition key by table.
    keys: HashMap<String, String>,
    units_per_second: f64,
    partitions: HashMap<String, Partition>,
}

#[derive(Debug)]
struct Partition {
    units: f64,
    at: Instant,
}

/// What a call gets.
pub(crate) enum Admission {
    All,
    Throttled,
    /// All of a batch but these items.
    AllBut(Vec<Value>),
}

impl WriteLimits {
    pub(crate) fn new(keys: HashMap<String, String>, units_per_second: u32) -> WriteLimits {
        WriteLimits { keys, units_per_second: f64::from(units_per_second), partitions: HashMap::new() }
    }

    pub(crate) fn admit(&mut self, call: &AwsCall) -> Admission {
        let body = &call.body;
        match call.action.as_str() {
            "PutItem" => self.admit_single(&body["TableName"], &body["Item"], 1.0),
            "UpdateItem" | "DeleteItem" => self.admit_single(&body["TableName"], &body["Key"], 1.0),
            "TransactWriteItems" => self.admit_transaction(&body["TransactItems"]),
            "BatchWriteItem" => self.admit_batch(&body["RequestItems"]),
            _ => Admission::All,
        }
    }

    fn admit_single(&mut self, table: &Value, item: &Value, factor: f64) -> Admission {
        match self.take(table.as_str().unwrap_or_default(), item, factor) {
            true => Admission::All,
            false => Admission::Throttled,
        }
    }

    /// The units of parts before the throttled one are used.
    fn admit_transaction(&mut self, parts: &Value) -> Admission {
        for part in parts.as_array().into_iter().flatten() {
            let Some((_, write)) = part.as_object().and_then(|part| part.iter().next()) else { continue };
            let item = if write["Item"].is_null() { &write["Key"] } else { &write["Item"] };
            if !self.take(write["TableName"].as_str().unwrap_or_default(), item, 2.0) {
                return Admission::Throttled;
            }
        }
        Admission::All
    }

    fn admit_batch(&mut self, tables: &Value) -> Admission {
        let Some((table, requests)) = tables.as_object().and_then(|tables| tables.iter().next()) else {
            return Admission::All;
        };
        let requests = requests.as_array().map(Vec::as_slice).unwrap_or_default();
        let item_of = |request: &Value| match &request["PutRequest"]["Item"] {
            Value::Null => request["DeleteRequest"]["Key"].clone(),
            item => item.clone(),
        };
        let left: Vec<Value> =
            requests.iter().filter(|request| !self.take(table, &item_of(request), 1.0)).cloned().collect();
        match left.len() {
            0 => Admission::All,
            all if all == requests.len() => Admission::Throttled,
            _ => Admission::AllBut(left),
        }
    }

    /// Takes the units of a write from its partition; `false` when it has too few. A table without a key is unlimited.
    fn take(&mut self, table: &str, item: &Value, factor: f64) -> bool {
        let Some(key) = self.keys.get(table) else { return true };
        let name = format!("{table} {}", item[key]["S"].as_str().unwrap_or_default());
        let (now, most) = (Instant::now(), self.units_per_second);
        let partition = self.partitions.entry(name).or_insert(Partition { units: most, at: now });
        let refilled = now.duration_since(partition.at).as_secs_f64() * most;
        (partition.units, partition.at) = ((partition.units + refilled).min(most), now);
        let units = factor * (item.to_string().len().div_ceil(UNIT_BYTES) as f64);
        // A large item takes the units of later seconds.
        let accepts = partition.units >= units.min(most);
        if accepts {
            partition.units -= units;
        }
        accepts
    }
}
