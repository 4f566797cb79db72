//! Converts records to DynamoDB items and back. Each field is an attribute, so operators can read and edit records in
//! the AWS console.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use domain::ports::PortError;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

pub(crate) type Item = HashMap<String, AttributeValue>;

/// Largest item, names and values together (DynamoDB developer guide, quotas).
pub(crate) const ITEM_BYTES_MAX: usize = 400 * 1024;

/// A string attribute.
pub(crate) fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// A number attribute.
pub(crate) fn n(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// Writes an instant with a fixed width, so that the order of texts is the order of time.
pub(crate) fn sortable_instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

/// Converts a record whose JSON is an object. Null values are left out.
pub(crate) fn to_item<T: Serialize>(record: &T) -> Result<Item, PortError> {
    match serde_json::to_value(record) {
        Ok(Value::Object(fields)) => Ok(fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, to_attribute(value)))
            .collect()),
        Ok(other) => {
            Err(PortError::Permanent(format!("{other} is not a JSON object, so it cannot be stored as an item")))
        }
        Err(error) => Err(PortError::Permanent(format!("a record cannot be written as JSON: {error}"))),
    }
}

/// Reads a record, or returns one sentence why the item is unreadable.
pub(crate) fn from_item<T: DeserializeOwned>(item: &Item) -> Result<T, String> {
    serde_json::from_value(to_json(item)?).map_err(|error| format!("the stored item is unreadable: {error}"))
}

/// Converts an item to JSON.
pub(crate) fn to_json(item: &Item) -> Result<Value, String> {
    let mut fields = Map::new();
    for (name, value) in item {
        fields.insert(name.clone(), attribute_to_json(name, value)?);
    }
    Ok(Value::Object(fields))
}

pub(crate) fn to_attribute(value: Value) -> AttributeValue {
    match value {
        Value::Null => AttributeValue::Null(true),
        Value::Bool(yes) => AttributeValue::Bool(yes),
        Value::Number(number) => n(number),
        Value::String(text) => AttributeValue::S(text),
        Value::Array(values) => AttributeValue::L(values.into_iter().map(to_attribute).collect()),
        Value::Object(fields) => {
            AttributeValue::M(fields.into_iter().map(|(name, value)| (name, to_attribute(value))).collect())
        }
    }
}

pub(crate) fn attribute_to_json(name: &str, value: &AttributeValue) -> Result<Value, String> {
    Ok(match value {
        AttributeValue::S(text) => Value::String(text.clone()),
        AttributeValue::N(text) => parse_number(name, text)?,
        AttributeValue::Bool(yes) => Value::Bool(*yes),
        AttributeValue::Null(_) => Value::Null,
        AttributeValue::L(values) => {
            values.iter().map(|value| attribute_to_json(name, value)).collect::<Result<_, _>>()?
        }
        AttributeValue::M(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, value)| Ok((name.clone(), attribute_to_json(name, value)?)))
                .collect::<Result<_, String>>()?,
        ),
        AttributeValue::Ss(texts) => sorted(texts).into_iter().map(Value::String).collect(),
        AttributeValue::Ns(texts) => {
            sorted(texts).iter().map(|text| parse_number(name, text)).collect::<Result<_, _>>()?
        }
        _ => return Err(format!("`{name}` is binary; make it a string")),
    })
}

/// DynamoDB returns sets in any order.
fn sorted(texts: &[String]) -> Vec<String> {
    let mut texts = texts.to_vec();
    texts.sort();
    texts
}

fn parse_number(name: &str, text: &str) -> Result<Value, String> {
    if let Ok(whole) = text.parse::<i64>() {
        return Ok(Value::from(whole));
    }
    if let Ok(whole) = text.parse::<u64>() {
        return Ok(Value::from(whole));
    }
    let number = text.parse::<f64>().ok().and_then(Number::from_f64);
    number.map(Value::Number).ok_or_else(|| format!("`{name}` is not a number in the range of a double: {text}"))
}

pub(crate) fn text_at<'i>(item: &'i Item, name: &str) -> Option<&'i str> {
    item.get(name).and_then(|value| value.as_s().ok()).map(String::as_str)
}

pub(crate) fn number_at(item: &Item, name: &str) -> Option<u64> {
    item.get(name).and_then(|value| value.as_n().ok()).and_then(|text| text.parse().ok())
}

/// Returns an item's size as DynamoDB counts it (developer guide, item sizes and formats): the UTF-8 bytes of names and
/// texts; one byte for two digits of a number, plus one; three bytes for a list or map, plus one for each element.
pub(crate) fn item_bytes(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + attribute_bytes(value)).sum()
}

fn attribute_bytes(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(text) => text.len().div_ceil(2) + 1,
        AttributeValue::B(blob) => blob.as_ref().len(),
        AttributeValue::Ss(texts) => texts.iter().map(String::len).sum(),
        AttributeValue::Ns(texts) => texts.iter().map(|text| text.len().div_ceil(2) + 1).sum(),
        AttributeValue::L(values) => 3 + values.iter().map(|value| 1 + attribute_bytes(value)).sum::<usize>(),
        AttributeValue::M(fields) => 3 + item_bytes(fields) + fields.len(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_survives_the_conversion_to_an_item_and_back() {
        let record = serde_json::json!({
            "text": "é", "none": null, "yes": true, "whole": 18446744073709551615_u64, "minus": -7, "part": 1.5,
            "list": ["a", 1, [], {"deep": null}], "map": {"a": {"b": "c"}}
        });
        let mut wanted = record.clone();
        wanted.as_object_mut().unwrap().remove("none");
        assert_eq!(to_json(&to_item(&record).unwrap()).unwrap(), wanted);
    }

    #[test]
    fn instants_written_as_texts_sort_by_time() {
        let at = |nanosecond| Timestamp::from_nanosecond(nanosecond).unwrap();
        let mut texts: Vec<String> =
            [0, 1, 500_000_000, 999_999_999, 1_000_000_000].map(at).map(sortable_instant).to_vec();
        let sorted = texts.clone();
        texts.sort();
        assert_eq!(texts, sorted);
        assert_eq!(texts[2], "1970-01-01T00:00:00.500000000Z");
        assert_eq!(texts[2].parse::<Timestamp>().unwrap(), at(500_000_000));
    }

    #[test]
    fn item_size_follows_the_rules_of_dynamodb() {
        let item = Item::from([
            ("ab".to_owned(), s("é")),
            ("n".to_owned(), n(1234)),
            ("l".to_owned(), AttributeValue::L(vec![s("x"), AttributeValue::Bool(true)])),
        ]);
        assert_eq!(item_bytes(&item), (2 + 2) + (1 + 3) + (1 + 3 + 2 + 2));
    }
}
