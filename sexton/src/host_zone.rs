//! Finds the zone of this host as libc does: `TZ`, then `/etc/localtime`, else UTC. Crontabs have it by default, and
//! tables show it. [`HostZoneWatch`] detects that it changes while `up` runs.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use domain::zones::{self, HostZone, clock_changes, zone_named};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::tzdata;

/// Symbolic links followed from `/etc/localtime` (Linux follows at most 40: path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Bytes read of a zone file. Chosen: the largest of the tzdata has 4 KiB.
const ZONE_FILE_BYTES_MAX: u64 = 1 << 20;

/// Clock changes are compared from 1970 on: distributions differ in older data.
const HISTORY_FROM: i64 = 0;

/// Before the first clock change of any zone: the year 1800.
const ALWAYS: i64 = -5_364_662_400;

/// Clock changes are compared up to here: 2045-01-01. Chosen: rules without an end repeat every year.
const HISTORY_UNTIL: i64 = 2_366_841_600;

/// Other names of UTC, which would only look like a change of the zone.
const UTC_NAMES: [&str; 8] = ["UTC", "Etc/UTC", "UCT", "Etc/UCT", "Universal", "Etc/Universal", "Zulu", "Etc/Zulu"];

/// First parts of names that are no abbreviation or former name.
const REGIONS: [&str; 10] = [
    "Africa/",
    "America/",
    "Antarctica/",
    "Arctic/",
    "Asia/",
    "Atlantic/",
    "Australia/",
    "Europe/",
    "Indian/",
    "Pacific/",
];

/// The zone of a host.
#[derive(Clone, Debug)]
pub(crate) struct FoundZone {
    /// For schedules, which are stored with a name.
    pub(crate) name: HostZone,
    /// For the display of times; known also where the zone has no name.
    pub(crate) zone: TimeZone,
}

impl FoundZone {
    fn utc() -> FoundZone {
        FoundZone { name: HostZone::named("UTC"), zone: TimeZone::UTC }
    }

    /// The zone of a name; `None` when it is unknown.
    fn known(name: &str) -> Option<FoundZone> {
        let zone = zone_named(name).ok()?;
        let name = zone.iana_name().unwrap_or(name).to_owned();
        if UTC_NAMES.contains(&name.as_str()) {
            return Some(FoundZone::utc());
        }
        Some(FoundZone { name: HostZone(Ok(name)), zone })
    }

    fn nameless(why: String, zone: TimeZone) -> FoundZone {
        FoundZone { name: HostZone(Err(why)), zone }
    }
}

/// The zone of this host now.
pub(crate) fn find() -> FoundZone {
    ZoneFiles::of_this_host().find()
}

/// As [`find`], for the display of times: a copy of a zone file is used without the search for its name.
pub(crate) fn display_zone() -> TimeZone {
    match ZoneFiles::of_this_host().read() {
        Setting::Known(found) => found.zone,
        Setting::Copy { zone, .. } => zone,
    }
}

/// What decides the zone of a host.
enum Setting {
    Known(FoundZone),
    /// A copy of a zone file, which holds no name.
    Copy {
        path: PathBuf,
        bytes: Vec<u8>,
        zone: TimeZone,
    },
}

/// Where the zone of a host is set.
#[derive(Clone, Debug)]
struct ZoneFiles {
    /// The environment variable `TZ`.
    tz: Option<String>,
    /// `/etc/localtime`
    localtime: PathBuf,
    /// `/etc/timezone`: the name of the zone, on Debian and Alpine.
    timezone: PathBuf,
    /// Folders with zone files.
    folders: Vec<PathBuf>,
}

impl ZoneFiles {
    fn of_this_host() -> ZoneFiles {
        ZoneFiles {
            tz: std::env::var_os("TZ").map(|value| value.to_string_lossy().into_owned()),
            localtime: "/etc/localtime".into(),
            timezone: "/etc/timezone".into(),
            folders: tzdata::folders(),
        }
    }

    fn find(&self) -> FoundZone {
        match self.read() {
            Setting::Known(found) => found,
            Setting::Copy { path, bytes, zone } => self.zone_of_copy(&path, &bytes, zone),
        }
    }

    fn read(&self) -> Setting {
        let file = self.file();
        match self.tz.as_deref().filter(|_| file.is_none()) {
            Some(value) => self.zone_of_text(value),
            None => self.zone_of_file(file.as_deref().unwrap_or(&self.localtime)),
        }
    }

    /// The zone of a `TZ` that names no file.
    fn zone_of_text(&self, value: &str) -> Setting {
        let text = value.strip_prefix(':').unwrap_or(value);
        // POSIX leaves an empty TZ open; glibc and musl use UTC.
        if text.is_empty() {
            return Setting::Known(FoundZone::utc());
        }
        if let Some(found) = FoundZone::known(text) {
            return Setting::Known(found);
        }
        if let Some(file) = self.folders.iter().map(|folder| folder.join(text)).find(|file| file.is_file()) {
            return self.zone_of_file(&file);
        }
        Setting::Known(match TimeZone::posix(text) {
            Ok(zone) if is_utc(&zone) => FoundZone::utc(),
            Ok(zone) => {
                FoundZone::nameless(format!("the zone of this host has no name: TZ=`{value}` is only a rule"), zone)
            }
            Err(_) => FoundZone::nameless(
                format!("the zone of this host is unknown: TZ=`{value}` is not a time zone"),
                TimeZone::UTC,
            ),
        })
    }

