//! Crates depend on each other one way only, and each large dependency has one place.

use super::{members, none, read};

/// Which crates of the workspace each of them may use, outside tests. `sexton` combines them.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("rules", &["domain"]),
    ("sinks", &["domain"]),
    ("keeper", &["domain"]),
    ("runner", &["domain", "keeper", "rules", "sinks"]),
    ("services", &["domain", "rules"]),
    ("backends/embedded", &["domain"]),
    ("backends/aws", &["domain"]),
    ("backends/contract", &["domain", "rules", "services"]),
    ("console", &["domain", "rules", "services"]),
    ("lambdas", &["domain", "rules", "services", "aws", "console"]),
    ("channels", &["domain"]),
    ("sexton", &["domain", "rules", "sinks", "keeper", "runner", "services", "embedded", "aws", "channels", "console"]),
    ("testbed", &[]),
    ("benchmarks", &["testbed", "domain", "rules", "services", "aws"]),
];

/// Which folders may name a dependency, in any section of their Cargo.toml. A name ending in `*` is a prefix.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("lettre", &["channels"]),
    ("rusqlite", &["backends/embedded"]),
    ("aws-config", &["backends/aws", "lambdas", "sinks"]),
    ("aws-credential-types", &["backends/aws", "lambdas", "sinks"]),
    ("aws-sigv4", &["backends/aws", "sinks"]),
    ("aws-types", &["backends/aws", "lambdas", "sinks"]),
    ("aws-sdk-*", &["backends/aws", "lambdas", "sinks"]),
    ("aws-smithy-*", &["backends/aws", "lambdas", "sinks"]),
];

/// Pairs of crates that never use each other, not even in tests.
const NEVER: [(&str, &str); 2] = [("runner", "services"), ("services", "runner")];

/// Crates whose time and input are arguments, so they use no runtime.
pub(crate) const PURE: [&str; 3] = ["domain", "rules", "services"];
const RUNTIMES: [&str; 4] = ["tokio", "rustix", "reqwest", "axum"];

/// The keeper is one small blocking process per run, without a network.
const NEVER_IN_KEEPER: [&str; 3] = ["tokio", "tracing", "reqwest"];

/// A Cargo.toml: the names in each section of dependencies.
struct Manifest {
    folder: String,
    uses: Vec<String>,
    uses_in_tests: Vec<String>,
}

#[test]
fn crates_depend_on_each_other_one_way_only() {
    let manifests: Vec<Manifest> =
        members().iter().map(|folder| manifest(folder, &read(&format!("{folder}/Cargo.toml")))).collect();
    assert!(manifests.len() >= 9, "the members of the workspace were not found");
    none(manifests.iter().flat_map(dependency_faults));
}

#[test]
fn the_rule_of_dependencies_finds_faults() {
    let faults = |folder: &str, text: &str| dependency_faults(&manifest(folder, text));
    assert_eq!(faults("services", "[dependencies]\nrules.workspace = true").len(), 0);
    assert_eq!(faults("services", "[dependencies]\nrunner.workspace = true").len(), 1);
    assert_eq!(faults("services", "[dev-dependencies]\nrunner = { path = \"../runner\" }").len(), 1);
    assert_eq!(faults("services", "[dev-dependencies]\nembedded.workspace = true\ntokio.workspace = true").len(), 0);
    assert_eq!(faults("services", "[dependencies]\ntokio = \"1\"").len(), 1);
    assert_eq!(faults("runner", "[dependencies.services]\nworkspace = true").len(), 1);
    assert_eq!(faults("runner", "[target.'cfg(unix)'.dependencies]\nservices.workspace = true").len(), 1);
    assert_eq!(faults("sexton", "[dependencies]\nrusqlite.workspace = true").len(), 1);
    assert_eq!(faults("sexton", "[dependencies]\naws-config = \"1\"").len(), 1);
    assert_eq!(faults("sexton", "[dependencies]\nlettre = \"1\"").len(), 1);
    assert_eq!(faults("backends/embedded", "[dependencies]\nrusqlite.workspace = true").len(), 0);
    assert_eq!(faults("keeper", "[dependencies]\ntokio = \"1\"\nsinks.workspace = true").len(), 2);
    assert_eq!(faults("cellar", "").len(), 1);
}

fn dependency_faults(manifest: &Manifest) -> Vec<String> {
    let folder = &manifest.folder;
    let mut faults = Vec::new();
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| name == folder) else {
        return vec![format!("{folder} is not in MAY_USE: add what it may depend on")];
    };
    let ours: Vec<&str> = MAY_USE.iter().map(|(name, _)| name.rsplit('/').next().unwrap_or(name)).collect();
    for name in &manifest.uses {
        if ours.contains(&name.as_str()) && !allowed.contains(&name.as_str()) {
            faults.push(format!("{folder}/Cargo.toml: {folder} may not depend on {name}"));
        }
        if PURE.contains(&folder.as_str()) && RUNTIMES.contains(&name.as_str()) {
            faults.push(format!("{folder}/Cargo.toml: {folder} is pure and may not depend on {name}"));
        }
        if folder == "keeper" && NEVER_IN_KEEPER.contains(&name.as_str()) {
            faults
                .push(format!("{folder}/Cargo.toml: a keeper blocks and uses no network; it may not depend on {name}"));
        }
    }
    for name in &manifest.uses_in_tests {
        if NEVER.contains(&(folder, name)) {
            faults.push(format!("{folder}/Cargo.toml: {folder} never uses {name}, not even in tests"));
        }
    }
    for name in manifest.uses.iter().chain(&manifest.uses_in_tests) {
        for (pattern, folders) in ONLY_IN {
            let matches = pattern.strip_suffix('*').map_or(name == pattern, |prefix| name.starts_with(prefix));
            if matches && !folders.contains(&folder.as_str()) {
                faults.push(format!("{folder}/Cargo.toml: {name} may appear only in {}", folders.join(", ")));
            }
        }
    }
    faults
}

fn manifest(folder: &str, text: &str) -> Manifest {
    let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{folder}/Cargo.toml: {error}"));
    let mut uses = Vec::new();
    let mut uses_in_tests = Vec::new();
    let targets = table.get("target").and_then(toml::Value::as_table);
    let sections = targets.into_iter().flat_map(|targets| targets.values()).filter_map(toml::Value::as_table);
    for section in sections.chain([&table]) {
        uses.extend(names(section, "dependencies"));
        uses.extend(names(section, "build-dependencies"));
        uses_in_tests.extend(names(section, "dev-dependencies"));
    }
    Manifest { folder: folder.to_owned(), uses, uses_in_tests }
}

fn names(section: &toml::Table, key: &str) -> Vec<String> {
    section.get(key).and_then(toml::Value::as_table).map(|table| table.keys().cloned().collect()).unwrap_or_default()
}
