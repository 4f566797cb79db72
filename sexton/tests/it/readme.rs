//! Runs every command of README.md in order, like a new user.
//!
//! A fenced block `sh` contains commands, one per line. A block of another kind that begins with `# NAME` is a file of
//! that name; `/var/log/sexton` in it is replaced by the test's folder. `RUN_ID` is replaced by the newest run.
//! `cargo run --release --` is the binary under test; `./test` is skipped. `up` runs until the next `up` or the end.

use std::process::{Command, Stdio};

use crate::driver::{Folder, Up, command};

pub struct Block {
    pub kind: String,
    pub text: String,
}

pub fn blocks(readme: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in readme.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => open = Some(Block { kind: kind.to_owned(), text: String::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The name in the first line of a block that is a file.
pub fn file_name(text: &str) -> Option<&str> {
    text.lines().next()?.strip_prefix("# ").filter(|name| !name.contains(' '))
}

/// The arguments of a `sexton` command, installed or through cargo.
fn sexton_arguments(line: &str) -> Option<Vec<&str>> {
    let rest = line.strip_prefix("cargo run --release -- ").or_else(|| line.strip_prefix("sexton "))?;
    Some(rest.split_whitespace().collect())
}

fn newest_run(up: Option<&Up>) -> String {
    let runs = up.expect("an `up` runs").records(&["runs", "--limit", "1"]);
    runs.first().expect("a run")["run_id"].as_str().expect("its name").to_owned()
}

#[test]
fn every_command_of_the_readme_works() {
    let readme = std::fs::read_to_string(testbed::repository().join("README.md")).expect("README.md");
    let folder = Folder::new();
    let mut up: Option<Up> = None;
    let mut commands = 0;
    for Block { kind, text } in blocks(&readme) {
        if kind == "sh" {
            for line in text.lines().filter(|line| !line.is_empty() && *line != "./test") {
                commands += 1;
                run(line, &folder, &mut up);
            }
        } else if let Some(name) = file_name(&text) {
            folder.write(name, &text.replace("/var/log/sexton", &folder.text("log")));
        }
    }
    assert!(commands >= 5, "README.md has commands");
}

#[track_caller]
fn run(line: &str, folder: &Folder, up: &mut Option<Up>) {
    if let Some(["up", rest @ ..]) = sexton_arguments(line).as_deref() {
        if let Some(earlier) = up.take() {
            assert_eq!(earlier.stop(), Some(0));
        }
        let with_path = |word: &&str| if folder.path(word).exists() { folder.text(word) } else { (*word).to_owned() };
        let rest: Vec<String> = rest.iter().map(with_path).collect();
        *up = Some(Up::start(&folder.path("sexton"), &rest.iter().map(String::as_str).collect::<Vec<_>>()));
        return;
    }
    let line = if line.contains("RUN_ID") { line.replace("RUN_ID", &newest_run(up.as_ref())) } else { line.to_owned() };
    let binary = command(&[]).get_program().to_owned();
    let binaries = std::path::Path::new(&binary).parent().expect("a folder").display().to_string();
    let output = Command::new("sh")
        .args(["-c", &line.replace("cargo run --release --", "sexton")])
        .current_dir(folder.path(""))
        .env("PATH", format!("{binaries}:{}", std::env::var("PATH").unwrap_or_default()))
        .env("XDG_STATE_HOME", folder.path(""))
        .stdin(Stdio::null())
        .output()
        .expect("sh starts");
    // Exit 1 is a negative result, like that of a false success.
    let answered =
        matches!(output.status.code(), Some(0 | 1)) && (output.status.success() || !output.stdout.is_empty());
    assert!(answered, "`{line}`: {output:?}");
}
