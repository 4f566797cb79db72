//! Small things that the services remember, who is alive, and what could not be read.

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

pub const SETTINGS: &str = "settings";
pub const RUNNERS: &str = "runners";

const SETTING: &str = "setting";
const QUARANTINED: &str = "set_aside";

/// Notes about unreadable records that are shown.
const QUARANTINED_SHOWN_MAX: usize = 100;

/// How long such a note is kept. Ours: somebody has read the alert by then.
const QUARANTINED_RETENTION: SignedDuration = SignedDuration::from_hours(30 * 24);

#[async_trait]
impl Settings for Backend {
    async fn read(&self, name: &str) -> PortResult<Option<Stored<Value>>> {
        let item = self.dynamo.get(SETTINGS, key(SETTING, name)).await?;
        Ok(item.map(|item| Stored {
            // What cannot be read is read as null: the services then start from nothing, as on the first day.
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
        // A beat that cannot be read is replaced by the runner's next one.
        let mut beats: Vec<Heartbeat> = items.iter().filter_map(beat_from_item).collect();
        beats.sort_by(|a, b| (&a.runner, b.at).cmp(&(&b.runner, a.at)));
        // A runner whose groups changed stands twice for a while.
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
    /// The items of all runners.
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

    /// Notes a record that cannot be read. It stays where it is; the note is what people see. A note that cannot be
    /// written is told in our own log at least.
    pub(crate) async fn quarantine(&self, kind: &str, name: &str, why: &str) {
        tracing::error!(kind, key = name, why, "a stored record cannot be read and was set aside");
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
            tracing::error!(kind, key = name, %error, "the note about it could not be written");
        }
    }
}

pub fn key(kind: &str, name: &str) -> Item {
    Item::from([("kind".to_owned(), s(kind)), ("name".to_owned(), s(name))])
}

/// The beat in a runner's item; none where only a stop request waits for it.
pub fn beat_from_item(item: &Item) -> Option<Heartbeat> {
    from_item(item.get("beat")?.as_m().ok()?).ok()
}
