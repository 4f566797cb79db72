//! Columns: instants as numbers, records as JSON, and what becomes of a record that cannot be read.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::de::DeserializeOwned;

use crate::Outcome;

/// Nanoseconds since 1970; what lies beyond the year 2262 is as far as that.
pub fn stamp(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(if at > Timestamp::UNIX_EPOCH { i64::MAX } else { i64::MIN })
}

pub fn instant(stamp: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(stamp)).unwrap_or(Timestamp::MAX)
}

/// A column that ought to be text. Whatever else a hand put there is read as nothing, which no record is.
pub fn text(columns: &Row<'_>, index: usize) -> rusqlite::Result<String> {
    Ok(columns.get_ref(index)?.as_str().unwrap_or_default().to_owned())
}

/// Reads a record, or says in one sentence why not.
pub fn parse<T: DeserializeOwned>(body: &str) -> Result<T, String> {
    serde_json::from_str(body).map_err(|error| format!("the stored json cannot be read: {error}"))
}

/// Notes a record that cannot be read. It stays where it is; the note is what people see.
pub fn quarantine(connection: &Connection, kind: &str, key: &str, why: &str, at: Timestamp) -> Outcome<()> {
    let noted = connection
        .prepare_cached("INSERT INTO set_aside (kind, key, why, at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?
        .execute(params![kind, key, why, stamp(at)])?;
    if noted > 0 {
        tracing::error!(kind, key, why, "a stored record cannot be read and was set aside");
    }
    Ok(())
}

/// A lease that began no further ahead than this was given meanwhile: whoever asks may have waited for the writer. Ours:
/// far more than [`crate::database`] lets anybody wait.
const LEASE_AHEAD_MAX: Duration = Duration::from_secs(60);

/// A lease that began after this was given by a clock that has been set back since, and is void.
pub fn lease_void_after(now: Timestamp) -> i64 {
    stamp(now).saturating_add(LEASE_AHEAD_MAX.as_nanos() as i64)
}

/// Gives back what a void lease hides. Whoever holds it may be at work on it still: that a message comes twice harms
/// nobody.
pub fn release_void_leases(connection: &Connection, table: &str, now: Timestamp) -> Outcome<()> {
    let end = format!("UPDATE {table} SET ready = ?1, leased_at = NULL WHERE leased_at > ?2");
    connection.prepare_cached(&end)?.execute([stamp(now), lease_void_after(now)])?;
    Ok(())
}
