//! The names that the entries of one crontab have so far, so that each job gets a name of its own. Keeps digests
//! instead of names, because a crontab can have a hundred thousand entries.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::job::JobKey;

#[derive(Default)]
pub(super) struct NameRegister {
    names: HashMap<u128, NameUse>,
    /// The line of each entry without a name, by its default name and its schedule.
    schedules: HashMap<u128, u32>,
    /// Entries without a name, by the default name of older builds.
    former_counts: HashMap<u128, u32>,
}

#[derive(Clone, Copy, Default)]
struct NameUse {
    /// The line of the job with this name; `None` when it is only the common name of numbered entries.
    line: Option<u32>,
    /// Entries without a name whose common default name it is.
    count: u32,
}

fn digest(parts: [&str; 3]) -> u128 {
    let digest = Sha256::digest(parts.join("\0"));
    digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

fn digest_of(key: &JobKey) -> u128 {
    digest([&key.group, &key.name, ""])
}

impl NameRegister {
    /// The line of the job with this name.
    pub(super) fn line_of(&self, key: &JobKey) -> Option<u32> {
        self.names.get(&digest_of(key))?.line
    }

    pub(super) fn take(&mut self, key: &JobKey, line: u32) {
        self.names.entry(digest_of(key)).or_default().line = Some(line);
    }

    /// The number of the next entry with this default name, from 1.
    pub(super) fn next_number(&mut self, default_name: &JobKey) -> u32 {
        let digest = digest_of(default_name);
        let mut count = self.names.get(&digest).map_or(0, |name| name.count) + 1;
        while self.line_of(&numbered(default_name, count)).is_some() {
            count += 1;
        }
        self.names.entry(digest).or_default().count = count;
        count
    }

    /// As [`NameRegister::next_number`], for a default name of older builds.
    pub(super) fn next_former_number(&mut self, former_name: &JobKey) -> u32 {
        let count = self.former_counts.entry(digest_of(former_name)).or_insert(0);
        *count += 1;
        *count
    }

    /// Registers the schedule of an entry with this default name. Returns the line of an earlier one that has both.
    pub(super) fn repeat(&mut self, default_name: &JobKey, schedule: &str, line: u32) -> Option<u32> {
        self.schedules.insert(digest([&default_name.group, &default_name.name, schedule]), line)
    }
}

/// The key of the `count`th entry with this default name.
pub(super) fn numbered(key: &JobKey, count: u32) -> JobKey {
    match count {
        0 | 1 => key.clone(),
        _ => JobKey::new(&key.group, format!("{}-{count}", key.name)),
    }
}
