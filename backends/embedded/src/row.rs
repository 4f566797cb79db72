//! Reads and writes columns: instants as numbers, records as JSON; quarantines unreadable records, and ends void
//! leases.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::de::DeserializeOwned;

use crate::Outcome;

/// Nanoseconds since 1970. An instant after the year 2262 becomes the largest number.
pub(crate) fn stamp(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(if at > Timestamp::UNIX_EPOCH { i64::MAX } else { i64::MIN })
}

pub(crate) fn instant(stamp: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(stamp)).unwrap_or(Timestamp::MAX)
}

/// Reads a text column. A value of another type, written by hand, is read as an empty text, which no record is.
pub(crate) fn text(columns: &Row<'_>, index: usize) -> rusqlite::Result<String> {
    Ok(columns.get_ref(index)?.as_str().unwrap_or_default().to_owned())
}

/// Reads a record, or returns one sentence why it is unreadable.
pub(crate) fn parse<T: DeserializeOwned>(body: &str) -> Result<T, String> {
    serde_json::from_str(body).map_err(|error| format!("the stored JSON is unreadable: {error}"))
}

/// Logs an unreadable record and stores a note about it, from which an alert is made. The record itself stays
/// unchanged.
pub(crate) fn quarantine(connection: &Connection, kind: &str, key: &str, why: &str, at: Timestamp) -> Outcome<()> {
    let noted = connection
        .prepare_cached("INSERT INTO set_aside (kind, key, why, at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?
        .execute(params![kind, key, why, stamp(at)])?;
    if noted > 0 {
        tracing::error!(kind, key, why, "unreadable record quarantined");
    }
    Ok(())
}

/// How far ahead of the caller's clock a valid lease may begin: the caller may have waited for the writer while another
/// one got the lease. Chosen: far longer than a write waits.
const LEASE_AHEAD_MAX: Duration = Duration::from_secs(60);

/// Returns the latest start of a valid lease. The clock was set back after a later one was given, so that lease is
/// void.
pub(crate) fn lease_void_after(now: Timestamp) -> i64 {
    stamp(now).saturating_add(LEASE_AHEAD_MAX.as_nanos() as i64)
}

/// Ends void leases, so that their messages are delivered now. The holder of a lease may still be working: a second
/// delivery is harmless.
pub(crate) fn release_void_leases(connection: &Connection, table: &str, now: Timestamp) -> Outcome<()> {
    let end = format!("UPDATE {table} SET ready = ?1, leased_at = NULL WHERE leased_at > ?2");
    connection.prepare_cached(&end)?.execute([stamp(now), lease_void_after(now)])?;
    Ok(())
}
