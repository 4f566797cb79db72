//! State of the services, heartbeats of runners, and notes about quarantined records.

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use domain::ports::{Heartbeat, PortResult, Quarantined, Settings, Stored};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::Backend;
use crate::dynamo::{ItemWriteResult, Query};
use crate::item::{
    Item, attribute_to_json, from_item, n, number_at, s, sortable_instant, text_at, to_attribute, to_item,
};
use crate::tables::EXPIRES;

pub(crate) const SETTINGS: &str = "settings";
pub(crate) const RUNNERS: &str = "runners";

const SETTING: &str = "setting";
const QUARANTINED: &str = "set_aside";

/// Quarantine notes in one listing. Chosen, not measured.
const QUARANTINED_SHOWN_MAX: usize = 100;

/// Retention of a quarantine note. Chosen: an operator has read the alert within 30 days.
const QUARANTINED_RETENTION: SignedDuration = SignedDuration::from_hours(30 * 24);

#[async_trait]
impl Settings for Backend {
    async fn read(&self, name: &str) -> PortResult<Option<Stored<Value>>> {
        let item = self.dynamo.get(SETTINGS, key(SETTING, name)).await?;
        Ok(item.map(|item| Stored {
            // An unreadable setting is null; the service then starts as in a new installation.
            record: item.get("value").and_then(|value| attribute_to_json("value", value).ok()).unwrap_or(Value::Null),
            version: number_at(&item, "version").unwrap_or(0),
        }))
    }

    async fn write(&self, name: &str, value: &Value, expected: Option<u64>) -> PortResult<bool> {
        let mut item = key(SETTING, name);
        item.insert("value".to_owned(), to_attribute(value.clone()));
        item.insert("version".to_owned(), n(expected.unwrap_or(0) + 1));
        let put = match expected {
            None => self.dynamo.put(SETTINGS, item, "attribute_not_exists(#name)", vec![]).await?,
            Some(version) => {
                self.dynamo.put(SETTINGS, item, "#version = :version", vec![(":version", n(version))]).await?
            }
        };
        Ok(matches!(put, ItemWriteResult::Done(_)))
    }

    async fn heartbeats(&self) -> PortResult<Vec<Heartbeat>> {
        let items = self.runners().await?;
        // An unreadable heartbeat is replaced by the runner's next one.
        let mut beats: Vec<Heartbeat> = items.iter().filter_map(beat_from_item).collect();
        beats.sort_by(|a, b| (&a.runner, b.at).cmp(&(&b.runner, a.at)));
        // A runner whose groups changed has two items until the older one is deleted.
        beats.dedup_by(|later, first| later.runner == first.runner);
        Ok(beats)
    }

    async fn delete_heartbeats(&self, before: Timestamp) -> PortResult<()> {
        let before = sortable_instant(before);
        for item in self.runners().await? {
            if text_at(&item, "at").is_some_and(|at| *at < *before) {
                let key = item.into_iter().filter(|(name, _)| name == "group" || name == "runner").collect();
                self.dynamo.delete(RUNNERS, key, "#at < :before", vec![(":before", s(&before))]).await?;
            }
        }
        Ok(())
    }

    async fn quarantined(&self) -> PortResult<Vec<Quarantined>> {
        let query = Query {
            condition: "#kind = :kind".to_owned(),
            values: vec![(":kind", s(QUARANTINED))],
            ..Query::default()
        };
        let items = self.dynamo.query_all(SETTINGS, query).await?;
        let note = |item: &Item| item.get("note").and_then(|note| from_item(note.as_m().ok()?).ok());
        let mut notes: Vec<Quarantined> = items.iter().filter_map(note).collect();
        notes.sort_by_key(|note| std::cmp::Reverse(note.at));
        notes.truncate(QUARANTINED_SHOWN_MAX);
        Ok(notes)
    }
}

impl Backend {
    /// Reads the items of all runners.
    pub(crate) async fn runners(&self) -> PortResult<Vec<Item>> {
        let (mut items, mut start) = (Vec::new(), None);
        loop {
            let found = self.dynamo.scan(RUNNERS, start, None).await?;
            items.extend(found.items);
            start = found.next;
            if start.is_none() {
                return Ok(items);
            }
        }
    }

    /// Logs an unreadable record and stores a note about it, from which an alert is made. The record itself stays
    /// unchanged. If the note cannot be stored, only the log has it.
    pub(crate) async fn quarantine(&self, kind: &str, name: &str, why: &str) {
        tracing::error!(kind, key = name, why, "unreadable record quarantined");
        let at = Timestamp::now();
        let note = Quarantined { kind: kind.to_owned(), key: name.to_owned(), why: why.to_owned(), at };
        let stored = async {
            let mut item = key(QUARANTINED, &format!("{kind}:{name}"));
            item.insert("note".to_owned(), AttributeValue::M(to_item(&note)?));
            let expires = at.checked_add(QUARANTINED_RETENTION).unwrap_or(at).as_second();
            item.insert(EXPIRES.to_owned(), n(expires));
            self.dynamo.put(SETTINGS, item, "attribute_not_exists(#name)", vec![]).await
        };
        if let Err(error) = stored.await {
            tracing::error!(kind, key = name, %error, "cannot store the note about a quarantined record");
        }
    }
}

pub(crate) fn key(kind: &str, name: &str) -> Item {
    Item::from([("kind".to_owned(), s(kind)), ("name".to_owned(), s(name))])
}

/// Reads the heartbeat of a runner's item; none if the item holds only stop requests.
pub(crate) fn beat_from_item(item: &Item) -> Option<Heartbeat> {
    from_item(item.get("beat")?.as_m().ok()?).ok()
}
