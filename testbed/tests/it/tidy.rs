//! The rules that the repository keeps. Each rule is a function from a text to faults, with a test that shows it finding
//! one. Reads files; never starts or changes anything.

use std::fs;
use std::path::{Path, PathBuf};

use testbed::repository;

mod content;
mod dependencies;
mod paths;
mod shape;

/// A file by its path from the root of the repository.
pub struct Source {
    pub path: String,
    pub text: String,
}

/// The folders of the workspace's crates.
pub fn members() -> Vec<String> {
    let table: toml::Table = read("Cargo.toml").parse().expect("Cargo.toml is TOML");
    let members = table["workspace"]["members"].as_array().expect("the members are a list");
    members.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

/// Every Rust file of the members.
pub fn sources() -> Vec<Source> {
    let mut folders: Vec<PathBuf> = members().iter().map(|member| repository().join(member)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).expect("a folder can be listed").map(|entry| entry.expect("an entry").path())
        {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(Source { path: relative(&path), text: fs::read_to_string(&path).unwrap_or_default() });
            }
        }
    }
    assert!(sources.len() >= 30, "the sources were not found");
    sources
}

pub fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[track_caller]
pub fn none(faults: impl Iterator<Item = String>) {
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn relative(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap_or(path).display().to_string()
}
