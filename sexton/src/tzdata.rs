//! Chooses between the tzdata of this system and the built-in one: the newer is used. [`TzdataWatch`] detects an update
//! of the system's while `up` runs.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use domain::zones::{self, ZoneDatabase, ZoneRelease, built_in};
use jiff::tz::TimeZone;

/// Where systems have their zone files; the first that exists counts.
const FOLDERS: [&str; 4] = ["/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo"];

/// Files that hold the version of a tzdata, and what is before it in the first line.
const VERSION_FILES: [(&str, &str); 4] =
    [("tzdata.zi", "# version "), ("+VERSION", ""), ("VERSION", ""), ("version", "")];

/// Bytes read of a version file: its first line is far shorter.
const VERSION_BYTES_MAX: u64 = 256;

/// Bytes read of a zone file. Chosen: the largest of the tzdata has 4 KiB.
const ZONE_FILE_BYTES_MAX: u64 = 1 << 20;

/// First bytes of a zone file (RFC 8536, 3.1).
const MAGIC: &[u8] = b"TZif";

/// The folders that may hold the tzdata of this system; `TZDIR` replaces them, as in libc.
pub(crate) fn folders() -> Vec<PathBuf> {
    match std::env::var_os("TZDIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => vec![folder.into()],
        None => FOLDERS.map(PathBuf::from).to_vec(),
    }
}

/// Uses the newer tzdata from now on.
pub(crate) fn choose() {
    if let Some(system) = newer_system() {
        zones::use_database(system);
    }
}

/// The system's tzdata, if it is newer than the built-in one.
fn newer_system() -> Option<Arc<SystemZones>> {
    let system = SystemZones::new(&folder()?);
    system.release.is_newer_than(&built_in().release()).then(|| Arc::new(system))
}

fn folder() -> Option<PathBuf> {
    folders().into_iter().find(|folder| folder.is_dir())
}

/// Which tzdata is in use, and which is not.
pub(crate) fn description() -> String {
    let used = zones::release();
    let other = match folder().map(|folder| SystemZones::new(&folder).release) {
        _ if used != built_in().release() => format!("built in is {}", built_in().release().version_text()),
        Some(system) => format!("{} in {} is not newer", system.version_text(), system.place),
        None => "the system has none".to_owned(),
    };
    format!("{used}; {other}")
}

/// The tzdata of a folder with zone files. A zone is read when it is first used.
struct SystemZones {
    folder: PathBuf,
    release: ZoneRelease,
    /// The zones that were read, each with the stamp of its file.
    zones: Mutex<BTreeMap<String, (TimeZone, String)>>,
}

impl SystemZones {
    fn new(folder: &Path) -> SystemZones {
        let version = version_file(folder);
        let release = ZoneRelease {
            version: version.as_ref().map(|(_, version)| version.clone()),
            place: folder.display().to_string(),
            stamp: version.map_or_else(String::new, |(file, _)| file_stamp(&file)),
        };
        SystemZones { folder: folder.to_owned(), release, zones: Mutex::default() }
    }

    fn read(&self, name: &str) -> Option<TimeZone> {
        // Case does not matter in names. The built-in tzdata knows the spelling of all but new ones.
        let spelling = built_in().zone(name).and_then(|zone| zone.iana_name().map(str::to_owned));
        let spelling = spelling.unwrap_or_else(|| name.to_owned());
        let bytes = is_name(&spelling).then(|| read_zone(&self.folder.join(&spelling))).flatten().or_else(|| {
            let other = self.names().into_iter().find(|known| known.eq_ignore_ascii_case(name))?;
            read_zone(&self.folder.join(other))
        })?;
        TimeZone::tzif(&spelling, &bytes).ok()
    }

    /// The stamps of the files that changed since their zones were read.
    fn changed_files(&self) -> String {
        let zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        let now = zones.iter().map(|(name, (_, read))| (file_stamp(&self.folder.join(name)), read));
        now.filter(|(now, read)| now != *read).map(|(now, _)| format!(" {now}")).collect()
    }
}

impl ZoneDatabase for SystemZones {
    fn release(&self) -> ZoneRelease {
        self.release.clone()
    }

