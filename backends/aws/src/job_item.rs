//! A job as an item of the table `jobs`: the fields of the jobs file as plain attributes. Items edited in the AWS
//! console may use other types, such as a number for a text or a text for a flag or list; they are converted. Values
//! without a clear meaning are one fault.

use domain::fault::nearest_name;
use domain::job::Job;
use domain::jobs_file::fields::check_name;
use domain::ports::PortError;
use domain::units::{format_size, parse_duration, parse_size};
use serde_json::{Map, Value};

use crate::item::{Item, to_item, to_json};

/// Attribute that counts the writes of Sexton; an item written by hand has none.
pub(crate) const VERSION: &str = "version";

/// Type of a field, to which values of other types are converted.
#[derive(Clone, Copy)]
enum FieldKind {
    Text,
    Duration,
    Size,
    Flag,
    Number,
    Texts,
    Numbers,
    /// A map of names to texts.
    Map,
    Fields(&'static [(&'static str, FieldKind)]),
}

/// Every field of a job, with its name in the jobs file.
const FIELDS: [(&str, FieldKind); 31] = [
    ("group", FieldKind::Text),
    ("name", FieldKind::Text),
    ("schedule", FieldKind::Text),
    ("zone", FieldKind::Text),
    ("command", FieldKind::Text),
    ("argv", FieldKind::Texts),
    ("enabled", FieldKind::Flag),
    ("user", FieldKind::Text),
    ("cwd", FieldKind::Text),
    ("env", FieldKind::Map),
    ("stdin", FieldKind::Text),
    ("timeout", FieldKind::Duration),
    ("kill_grace", FieldKind::Duration),
    ("start_within", FieldKind::Duration),
    ("random_delay", FieldKind::Duration),
    ("quiet_limit", FieldKind::Duration),
    ("late_output_limit", FieldKind::Duration),
    ("min_duration", FieldKind::Duration),
    ("max_duration", FieldKind::Duration),
    ("min_lines", FieldKind::Number),
    ("concurrency", FieldKind::Text),
    ("catch_up", FieldKind::Text),
    ("success_exit_codes", FieldKind::Numbers),
    (
        "retries",
        FieldKind::Fields(&[
            ("max", FieldKind::Number),
            ("delay", FieldKind::Duration),
            ("backoff", FieldKind::Number),
            ("on", FieldKind::Texts),
        ]),
    ),
    ("needs", FieldKind::Fields(&[("cpu", FieldKind::Number), ("memory", FieldKind::Size)])),
    ("rules", FieldKind::Texts),
    (
        "alert",
        FieldKind::Fields(&[
            ("after", FieldKind::Number),
            ("remind", FieldKind::Duration),
            ("channels", FieldKind::Texts),
        ]),
    ),
    ("description", FieldKind::Text),
    ("owner", FieldKind::Text),
    ("anchor", FieldKind::Text),
    ("source", FieldKind::Text),
];

/// Field that only commands write; read without conversion.
const PAUSED: &str = "paused";

/// Converts a job to an item. Cannot fail for a job that was read from a file or a table.
pub(crate) fn job_to_item(job: &Job) -> Result<Item, PortError> {
    to_item(job)
}

/// Reads an item that may have been written by hand.
///
/// # Errors
/// Returns one sentence with the correction.
pub(crate) fn job_from_item(item: &Item) -> Result<Job, String> {
    let Value::Object(mut written) = to_json(item)? else { return Err("the item is not a job".to_owned()) };
    written.remove(VERSION);
    let paused = written.remove(PAUSED);
    let mut fields = read_fields("", &FIELDS, written)?;
    fields.extend(paused.map(|paused| (PAUSED.to_owned(), paused)));
    for required in ["group", "name", "schedule"] {
        if !fields.contains_key(required) {
            return Err(format!("`{required}` is missing; a job needs group, name, schedule and command"));
        }
    }
    match (fields.get("command"), fields.contains_key("argv")) {
        (None, false) => return Err("`command` is missing; write what to run".to_owned()),
        (Some(_), true) => return Err("both `command` and `argv`; write one of them".to_owned()),
        (Some(Value::String(command)), false) if command.trim().is_empty() => {
            return Err("`command` is empty; write what to run".to_owned());
        }
        _ => {}
    }
    let job: Job = serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())?;
    check_name("group", &job.group)?;
    check_name("name", &job.name)?;
    domain::jobs_file::fields::schedule(&job, jiff::Timestamp::UNIX_EPOCH)
        .map_err(|message| format!("`schedule` is `{}`: {message}", job.schedule))?;
    Ok(job)
}

