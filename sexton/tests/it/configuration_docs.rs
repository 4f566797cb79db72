//! docs/configuration.md names exactly the keys that the program knows. Each table of each file gets an unknown key;
//! the fault lists the known ones, and these are compared with the rows of the table's section.

use std::collections::{BTreeMap, BTreeSet};

use crate::docs::{blocks, file_name};
use crate::driver::{Folder, sexton};

const PAGE: &str = "docs/configuration.md";

/// So unlike every key that no fault proposes a near one instead of listing all.
const UNKNOWN: &str = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz";

/// A table of a file: the sections that document its keys, the file, and its text up to the unknown key.
type Probe = (&'static [&'static str], &'static str, &'static str);

const PROBES: [Probe; 31] = [
    (&["`sexton.toml`"], "sexton.toml", ""),
    (&["`[runner]`"], "sexton.toml", "[runner]\n"),
    (&["`[history]`"], "sexton.toml", "[history]\n"),
    (&["`[mail]`"], "sexton.toml", "[mail]\n"),
    (&["`[aws]`"], "sexton.toml", "[aws]\n"),
    (
        &["`[channel.NAME]`", "`[channel.NAME]` with `type = \"webhook\"`"],
        "sexton.toml",
        "[channel.a]\ntype = \"webhook\"\n",
    ),
    (
        &["`[channel.NAME]`", "`[channel.NAME]` with `type = \"slack\"`"],
        "sexton.toml",
        "[channel.a]\ntype = \"slack\"\n",
    ),
    (&["`[channel.NAME]`", "`[channel.NAME]` with `type = \"smtp\"`"], "sexton.toml", "[channel.a]\ntype = \"smtp\"\n"),
    (
        &["`[channel.NAME]`", "`[channel.NAME]` with `type = \"command\"`"],
        "sexton.toml",
        "[channel.a]\ntype = \"command\"\n",
    ),
    (&["`sinks.toml`"], "sinks.toml", ""),
    (&["`[sink.NAME]`", "`[sink.NAME]` with `type = \"file\"`"], "sinks.toml", "[sink.a]\ntype = \"file\"\n"),
    (&["`[sink.NAME]`", "`[sink.NAME]` with `type = \"stdout\"`"], "sinks.toml", "[sink.a]\ntype = \"stdout\"\n"),
    (&["`[sink.NAME]`", "`[sink.NAME]` with `type = \"syslog\"`"], "sinks.toml", "[sink.a]\ntype = \"syslog\"\n"),
    (&["`[sink.NAME]`", "`[sink.NAME]` with `type = \"gelf\"`"], "sinks.toml", "[sink.a]\ntype = \"gelf\"\n"),
    (
        &["`[sink.NAME]`", "`[sink.NAME]` with `type = \"cloudwatch_logs\"`"],
        "sinks.toml",
        "[sink.a]\ntype = \"cloudwatch_logs\"\n",
    ),
    (&["`when`"], "sinks.toml", "[sink.a]\ntype = \"stdout\"\n[sink.a.when]\n"),
    (&["`batch`"], "sinks.toml", "[sink.a]\ntype = \"stdout\"\n[sink.a.batch]\n"),
    (&["`retry`"], "sinks.toml", "[sink.a]\ntype = \"stdout\"\n[sink.a.retry]\n"),
    (&["`tls`"], "sinks.toml", "[sink.a]\ntype = \"syslog\"\n[sink.a.tls]\n"),
    (&["`tls`"], "sinks.toml", "[sink.a]\ntype = \"cloudwatch_logs\"\n[sink.a.tls]\n"),
    (&["`jobs.toml`"], "jobs.toml", ""),
    (&["`[[job]]`"], "jobs.toml", "[[job]]\n"),
    (&["`retries`"], "jobs.toml", "[[job]]\n[job.retries]\n"),
    (&["`needs`"], "jobs.toml", "[[job]]\n[job.needs]\n"),
    (&["`alert`"], "jobs.toml", "[[job]]\n[job.alert]\n"),
    (&["`[[job]]`"], "crontab", "# sexton: "),
    (&["`[[job]]`"], "crontab", "# sexton-defaults: "),
    (&["`policy.toml`"], "policy.toml", ""),
    (&["`[commands]`"], "policy.toml", "[commands]\n"),
    (&["`packs/NAME.toml`"], "pack.toml", ""),
    (&["`[[rule]]`"], "pack.toml", "[[rule]]\n"),
];

/// What the entry of a crontab has itself.
const NOT_IN_DIRECTIVES: [&str; 3] = ["schedule", "command", "argv"];