    fn zone(&self, name: &str) -> Option<TimeZone> {
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((zone, _)) = zones.get(name) {
            return Some(zone.clone());
        }
        // Read before the file, so that a change between the two is detected.
        let stamp = file_stamp(&self.folder.join(name));
        let zone = self.read(name)?;
        zones.insert(name.to_owned(), (zone.clone(), stamp));
        Some(zone)
    }

    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        list_names(&self.folder, "", &mut names);
        names
    }
}

/// Whether a text can be the name of a zone, and not of another file.
fn is_name(text: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_uppercase())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
    };
    text.split('/').all(is_part)
}

fn list_names(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else { continue };
        if !is_name(&name) {
            continue;
        }
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_dir() => list_names(&entry.path(), &format!("{name}/"), names),
            Ok(metadata) if metadata.is_file() => names.push(name),
            _ => {}
        }
    }
}

fn read_zone(path: &Path) -> Option<Vec<u8>> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(ZONE_FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    (bytes.starts_with(MAGIC) && has_footer(&bytes)).then_some(bytes)
}

/// Whether a zone file has rules without an end (RFC 8536, 3.3). Without them its clock stops changing, unlike that of
/// the built-in tzdata.
fn has_footer(bytes: &[u8]) -> bool {
    let footer = bytes.strip_suffix(b"\n").and_then(|rest| rest.rsplit(|byte| *byte == b'\n').next());
    footer.is_some_and(|footer| !footer.is_empty() && footer.is_ascii() && !footer.contains(&0))
}

/// The file with the version of a folder's tzdata, and the version.
fn version_file(folder: &Path) -> Option<(PathBuf, String)> {
    VERSION_FILES.iter().find_map(|(name, before)| {
        let path = folder.join(name);
        fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let mut text = Vec::new();
        fs::File::open(&path).ok()?.take(VERSION_BYTES_MAX).read_to_end(&mut text).ok()?;
        let version = String::from_utf8_lossy(&text).lines().next()?.strip_prefix(before)?.to_owned();
        // Some distributions append a word (`2024a-dirty`).
        let year = version.get(..4).filter(|year| year.bytes().all(|byte| byte.is_ascii_digit()))?;
        let letters: String = version[4..].chars().take_while(char::is_ascii_lowercase).collect();
        Some((path, format!("{year}{letters}")))
    })
}

fn file_stamp(path: &Path) -> String {
    fs::metadata(path).map_or_else(
        |_| String::new(),
        |metadata| format!("{}.{}.{}.{}", metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()),
    )
}

/// Detects updates of the system's tzdata.
pub(crate) struct TzdataWatch {
    /// The system's tzdata, when it is in use.
    system: Option<Arc<SystemZones>>,
    stamp: String,
    /// The stamp that the last call found first. An update replaces many files, so it is read when two calls agree.
    changing: Option<String>,
}

impl TzdataWatch {
    /// Chooses the tzdata again, so that every change after this call is detected.
    pub(crate) fn new() -> TzdataWatch {
        let mut watch = TzdataWatch { system: None, stamp: String::new(), changing: None };
        watch.choose();
        watch
    }

    fn choose(&mut self) {
        self.stamp = version_stamp();
        self.system = newer_system();
        match self.system.clone() {
            Some(system) => zones::use_database(system),
            None => zones::use_database(built_in()),
        }
    }

    /// Uses an updated tzdata, when two calls in a row found the same one. Returns whether it did.
    pub(crate) fn take_changed(&mut self) -> bool {
        let changed_files = self.system.as_ref().map_or_else(String::new, |system| system.changed_files());
        let stamp = version_stamp() + &changed_files;
        if stamp == self.stamp {
            self.changing = None;
            return false;
        }
        if self.changing.as_ref() != Some(&stamp) {
            self.changing = Some(stamp);
            return false;
        }
        self.changing = None;
        self.choose();
        true
    }
}

/// Changes with the folder of the system's tzdata and with its version file.
fn version_stamp() -> String {
    let folder = folder();
    let version = folder.as_deref().and_then(version_file);
    format!(
        "{folder:?} {}",
        version.map_or_else(String::new, |(file, version)| format!("{version} {}", file_stamp(&file)))
    )
}

#[cfg(test)]
#[path = "tzdata_tests.rs"]
mod tests;