fn read_fields(
    within: &str,
    known: &[(&'static str, FieldKind)],
    written: Map<String, Value>,
) -> Result<Map<String, Value>, String> {
    let mut fields = Map::new();
    for (name, value) in written {
        // AWS adds such attributes to items of global tables.
        if name.starts_with("aws:") || is_cleared(&value) {
            continue;
        }
        let Some((_, kind)) = known.iter().find(|(known, _)| *known == name) else {
            let hint = nearest_name(&name, known.iter().map(|(known, _)| *known));
            let hint = hint.map_or_else(|| "remove it".to_owned(), |known| format!("did you mean `{within}{known}`?"));
            return Err(format!("`{within}{name}` is not a field of a job; {hint}"));
        };
        let path = format!("{within}{name}");
        fields.insert(name, read_field(&path, *kind, value)?);
    }
    Ok(fields)
}

/// Whether the value is what the AWS console leaves when an operator clears a field.
fn is_cleared(value: &Value) -> bool {
    matches!(value, Value::Null) || value.as_str().is_some_and(str::is_empty)
}

fn read_field(path: &str, kind: FieldKind, value: Value) -> Result<Value, String> {
    let fault = |value: &Value, wanted: &str| Err(format!("`{path}` is {value}; write {wanted}"));
    match (kind, value) {
        (FieldKind::Text, Value::String(text)) => Ok(Value::String(text)),
        (FieldKind::Text, Value::Number(number)) => Ok(Value::String(number.to_string())),
        (FieldKind::Text, value) => fault(&value, "a text"),
        (FieldKind::Duration, value) => {
            let text = plain_text(&value);
            parse_duration(&text).map(|_| Value::String(text)).map_err(|message| format!("`{path}`: {message}"))
        }
        // A number without a unit is bytes.
        (FieldKind::Size, value) => {
            let text = plain_text(&value);
            parse_size(&text).map(format_size).map(Value::String).map_err(|message| format!("`{path}`: {message}"))
        }
        (FieldKind::Flag, Value::Bool(yes)) => Ok(Value::Bool(yes)),
        (FieldKind::Flag, value) => match plain_text(&value).as_str() {
            "true" | "yes" | "on" | "1" => Ok(Value::Bool(true)),
            "false" | "no" | "off" | "0" => Ok(Value::Bool(false)),
            _ => fault(&value, "true or false"),
        },
        (FieldKind::Number, Value::Number(number)) => Ok(Value::Number(number)),
        (FieldKind::Number, value) => match serde_json::from_str(&plain_text(&value)) {
            Ok(Value::Number(number)) => Ok(Value::Number(number)),
            _ => fault(&value, "a number"),
        },
        (FieldKind::Texts, value) => read_list(path, FieldKind::Text, value),
        (FieldKind::Numbers, value) => read_list(path, FieldKind::Number, value),
        (FieldKind::Map, Value::Object(fields)) => {
            // An empty text is valid here: an empty environment variable.
            let each = |(name, value): (String, Value)| {
                let value = match value {
                    Value::Bool(yes) => Value::String(yes.to_string()),
                    value => read_field(&format!("{path}.{name}"), FieldKind::Text, value)?,
                };
                Ok((name, value))
            };
            Ok(Value::Object(fields.into_iter().map(each).collect::<Result<_, String>>()?))
        }
        (FieldKind::Map, value) => fault(&value, "a map of names and texts"),
        (FieldKind::Fields(known), Value::Object(fields)) => {
            Ok(Value::Object(read_fields(&format!("{path}."), known, fields)?))
        }
        (FieldKind::Fields(_), value) => fault(&value, "a map of its fields"),
    }
}

/// Reads a list, a set, or a single value. Except for `argv`, a text is split at commas.
fn read_list(path: &str, kind: FieldKind, value: Value) -> Result<Value, String> {
    let parts = match value {
        Value::Array(parts) => parts,
        Value::String(text) if path != "argv" => {
            text.split(',').map(|part| Value::String(part.trim().to_owned())).filter(|part| !is_cleared(part)).collect()
        }
        Value::String(text) => vec![Value::String(text)],
        value => vec![value],
    };
    parts.into_iter().map(|part| read_field(path, kind, part)).collect()
}

fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.trim().to_ascii_lowercase(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;
    use domain::job::{Command, JobKey};

    use super::*;
    use crate::item::{n, s, to_attribute};

    fn minimal_item() -> Item {
        [("group", s("db")), ("name", s("dump")), ("command", s("dump.sh")), ("schedule", s("30 2 * * *"))]
            .into_iter()
            .chain([("enabled", AttributeValue::Bool(true))])
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    fn with(name: &str, value: AttributeValue) -> Item {
        let mut item = minimal_item();
        item.insert(name.to_owned(), value);
        item
    }

    #[test]
    fn five_attributes_make_a_job_with_all_defaults() {
        let job = job_from_item(&minimal_item()).unwrap();
        let wanted = Job::new(JobKey::new("db", "dump"), "30 2 * * *", Command::Shell("dump.sh".to_owned()));
        assert_eq!(job, wanted);
    }

    #[test]
    fn a_job_with_every_field_survives_the_conversion_to_an_item_and_back() {
        let file = r#"
            [[job]]
            group = "db"
            name = "dump"
            schedule = "30 2 * * *"
            zone = "Europe/Paris"
            argv = ["dump", ""]
            user = "postgres"
            cwd = "/var/lib"
            env = { LEVEL = "9", EMPTY = "", FLAG = "true" }
            timeout = "2h"
            kill_grace = "3s"
            start_within = "5m"
            random_delay = "10m"
            quiet_limit = "20m"
            late_output_limit = "1h"
            min_duration = "1m"
            max_duration = "2h"
            min_lines = 3
            concurrency = "forbid"
            catch_up = "once"
            success_exit_codes = [0, 3]
            retries = { max = 2, delay = "1m", backoff = 2.5, on = ["failed", "lost"] }
            needs = { cpu = 1.5, memory = "2GiB" }
            rules = ["default", "postgres"]
            alert = { after = 2, remind = "4h", channels = ["oncall"] }
            description = "Dump"
            owner = "data"
        "#;
        let (mut jobs, faults) = domain::jobs_file::parse("jobs.toml", file);
        assert!(jobs.len() == 1, "{faults:?}");
        let mut job = jobs.remove(0);
        job.anchor = Some(jiff::Timestamp::UNIX_EPOCH);
        job.stdin = Some("in".to_owned());
        job.paused = Some(domain::job::Pause::new(jiff::Timestamp::UNIX_EPOCH, None, "upgrade"));
        assert_eq!(job_from_item(&job_to_item(&job).unwrap()).unwrap(), job);
        let nothing_watched = Job { rules: Vec::new(), ..job };
        assert_eq!(job_from_item(&job_to_item(&nothing_watched).unwrap()).unwrap(), nothing_watched);
    }

    #[test]
    fn values_of_other_types_are_converted() {
        for (enabled, wanted) in [(s("true"), true), (s("No"), false), (n(1), true), (n(0), false)] {
            assert_eq!(job_from_item(&with("enabled", enabled)).unwrap().enabled, wanted);
        }
        let rules = |value| job_from_item(&with("rules", value)).unwrap().rules;
        assert_eq!(rules(s("default, python")), ["default", "python"]);
        assert_eq!(rules(AttributeValue::Ss(vec!["python".to_owned(), "default".to_owned()])), ["default", "python"]);
        assert_eq!(rules(AttributeValue::L(vec![])), [] as [&str; 0]);
        let codes = |value| job_from_item(&with("success_exit_codes", value)).unwrap().success_exit_codes;
        assert_eq!(codes(s("0, 3")), [0, 3]);
        assert_eq!(codes(n(3)), [3]);
        assert_eq!(codes(AttributeValue::Ns(vec!["3".to_owned(), "0".to_owned()])), [0, 3]);
        let alert = to_attribute(serde_json::json!({ "after": "3", "channels": "oncall" }));
        let alert = job_from_item(&with("alert", alert)).unwrap().alert;
        assert_eq!((alert.after, alert.channels), (3, vec!["oncall".to_owned()]));
        let env = to_attribute(serde_json::json!({ "LEVEL": 9, "ON": true, "EMPTY": "" }));
        let env = job_from_item(&with("env", env)).unwrap().env;
        assert_eq!(env.into_values().collect::<Vec<_>>(), ["", "9", "true"]);
        assert_eq!(job_from_item(&with("user", n(1000))).unwrap().user.as_deref(), Some("1000"));
        assert_eq!(job_from_item(&with("zone", s(""))).unwrap().zone, "UTC");
        assert_eq!(job_from_item(&with("timeout", AttributeValue::Null(true))).unwrap().timeout, None);
    }

    #[test]
    fn an_invalid_value_is_one_fault_that_names_the_field() {
        let mut nameless = minimal_item();
        nameless.remove("schedule");
        let mut commandless = minimal_item();
        commandless.remove("command");
        for (item, wanted) in [
            (nameless, "`schedule` is missing"),
            (commandless, "`command` is missing"),
            (with("enabled", s("perhaps")), "`enabled` is \"perhaps\"; write true or false"),
            (with("schedul", s("x")), "did you mean `schedule`?"),
            (with("schedule", s("every day")), "`schedule` is `every day`"),
            (with("timeout", s("soon")), "`timeout`: "),
            (with("command", s(" ")), "`command` is empty"),
            (with("argv", s("x")), "both `command` and `argv`"),
            (with("env", s("A=1")), "`env` is \"A=1\"; write a map"),
            (with("retries", to_attribute(serde_json::json!({ "mex": 1 }))), "did you mean `retries.max`?"),
            (with("cwd", AttributeValue::B(aws_sdk_dynamodb::primitives::Blob::new([1]))), "`cwd` is binary"),
        ] {
            let message = job_from_item(&item).unwrap_err();
            assert!(message.contains(wanted), "{message}");
        }
    }

    #[test]
    fn every_field_of_a_job_is_in_the_list() {
        let mut job = Job::new(JobKey::new("g", "n"), "@daily", Command::Shell("x".to_owned()));
        job.stdin = Some(String::new());
        for name in job_to_item(&job).unwrap().keys() {
            assert!(FIELDS.iter().any(|(known, _)| known == name), "{name}");
        }
    }
}
