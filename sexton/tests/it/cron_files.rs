//! The files for cron of real Debian packages, and entries of packages that were removed.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::driver::{Folder, Up, sexton};

/// Packages whose files are read. Chosen: the number that the set-up promises.
const PACKAGES_MIN: usize = 25;

/// The files of one package that cron reads: all of them have a user column.
fn files_of(package: &Path) -> Vec<PathBuf> {
    let folder = package.join("etc/cron.d");
    let listed = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
    listed.filter(named).chain([package.join("etc/crontab")].into_iter().filter(|path| path.exists())).collect()
}

fn text<'v>(record: &'v Value, name: &str) -> &'v str {
    record[name].as_str().unwrap_or_default()
}

#[test]
fn the_crontabs_of_debian_packages_have_no_fault_and_recognisable_names() {
    let Some(root) = testbed::debian_cron_files() else { return };
    let packages: Vec<PathBuf> =
        std::fs::read_dir(root).expect("a folder").flatten().map(|entry| entry.path()).collect();
    // Every monthly job fires in it.
    let now = jiff::Timestamp::now();
    let window = (now.to_string(), (now + jiff::SignedDuration::from_hours(32 * 24)).to_string());
    let (mut read, mut warned, mut names) = (0, 0, Vec::new());
    for package in &packages {
        let files = files_of(package);
        read += usize::from(!files.is_empty());
        for file in files {
            let file = file.display().to_string();
            let found = sexton(&["lint", "--system", "--json", &file]).expect(0).records();
            for warning in &found {
                assert_eq!(text(warning, "level"), "warning", "{file}: {warning}");
            }
            // The packages that make these users are not installed.
            let is_surprising = |warning: &&Value| !text(warning, "message").contains("this host has no user");
            warned += found.iter().filter(is_surprising).count();
            let window = ["--from", &window.0, "--to", &window.1];
            let plan = sexton(&[&["plan", "--system", "--json", &file][..], &window].concat()).expect(0).records();
            names.extend(plan.iter().map(|firing| text(firing, "job").to_owned()));
        }
    }
    assert!(read >= PACKAGES_MIN, "{read} of {} packages have a file", packages.len());
    names.sort();
    names.dedup();
    // Real crontabs do what they were written for: warnings are the exception.
    assert!(warned * 5 <= names.len(), "{warned} warnings for {} jobs", names.len());
    for program in
        ["certbot", "dma", "checkarray", "sessionclean", "debian-sa1", "munin-cron", "logcheck", "cron.daily"]
    {
        assert!(names.iter().any(|name| name.contains(program)), "{program}: {names:?}");
    }
    for shell_word in ["if", "test", "command", "cd", "nice", "perl"] {
        let named = |name: &String| name.split_once('-').is_some_and(|(first, _)| first == shell_word);
        assert!(!names.iter().any(named), "{shell_word}: {names:?}");
    }
}

#[test]
fn an_entry_whose_package_was_removed_succeeds_and_another_false_guard_fails() {
    let folder = Folder::new();
    let crontab = folder.write(
        "crontab",
        "# sexton: name=removed\n@manually [ -x /usr/sbin/no-such-dma ] && /usr/sbin/no-such-dma -q\n\
         # sexton: name=searched\n@manually command -v no-such-sa1 > /dev/null && no-such-sa1 1 1\n\
         # sexton: name=unmounted\n@manually [ -d /no/such/backup ] && date\n\
         # sexton: name=failing\n@manually [ -d / ] && sh -c 'exit 1'\n",
    );
    let up = Up::start(&folder.path("state"), &["--crontab", &crontab]);
    for (job, code, outcome, reason) in [
        ("removed", 0, "succeeded", "before && was false, because /usr/sbin/no-such-dma is not installed"),
        ("searched", 0, "succeeded", "the guard `command -v no-such-sa1` before && was false"),
        ("unmounted", 1, "failed", "exit code 1: the guard `[ -d /no/such/backup ]` before && was false"),
        ("failing", 1, "failed", "exit code 1"),
    ] {
        let output = up.run(&["run", &format!("default/{job}"), "--wait", "--json"]);
        let run = output.expect(code).records().remove(0);
        assert_eq!(text(&run, "outcome"), outcome, "{run}");
        assert!(text(&run, "reason").contains(reason), "{run}");
        assert_eq!(text(&run, "reason").contains("guard"), job != "failing", "{run}");
    }
}
