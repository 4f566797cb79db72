//! Conditional writes of single items. One that is refused by the item that its own earlier attempt wrote has
//! succeeded.

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, ReturnConsumedCapacity, ReturnValue, ReturnValuesOnConditionCheckFailure,
};
use domain::ports::{PortError, PortResult};

use super::{Dynamo, ItemUpdate, ItemWriteResult, SERVICE, attribute_names, attribute_values, non_empty};
use crate::fault::{CallName, call_error, cause_of};
use crate::item::{Item, item_bytes};
use crate::retry::Called;

/// A condition that did not hold; holds the stored item.
enum WriteError<E> {
    Refused(Option<Item>),
    Failed(SdkError<E, HttpResponse>),
}

impl Dynamo {
    /// Makes a write of a partition until it succeeds, is refused or cannot succeed.
    pub(super) async fn write<T, E, F>(
        &self,
        partition: Option<String>,
        count: impl Fn() + Send + Sync,
        attempt: impl Fn() -> F + Send,
    ) -> Called<T, SdkError<E, HttpResponse>>
    where
        T: Send,
        E: ProvideErrorMetadata + std::error::Error + Send + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
    {
        let cause = |error: &SdkError<E, HttpResponse>| {
            count();
            cause_of(error)
        };
        self.retries.call(partition.as_deref(), cause, attempt).await
    }

    pub(crate) async fn put(
        &self,
        table: &'static str,
        item: Item,
        condition: &str,
        values: Vec<(&'static str, AttributeValue)>,
    ) -> PortResult<ItemWriteResult> {
        self.check_item_size(table, &item).map_err(PortError::Permanent)?;
        let bytes = item_bytes(&item);
        let call = self
            .client
            .put_item()
            .table_name(self.table_name(table))
            .set_item(Some(item.clone()))
            .set_condition_expression(non_empty(condition))
            .set_expression_attribute_names(attribute_names(&[condition]))
            .set_expression_attribute_values(attribute_values(values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let count = || self.add_refused_usage("PutItem", table, bytes);
        let called = self.write(self.partition(table, &item), count, || call.clone().send()).await;
        let error = match called.result {
            Ok(done) => {
                self.add_usage("PutItem", table, done.consumed_capacity(), 0);
                return Ok(ItemWriteResult::Done(Item::new()));
            }
            Err(error) => error,
        };
        match refused_put(error) {
            WriteError::Refused(Some(stored)) if called.may_be_done && stored == item => {
                Ok(ItemWriteResult::Done(Item::new()))
            }
            WriteError::Refused(stored) => Ok(ItemWriteResult::Refused(stored)),
            WriteError::Failed(error) => {
                let place = self.place(table);
                Err(call_error(CallName { service: SERVICE, action: "PutItem", place: &place }, &error))
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
        let partition = self.partition(table, &key);
        let call = self
            .client
            .update_item()
            .table_name(self.table_name(table))
            .set_key(Some(key))
            .update_expression(&update.expression)
            .set_condition_expression(non_empty(&update.condition))
            .set_expression_attribute_names(attribute_names(&[&update.expression, &update.condition]))
            .set_expression_attribute_values(attribute_values(update.values.clone()))
            .return_values(returned)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let count = || self.add_refused_usage("UpdateItem", table, 1);
        let called = self.write(partition, count, || call.clone().send()).await;
        let error = match called.result {
            Ok(done) => {
                self.add_usage("UpdateItem", table, done.consumed_capacity(), 0);
                return Ok(ItemWriteResult::Done(done.attributes.unwrap_or_default()));
            }
            Err(error) => error,
        };
        match refused_update(error) {
            WriteError::Refused(Some(stored)) if called.may_be_done && update.is_applied_to(&stored) => {
                Ok(ItemWriteResult::Done(stored))
            }
            WriteError::Refused(stored) => Ok(ItemWriteResult::Refused(stored)),
            WriteError::Failed(error) => {
                let place = self.place(table);
                Err(call_error(CallName { service: SERVICE, action: "UpdateItem", place: &place }, &error))
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
        let partition = self.partition(table, &key);
        let call = self
            .client
            .delete_item()
            .table_name(self.table_name(table))
            .set_key(Some(key))
            .set_condition_expression(non_empty(condition))
            .set_expression_attribute_names(attribute_names(&[condition]))
            .set_expression_attribute_values(attribute_values(values))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let count = || self.add_refused_usage("DeleteItem", table, 1);
        let called = self.write(partition, count, || call.clone().send()).await;
        match called.result {
            Ok(done) => {
                self.add_usage("DeleteItem", table, done.consumed_capacity(), 0);
                Ok(())
            }
            Err(error)
                if error.as_service_error().is_some_and(DeleteItemError::is_conditional_check_failed_exception) =>
            {
                Ok(())
            }
            Err(error) => {
                let place = self.place(table);
                Err(call_error(CallName { service: SERVICE, action: "DeleteItem", place: &place }, &error))
            }
        }
    }
}

fn refused_put(error: SdkError<PutItemError, HttpResponse>) -> WriteError<PutItemError> {
    match error {
        SdkError::ServiceError(failed) => match failed.err() {
            PutItemError::ConditionalCheckFailedException(refused) => WriteError::Refused(refused.item.clone()),
            _ => WriteError::Failed(SdkError::ServiceError(failed)),
        },
        error => WriteError::Failed(error),
    }
}

fn refused_update(error: SdkError<UpdateItemError, HttpResponse>) -> WriteError<UpdateItemError> {
    match error {
        SdkError::ServiceError(failed) => match failed.err() {
            UpdateItemError::ConditionalCheckFailedException(refused) => WriteError::Refused(refused.item.clone()),
            _ => WriteError::Failed(SdkError::ServiceError(failed)),
        },
        error => WriteError::Failed(error),
    }
}

impl ItemUpdate {
    /// Whether the item has all values that the update sets. Values that it adds prove nothing.
    fn is_applied_to(&self, item: &Item) -> bool {
        let set = self.expression.split_once("SET ").map_or("", |(_, set)| set);
        let set = [" ADD ", " REMOVE ", " DELETE "].iter().fold(set, |set, verb| set.split(verb).next().unwrap_or(set));
        let mut assignments = set.split(',').filter_map(|assignment| assignment.split_once('=')).peekable();
        assignments.peek().is_some()
            && assignments.all(|(attribute, value)| {
                let value = self.values.iter().find(|(name, _)| *name == value.trim()).map(|(_, value)| value);
                value.is_some() && item.get(attribute.trim().trim_start_matches('#')) == value
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::{n, s};

    #[test]
    fn an_item_with_all_set_values_is_that_of_the_update() {
        let update = ItemUpdate {
            expression: "SET #state = :claimed, #runner=:runner ADD #version :one".to_owned(),
            values: vec![(":claimed", s("claimed")), (":runner", s("a")), (":one", n(1)), (":at", s("now"))],
            ..ItemUpdate::default()
        };
        let item = |runner: &str| -> Item {
            [("state", s("claimed")), ("runner", s(runner)), ("version", n(7))]
                .map(|(name, value)| (name.to_owned(), value))
                .into()
        };
        assert!(update.is_applied_to(&item("a")));
        assert!(!update.is_applied_to(&item("b")));
        let adds = ItemUpdate { expression: "ADD #version :one".to_owned(), ..update.clone() };
        assert!(!adds.is_applied_to(&item("a")), "an addition may be of another process");
        let computes = ItemUpdate { expression: "SET #version = #version + :one".to_owned(), ..update };
        assert!(!computes.is_applied_to(&item("a")));
    }
}