    /// The file that decides; `None` when `TZ` holds a name or a rule.
    fn file(&self) -> Option<PathBuf> {
        let Some(value) = &self.tz else { return Some(self.localtime.clone()) };
        match value.strip_prefix(':').unwrap_or(value) {
            // On Debian a link in the folder of zones.
            "localtime" => Some(self.localtime.clone()),
            path if path.starts_with('/') => Some(path.into()),
            _ => None,
        }
    }

    /// The zone of a link into a folder of zones, or of a copy of a zone file.
    fn zone_of_file(&self, path: &Path) -> Setting {
        let mut at = path.to_owned();
        for _ in 0..LINKS_MAX {
            if let Some(found) = self.zone_of_path(&at) {
                return Setting::Known(found);
            }
            let Ok(target) = fs::read_link(&at) else { break };
            at = normalized(&at.parent().unwrap_or(Path::new("/")).join(target));
        }
        if let Some(found) = path.canonicalize().ok().and_then(|real| self.zone_of_path(&real)) {
            return Setting::Known(found);
        }
        let unknown = |why| FoundZone::nameless(format!("the zone of this host is unknown: {why}"), TimeZone::UTC);
        Setting::Known(match read_zone_file(path) {
            Ok(Some(bytes)) => match TimeZone::tzif("local", &bytes) {
                Ok(zone) => return Setting::Copy { path: path.to_owned(), bytes, zone },
                Err(_) => unknown(format!("{} is not a zone file", path.display())),
            },
            Ok(None) => FoundZone::utc(),
            Err(why) => unknown(why),
        })
    }

    /// The zone that a path in a folder of zones names.
    fn zone_of_path(&self, path: &Path) -> Option<FoundZone> {
        let inside = self.folders.iter().find_map(|folder| path.strip_prefix(folder).ok().map(Path::to_owned));
        let inside = inside.or_else(|| {
            let parts: Vec<Component<'_>> = path.components().collect();
            let is_folder = |part: &Component<'_>| part.as_os_str().to_string_lossy().starts_with("zoneinfo");
            let folder = parts.iter().rposition(is_folder)?;
            Some(parts[folder + 1..].iter().collect())
        })?;
        FoundZone::known(inside.to_str()?)
    }

    /// The zone whose data a file has: the one that `/etc/timezone` names if it is equal, otherwise any that is equal.
    fn zone_of_copy(&self, path: &Path, bytes: &[u8], zone: TimeZone) -> FoundZone {
        if is_utc(&zone) {
            return FoundZone::utc();
        }
        let named = self.zone_of_timezone_file();
        if let Some(found) = named.clone().filter(|found| same_history(&zone, &found.zone, HISTORY_FROM)) {
            return found;
        }
        let names = self.candidates();
        if let Some(found) = self.zone_with_bytes(&names, bytes) {
            return found;
        }
        // Distributions differ in the data before 1970.
        let known: Vec<FoundZone> = names.iter().filter_map(|name| FoundZone::known(name)).collect();
        let equal_since = |from| known.iter().find(|found| same_history(&zone, &found.zone, from));
        if let Some(found) = equal_since(ALWAYS).or_else(|| equal_since(HISTORY_FROM)) {
            return found.clone();
        }
        // A copy from an older tzdata: the name is right if the clocks agree from now on.
        let now = Timestamp::now().as_second();
        match named.filter(|found| same_history(&zone, &found.zone, now)) {
            Some(found) => found,
            None => {
                let why = format!(
                    "the zone of this host has no name: {} is a copy, and no zone of tzdata {} has its clock changes",
                    path.display(),
                    zones::release().version_text()
                );
                FoundZone::nameless(why, zone)
            }
        }
    }

