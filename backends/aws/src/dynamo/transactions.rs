//! Transactions. A client token lets DynamoDB recognise an attempt that it has executed already.

use std::fmt::Write;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, Put, ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure,
    TransactWriteItem, Update,
};
use domain::ports::{PortError, PortResult};

use super::{Dynamo, ItemUpdate, SERVICE, attribute_names, attribute_values, non_empty};
use crate::fault::{CallName, Cause, call_error, cause_of, code_error};
use crate::item::Item;

/// Items in one transaction (DynamoDB API reference, TransactWriteItems).
const TRANSACTION_MAX: usize = 100;

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
    /// Writes all parts or none. Costs twice the units of single writes.
    pub(crate) async fn transact(&self, parts: Vec<TransactionPart>) -> PortResult<TransactionResult> {
        let (table, partition) = match parts.first() {
            Some(TransactionPart::Put { table, item: key, .. } | TransactionPart::Update { table, key, .. }) => {
                (*table, self.partition(table, key))
            }
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
        let items = parts.iter().map(|part| self.transact_item(part.clone())).collect::<PortResult<Vec<_>>>()?;
        let call = self
            .client
            .transact_write_items()
            .set_transact_items(Some(items))
            .set_client_request_token(client_token())
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let cause = |error: &SdkError<TransactWriteItemsError, HttpResponse>| {
            self.add_refused_usage("TransactWriteItems", table, 2 * 1024 * count);
            cause_of_transaction(error)
        };
        let called = self.retries.call(partition.as_deref(), cause, || call.clone().send()).await;
        let error = match called.result {
            Ok(done) => {
                self.add_usage("TransactWriteItems", table, done.consumed_capacity(), 0);
                return Ok(TransactionResult::Done);
            }
            Err(error) => error,
        };
        let port_error = call_error(CallName { service: SERVICE, action: "TransactWriteItems", place: &place }, &error);
        match error.into_service_error() {
            TransactWriteItemsError::TransactionCanceledException(cancelled) => {
                let result = to_transaction_result(cancelled.cancellation_reasons.unwrap_or_default(), &place)?;
                let is_own = called.may_be_done && result.is_refused_by(&parts);
                Ok(if is_own { TransactionResult::Done } else { result })
            }
            _ => Err(port_error),
        }
    }

    fn transact_item(&self, part: TransactionPart) -> PortResult<TransactWriteItem> {
        let item = TransactWriteItem::builder();
        let old = ReturnValuesOnConditionCheckFailure::AllOld;
        let built = match part {
            TransactionPart::Put { table, item: content, condition, values } => {
                self.check_item_size(table, &content).map_err(PortError::Permanent)?;
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

impl TransactionResult {
    /// Whether every put was refused by the very item that it puts: an earlier attempt wrote it, and the server did not
    /// recognise the token.
    fn is_refused_by(&self, parts: &[TransactionPart]) -> bool {
        let TransactionResult::Refused(refused) = self else { return false };
        let mut puts = parts.iter().zip(refused).filter_map(|(part, stored)| match part {
            TransactionPart::Put { item, .. } => Some((item, stored)),
            TransactionPart::Update { .. } => None,
        });
        puts.all(|(item, stored)| matches!(stored, Some(Some(stored)) if stored == item))
    }
}

/// A transaction is cancelled for the reasons of its parts.
fn cause_of_transaction(error: &SdkError<TransactWriteItemsError, HttpResponse>) -> Cause {
    let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error() else {
        return cause_of(error);
    };
    let codes = cancelled.cancellation_reasons().iter().filter_map(CancellationReason::code);
    let causes: Vec<Cause> = codes.filter(|code| *code != "None").map(|code| Cause::of(400, code)).collect();
    match causes.iter().find(|cause| !cause.is_transient()) {
        Some(cause) => *cause,
        None if causes.contains(&Cause::Throttled) => Cause::Throttled,
        None if causes.is_empty() => Cause::Invalid,
        None => Cause::Transient,
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
                return Err(code_error(call_name, 400, code, reason.message.as_deref().unwrap_or("no message")));
            }
        }
    }
    Ok(TransactionResult::Refused(parts))
}

/// A random text: DynamoDB executes transactions with the same token once within ten minutes. None without random
/// numbers; the SDK then makes one for each attempt.
fn client_token() -> Option<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes.iter().fold(String::with_capacity(32), |mut token, byte| {
        write!(token, "{byte:02x}").ok();
        token
    }))
}