/// The keys that the binary knows in a table.
fn known((_, file, begin): Probe, folder: &Folder) -> BTreeSet<String> {
    let text = match file {
        "crontab" => format!("{begin}{UNKNOWN}=1\n@daily true\n"),
        _ => format!("{begin}{UNKNOWN} = 1\n"),
    };
    let path = folder.write(file, &text);
    let state = folder.text("state");
    let configuration = folder.write("with-policy.toml", "[runner]\npolicy = \"policy.toml\"\n");
    let found = match file {
        "sexton.toml" => sexton(&["check", "--state", &state, "--config", &path]),
        "sinks.toml" => sexton(&["check", "--state", &state, "--sinks", &path]),
        "policy.toml" => sexton(&["check", "--state", &state, "--config", &configuration]),
        "pack.toml" => sexton(&["rules", "list", "--rules", &path]),
        _ => sexton(&["lint", &path]),
    };
    assert_eq!(found.code, Some(2), "{text}: {found:?}");
    let printed = format!("{}{}", found.text(), found.err);
    let list = printed.lines().find_map(|line| line.split_once(&format!("`{UNKNOWN}`: unknown key; known here are ")));
    let (_, keys) = list.unwrap_or_else(|| panic!("no list of keys for {text}: {printed}"));
    keys.split(", ").map(str::to_owned).collect()
}

/// The keys of each section that has a table of keys.
fn documented(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut sections: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut section, mut in_keys) = (String::new(), false);
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("### ").or_else(|| line.strip_prefix("## ")) {
            section = heading.to_owned();
        }
        in_keys = line.starts_with("| key |") || (in_keys && line.starts_with('|'));
        if let Some((key, _)) = line.strip_prefix("| `").and_then(|row| row.split_once('`')).filter(|_| in_keys) {
            let new = sections.entry(section.clone()).or_default().insert(key.to_owned());
            assert!(new, "{section} names `{key}` twice");
        }
    }
    sections
}

/// What one side has and the other has not.
fn differences(place: &str, documented: &BTreeSet<String>, known: &BTreeSet<String>) -> Vec<String> {
    let missing = known.difference(documented).map(|key| format!("{place}: `{key}` is known and not documented"));
    let surplus = documented.difference(known).map(|key| format!("{place}: `{key}` is documented and not known"));
    missing.chain(surplus).collect()
}

/// Whether a file sets a key, or has a table of this name.
fn has_key(text: &str, key: &str) -> bool {
    let begins = |at: usize| !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let set = text.match_indices(&format!("{key} = ")).any(|(at, _)| begins(at));
    set || [format!("[{key}]"), format!("[{key}.")].iter().any(|table| text.contains(table))
}

fn page() -> String {
    std::fs::read_to_string(testbed::repository().join(PAGE)).expect(PAGE)
}

#[test]
fn every_known_key_is_documented_and_every_documented_key_is_known() {
    let (folder, sections) = (Folder::new(), documented(&page()));
    let mut faults = Vec::new();
    for probe in PROBES {
        let (headings, file, _) = probe;
        let mut keys: BTreeSet<String> = BTreeSet::new();
        for heading in headings {
            let of_section = sections.get(*heading).unwrap_or_else(|| panic!("no keys below {heading} in {PAGE}"));
            keys.extend(of_section.iter().cloned());
        }
        if file == "crontab" {
            keys.retain(|key| !NOT_IN_DIRECTIVES.contains(&key.as_str()));
        }
        faults.extend(differences(&format!("{file}, {}", headings.join(" and ")), &keys, &known(probe, &folder)));
    }
    let probed: BTreeSet<&str> = PROBES.iter().flat_map(|(headings, _, _)| *headings).copied().collect();
    let unprobed = sections.keys().filter(|section| !probed.contains(section.as_str()));
    faults.extend(unprobed.map(|section| format!("{section} has keys that no probe compares")));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_comparison_finds_a_key_on_either_side() {
    let set = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        differences("a", &set(&["both", "old"]), &set(&["both", "new"])),
        ["a: `new` is known and not documented", "a: `old` is documented and not known"]
    );
}

#[test]
fn the_examples_use_every_documented_key() {
    let page = page();
    let mut examples: BTreeMap<String, String> = BTreeMap::new();
    for block in blocks(&page) {
        let name = file_name(&block.text).map(|name| if name.starts_with("packs/") { "pack.toml" } else { name });
        examples.entry(name.unwrap_or_default().to_owned()).or_default().push_str(&block.text);
    }
    let sections = documented(&page);
    let mut faults = Vec::new();
    for (headings, file, _) in PROBES.iter().filter(|(_, file, _)| *file != "crontab") {
        let example = &examples[*file];
        for key in headings.iter().flat_map(|heading| &sections[*heading]) {
            if !has_key(example, key) {
                faults.push(format!("no example of {file} has `{key}` ({})", headings.join(" and ")));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
