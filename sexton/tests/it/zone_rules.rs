//! Firings at given instants by the zone of the host and by the tzdata in use.

use crate::driver::Folder;
use crate::zones::{NINE_THIRTY, run_with};

/// A zone file with one offset, in hours east of Greenwich: version 2 of RFC 8536.
fn zone_file(hours: i32) -> Vec<u8> {
    let block = |version: u8| {
        let mut block = b"TZif".to_vec();
        block.push(version);
        block.extend([0; 15]);
        for count in [0_u32, 0, 0, 0, 1, 4] {
            block.extend(count.to_be_bytes());
        }
        block.extend((hours * 3600).to_be_bytes());
        block.extend(b"\0\0NEW\0");
        block
    };
    [block(b'2'), block(b'2'), format!("\nNEW{}\n", -hours).into_bytes()].concat()
}

/// The system's tzdata in a folder: `TZDIR` names it.
pub(crate) fn write_tzdata(folder: &Folder, version: &str, hours: i32) {
    let zoneinfo = folder.path("zoneinfo");
    std::fs::create_dir_all(zoneinfo.join("Europe")).expect("created");
    std::fs::write(zoneinfo.join("Europe/Paris"), zone_file(hours)).expect("written");
    std::fs::write(zoneinfo.join("tzdata.zi"), format!("# version {version}\n")).expect("written");
}

#[test]
fn the_newer_tzdata_of_system_and_binary_is_used_and_named() {
    let folder = Folder::new();
    let tzdir = folder.text("zoneinfo");
    let variables = [("TZDIR", tzdir.as_str())];
    let next = |zone: &str| {
        let all = ["next", "30 9 * * *", "--from", "2026-01-01T00:00:00Z", "--count", "1", "--zone", zone, "--json"];
        run_with(&variables, &all).expect(0).records()[0]["at"].clone()
    };
    let version = || run_with(&variables, &["--version"]).expect(0).text();
    let check = || run_with(&variables, &["check", "--state", &folder.text("state")]).text();
    for (system, used) in [("2000a", false), ("unknown", false), ("2999a", true)] {
        write_tzdata(&folder, system, 5);
        assert_eq!(
            next("Europe/Paris"),
            if used { "2026-01-01T04:30:00Z" } else { "2026-01-01T08:30:00Z" },
            "{system}"
        );
        // A zone that the system's tzdata lacks comes from the binary.
        assert_eq!(next("Asia/Tokyo"), "2026-01-01T00:30:00Z", "{system}");
        assert_eq!(version().contains(&format!("tzdata {system} ({tzdir})")), used, "{}", version());
        assert_eq!(version().contains("(built-in)"), !used, "{}", version());
        assert!(check().contains("ok   tzdata ") && check().contains(&tzdir), "{}", check());
    }
}

#[test]
fn next_plan_and_lint_use_the_zone_of_the_host() {
    let folder = Folder::new();
    let tab = folder.write("crontab", NINE_THIRTY);
    let tokyo = [("TZ", "Asia/Tokyo")];
    let next = ["next", "30 9 * * *", "--from", "2026-01-01T00:00:00Z", "--count", "1"];
    let expected = "2026-01-01T00:30:00Z\t2026-01-01T09:30:00+09:00\t\n";
    assert_eq!(run_with(&tokyo, &next).expect(0).text(), expected);
    assert_eq!(run_with(&[], &[&next[..], &["--zone", "Asia/Tokyo"]].concat()).expect(0).text(), expected);
    let plan = ["plan", &tab, "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z"];
    let planned = run_with(&tokyo, &plan).expect(0).text();
    assert_eq!(planned, "2026-01-01T00:30:00Z\t2026-01-01T09:30:00+09:00\tdefault/report\t\n");
    let linted = run_with(&tokyo, &["lint", &tab]).expect(0).text();
    assert!(linted.lines().any(|line| line == "zone Asia/Tokyo, from this host"), "{linted}");
}