    /// The zone whose file, or a variant of it, has this content. The clock changes of the variant `right` differ by
    /// leap seconds, so that no comparison of them finds it.
    fn zone_with_bytes(&self, names: &[String], bytes: &[u8]) -> Option<FoundZone> {
        let files = |variant: &'static str| {
            let is_equal = move |name: &&String| {
                let file = |folder: &PathBuf| folder.join(variant).join(name.as_str());
                self.folders.iter().any(|folder| fs::read(file(folder)).is_ok_and(|content| content == bytes))
            };
            names.iter().filter(is_equal).find_map(|name| FoundZone::known(name))
        };
        let named = self.timezone_line().filter(|line| {
            self.folders
                .iter()
                .any(|folder| read_zone_file(&folder.join(line)).is_ok_and(|file| file.as_deref() == Some(bytes)))
        });
        named.and_then(|line| FoundZone::known(&line)).or_else(|| ["", "posix", "right"].into_iter().find_map(files))
    }

    fn timezone_line(&self) -> Option<String> {
        let text = read_zone_file(&self.timezone).ok()??;
        let text = String::from_utf8_lossy(&text);
        text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
    }

    fn zone_of_timezone_file(&self) -> Option<FoundZone> {
        FoundZone::known(&self.timezone_line()?)
    }

    /// All names of zones; those in use today come first.
    fn candidates(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for table in ["zone1970.tab", "zone.tab"] {
            let text = self.folders.iter().find_map(|folder| fs::read_to_string(folder.join(table)).ok());
            let rows = text.as_deref().unwrap_or_default().lines().filter(|line| !line.starts_with('#'));
            names.extend(rows.filter_map(|row| row.split('\t').nth(2)).map(str::to_owned));
        }
        let mut others = zones::names();
        others.sort_by_key(|name| !REGIONS.iter().any(|region| name.starts_with(region)));
        names.extend(others);
        names
    }

    /// Changes when the zone can have changed.
    fn stamp(&self) -> String {
        let file = self.file();
        let paths = file.iter().chain([&self.timezone]);
        let stamps: Vec<String> = paths
            .map(|path| {
                let target = fs::read_link(path).unwrap_or_default();
                format!("{target:?} {} {}", stamp(fs::symlink_metadata(path)), stamp(fs::metadata(path)))
            })
            .collect();
        format!("{stamps:?} {:?}", zones::release())
    }
}

fn stamp(metadata: std::io::Result<fs::Metadata>) -> String {
    metadata.map_or_else(
        |_| String::new(),
        |metadata| format!("{}.{}.{}.{}", metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()),
    )
}

/// Resolves `.` and `..` in the text: the target of a link may not exist.
fn normalized(path: &Path) -> PathBuf {
    let mut normalized = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normalized.pop()),
            Component::CurDir => {}
            part => normalized.push(part),
        }
    }
    normalized
}

/// The content of a file; `None` when it does not exist.
fn read_zone_file(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let fault = |why: String| format!("{}: {why}", path.display());
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(fault(why.to_string())),
    };
    if !metadata.is_file() {
        return Err(fault("not a file".to_owned()));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|why| fault(why.to_string()))?;
    file.take(ZONE_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|why| fault(why.to_string()))?;
    Ok(Some(bytes))
}

/// Whether a zone has no clock changes since 1970 and the time of UTC.
fn is_utc(zone: &TimeZone) -> bool {
    clock_changes(zone, HISTORY_FROM, HISTORY_UNTIL).eq([(HISTORY_FROM, 0)])
}

/// Whether two zones have the same clock and the same abbreviations from an instant on.
fn same_history(zone: &TimeZone, other: &TimeZone, from: i64) -> bool {
    // Cheap for most pairs of zones: their offsets in two seasons differ.
    let probes = [1_767_225_600, 1_782_864_000].map(|second| Timestamp::from_second(second).unwrap_or_default());
    probes.iter().all(|at| zone.to_offset(*at) == other.to_offset(*at)) && history(zone, from) == history(other, from)
}

/// Offset and abbreviation at an instant, then each later change of them.
fn history(zone: &TimeZone, from: i64) -> Vec<(i64, i32, String)> {
    let start = Timestamp::from_second(from).unwrap_or(Timestamp::MIN);
    let first = zone.to_offset_info(start);
    let mut history = vec![(from, first.offset().seconds(), first.abbreviation().to_owned())];
    let mut reached = from;
    for change in zone.following(start) {
        let at = change.timestamp().as_second();
        // jiff repeats the last change of a zone file without a footer.
        if at >= HISTORY_UNTIL || at <= reached {
            break;
        }
        reached = at;
        history.push((at, change.offset().seconds(), change.abbreviation().to_owned()));
    }
    history.dedup_by(|later, earlier| later.1 == earlier.1 && later.2 == earlier.2);
    history
}

/// Detects changes of the host's zone.
pub(crate) struct HostZoneWatch {
    files: ZoneFiles,
    stamp: String,
    name: HostZone,
    /// A zone that was found by the last poll only: a change in two steps has a zone in between.
    changed_to: Option<HostZone>,
}

impl HostZoneWatch {
    pub(crate) fn new() -> HostZoneWatch {
        HostZoneWatch::of(ZoneFiles::of_this_host())
    }

    fn of(files: ZoneFiles) -> HostZoneWatch {
        HostZoneWatch { stamp: files.stamp(), name: files.find().name, files, changed_to: None }
    }

    /// The new zone, when two calls in a row found it.
    pub(crate) fn take_changed(&mut self) -> Option<HostZone> {
        let stamp = self.files.stamp();
        if stamp == self.stamp {
            let name = self.changed_to.take()?;
            self.name.clone_from(&name);
            return Some(name);
        }
        self.stamp = stamp;
        let name = self.files.find().name;
        self.changed_to = (name != self.name).then_some(name);
        None
    }
}

#[cfg(test)]
#[path = "host_zone_tests.rs"]
mod tests;
