//! The values of a TOML file with their lines, as [`super::Section`] reads them.

use toml::de::{DeTable, DeValue};

pub(super) struct Entry {
    pub key: String,
    pub line: u32,
    pub value: Value,
}

pub(super) enum Value {
    Text(String),
    Integer(i64),
    Number(f64),
    Flag(bool),
    List(Vec<(u32, Value)>),
    Table(Vec<Entry>),
    /// Text without a TOML type; the reader of the key decides its type.
    Word(String),
}

impl Value {
    pub(super) fn is_whole_number(&self) -> bool {
        match self {
            Value::Integer(_) => true,
            Value::Word(word) => word.parse::<i64>().is_ok(),
            _ => false,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a text",
            Value::Integer(_) => "a whole number",
            Value::Number(_) => "a number",
            Value::Flag(_) => "true or false",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Word(_) => "a word",
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Text(text) | Value::Word(text) => f.write_str(text),
            Value::Integer(number) => number.fmt(f),
            Value::Number(number) => number.fmt(f),
            Value::Flag(flag) => flag.fmt(f),
            Value::List(_) => f.write_str("[...]"),
            Value::Table(_) => f.write_str("{...}"),
        }
    }
}

pub(super) fn entries_of(table: DeTable<'_>, lines: &Lines) -> Vec<Entry> {
    table
        .into_iter()
        .map(|(key, value)| {
            let line = lines.line(key.span().start);
            Entry { key: key.into_inner().into_owned(), line, value: value_of(value.into_inner(), lines) }
        })
        .collect()
}

fn value_of(value: DeValue<'_>, lines: &Lines) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            let digits = number.to_string();
            digits.parse().map_or(Value::Text(digits), Value::Integer)
        }
        DeValue::Float(number) => Value::Number(number.to_string().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Flag(flag),
        DeValue::Datetime(instant) => Value::Text(instant.to_string()),
        DeValue::Array(items) => Value::List(
            items.into_iter().map(|item| (lines.line(item.span().start), value_of(item.into_inner(), lines))).collect(),
        ),
        DeValue::Table(table) => Value::Table(entries_of(table, lines)),
    }
}

/// Byte offsets at which the lines of a text begin.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn of(text: &str) -> Lines {
        Lines(std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect())
    }

    pub(super) fn line(&self, offset: usize) -> u32 {
        self.0.partition_point(|begin| *begin <= offset) as u32
    }
}
