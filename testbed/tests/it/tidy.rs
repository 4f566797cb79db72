//! The rules that the repository keeps. Each rule is a function from a text to faults, with a test in which it finds
//! one. Reads files; never starts or changes anything.

use std::fs;
use std::path::{Path, PathBuf};

use testbed::repository;

mod content;
mod dates;
mod dependencies;
mod paths;
mod shape;

/// A file by its path from the root of the repository.
pub(crate) struct Source {
    pub path: String,
    pub text: String,
}

/// The folders of the workspace's crates.
pub(crate) fn members() -> Vec<String> {
    let table: toml::Table = read("Cargo.toml").parse().expect("Cargo.toml is TOML");
    let members = table["workspace"]["members"].as_array().expect("the members are a list");
    members.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

/// Every Rust file of the members.
pub(crate) fn sources() -> Vec<Source> {
    let folders = members().iter().map(|member| repository().join(member)).collect();
    let sources = files_in(folders, |path| path.extension().is_some_and(|extension| extension == "rs"));
    assert!(sources.len() >= 30, "the sources were not found");
    sources
}

/// Every other text for readers: documents, templates, and files with comments.
pub(crate) fn documents() -> Vec<Source> {
    const SUFFIXES: [&str; 7] = [".md", ".toml", ".yaml", ".yml", ".service", ".crontab", ".py"];
    const SCRIPTS: [&str; 3] = ["bench", "test", "install"];
    let is_text = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_script = SCRIPTS.contains(&&*name) || path.ends_with(".ci/run");
        is_script || SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
    };
    let documents = files_in(vec![repository().to_owned()], is_text);
    assert!(documents.iter().any(|document| document.path == "README.md"), "the documents were not found");
    documents
}

/// Folders whose files are made by a tool, or are data.
const PASSED_OVER: [&str; 9] =
    [".git", ".testbed", "target", "node_modules", "corpus", "packs", "golden", "first_release", "data"];

fn files_in(mut folders: Vec<PathBuf>, wanted: impl Fn(&Path) -> bool) -> Vec<Source> {
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder can be listed") {
            let entry = entry.expect("an entry");
            let (path, kind) = (entry.path(), entry.file_type().expect("the type of an entry"));
            if kind.is_dir() && !PASSED_OVER.contains(&&*entry.file_name().to_string_lossy()) {
                folders.push(path);
            } else if kind.is_file() && wanted(&path) {
                files.push(Source { path: relative(&path), text: fs::read_to_string(&path).unwrap_or_default() });
            }
        }
    }
    files
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[track_caller]
pub(crate) fn none(faults: impl Iterator<Item = String>) {
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn relative(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap_or(path).display().to_string()
}
