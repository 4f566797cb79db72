//! Tries the blocks of README.md and of every page below docs/: files are read by the real binary, commands are run.
//!
//! How to write a page. The info string of a fenced block determines what happens to it:
//!
//! | block | what the test does |
//! |---|---|
//! | `toml`, `crontab` | the first line is `# NAME`, the file name; it is written, and the binary reads it |
//! | `sh` | runs each line, in order, in the folder of the page's files; exit 0, or exit 1 with output |
//! | `console` | for root, AWS or a network: only the subcommand and the flags of its `sexton` lines are checked |
//! | `text`, `json` and others | nothing, except that a first line `# NAME` writes it as a file |
//!
//! NAME chooses the reader: `sexton.toml` and `sinks.toml` (`up` starts with them), `policy.toml` (`up` starts with a
//! runner that has it), `jobs.toml` and `crontab` (`lint` finds no fault, with the packs of the page),
//! `packs/NAME.toml` (`rules test` reads it and its examples pass). Other names are only written. A name may occur
//! again: each block is read on its own and replaces the one before. All files of a page are there from the start, so a
//! block may name a later one.
//!
//! In commands, `RUN_ID` is the newest run and `up` runs until the next `up` or the end of the page. In files and
//! commands, `/etc/sexton`, `/var/lib/sexton` and `/var/log/sexton` are folders of the test. `ca.pem`, `client.pem` and
//! `client.key` are there. Each variable of an `env:NAME` is set to a URL at which no server answers. The public key
//! `MCowBQYDK2VwAyEA...` is replaced by a complete one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::driver::{Folder, Up, command, sexton};
use crate::evidence::page;

/// One test for each page.
macro_rules! pages {
    ($($test:ident $page:literal)*) => {
        const PAGES: &[&str] = &[$($page),*];
        $(#[test]
        fn $test() {
            let (commands, files) = try_page($page);
            assert!(commands + files > 0, "no block of {} is tried", $page);
        })*
    };
}

pages! {
    the_blocks_of_alerts_md_work "docs/alerts.md"
    the_commands_of_backup_md_exist "docs/backup.md"
    the_files_of_configuration_md_are_read "docs/configuration.md"
    the_blocks_of_rules_md_work "docs/rules.md"
    the_blocks_of_sinks_md_work "docs/sinks.md"
    the_commands_of_troubleshooting_md_exist "docs/troubleshooting.md"
}

/// Pages without a test here: `aws.rs` tries the commands for AWS, and the others have no block to try.
const WITHOUT_TEST: [&str; 6] =
    ["docs/README.md", "docs/aws.md", "docs/cli.md", "docs/cost.md", "docs/guarantees.md", "docs/speed.md"];

/// The key of RFC 8410, section 10.1. Pages shorten keys.
const PUBLIC_KEY: &str = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

/// No server listens at the port `discard` (RFC 863) of this machine.
const URL_OF_NO_SERVER: &str = "http://127.0.0.1:9/";

pub(crate) struct Block {
    /// The info string of the fence.
    pub kind: String,
    pub text: String,
    /// 1-based line of the fence.
    pub line: usize,
}

/// The fenced blocks of a page.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in page.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => {
                open = Some(Block { kind: kind.to_owned(), text: String::new(), line: index + 1 });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The name in the first line of a block that is a file.
pub(crate) fn file_name(text: &str) -> Option<&str> {
    text.lines().next()?.strip_prefix("# ").filter(|name| !name.contains(' '))
}

/// Tries every block of a page, in order; returns how many commands it ran and how many files the binary read.
#[track_caller]
pub(crate) fn try_page(page: &str) -> (usize, usize) {
    let text = std::fs::read_to_string(testbed::repository().join(page)).expect(page);
    let mut trial = Trial::new(page, &text);
    let blocks = blocks(&text);
    for block in &blocks {
        trial.write(block);
    }
    for block in &blocks {
        trial.try_block(block);
    }
    (trial.commands, trial.files)
}

struct Trial<'a> {
    page: &'a str,
    folder: Folder,
    /// Names of the variables that the page's references name.
    variables: Vec<String>,
    up: Option<Up>,
    commands: usize,
    files: usize,
}

impl Trial<'_> {
    fn new<'a>(page: &'a str, text: &str) -> Trial<'a> {
        let folder = Folder::new();
        for name in ["etc", "log", "packs"] {
            std::fs::create_dir(folder.path(name)).expect("made");
        }
        if let Some(certificates) = testbed::certificates() {
            for (name, from) in [
                ("ca.pem", &certificates.ca),
                ("client.pem", &certificates.client),
                ("client.key", &certificates.client_key),
            ] {
                std::fs::copy(from, folder.path(name)).expect("copied");
            }
        }
        let named = text.split("\"env:").skip(1).filter_map(|rest| rest.split('"').next());
        Trial { page, folder, variables: named.map(str::to_owned).collect(), up: None, commands: 0, files: 0 }
    }

    fn place(&self, block: &Block) -> String {
        format!("{}:{}", self.page, block.line)
    }

    /// A text of the page, with the folders of an installation replaced by folders of this test.
    fn here(&self, text: &str) -> String {
        text.replace("/etc/sexton", &self.folder.text("etc"))
            .replace("/var/log/sexton", &self.folder.text("log"))
            .replace("/var/lib/sexton", &self.folder.text("state"))
            .replace("MCowBQYDK2VwAyEA...", PUBLIC_KEY)
    }

    fn write(&self, block: &Block) {
        if let Some(name) = file_of(block) {
            self.folder.write(&name.replace("/etc/sexton/", "etc/"), &self.here(&block.text));
        }
    }

    fn try_block(&mut self, block: &Block) {
        let place = self.place(block);
        self.write(block);
        match (block.kind.as_str(), file_of(block)) {
            ("sh", _) => {
                for line in block.text.lines().filter(|line| !line.is_empty() && *line != "./test") {
                    self.commands += 1;
                    self.run(line, &place);
                }
            }
            ("console", _) => {
                for line in block.text.lines().filter(|line| line.starts_with("sexton ")) {
                    self.commands += 1;
                    check_arguments(line, &place);
                }
            }
            (_, Some(name)) => {
                let path = self.folder.path(&name.replace("/etc/sexton/", "etc/"));
                self.files += usize::from(self.read(name, &path, &place));
            }
            ("toml" | "crontab", None) if self.page.starts_with("docs/") => {
                panic!("{place}: a file needs its name as the first line, like `# sinks.toml`")
            }
            _ => {}
        }
    }

    /// Lets the binary read a file by the reader of its name; returns whether there is one.
    fn read(&self, name: &str, path: &Path, place: &str) -> bool {
        let shown = path.display().to_string();
        match name.rsplit('/').next().unwrap_or(name) {
            _ if name.starts_with("packs/") => {
                let tried = sexton(&["rules", "test", "--rules", &shown, "/dev/null"]);
                assert!(matches!(tried.code, Some(0 | 1)) && tried.err.is_empty(), "{place}: {tried:?}");
            }
            "sexton.toml" => self.start_with(&["--config", &shown], place),
            "sinks.toml" => self.start_with(&["--sinks", &shown], place),
            "policy.toml" => {
                let configuration = format!("[runner]\npolicy = \"{shown}\"\n");
                let configuration = self.folder.write("with-policy.toml", &configuration);
                self.start_with(&["--config", &configuration], place);
            }
            "jobs.toml" | "crontab" => {
                let packs = self.folder.text("packs");
                let own = if Path::new(&packs).is_dir() { vec!["--rules", &*packs] } else { Vec::new() };
                let linted = sexton(&[vec!["lint", &*shown], own].concat());
                assert_eq!(linted.code, Some(0), "{place}: {}{}", linted.text(), linted.err);
                // An example is clean, or the page states its warning.
                let page = std::fs::read_to_string(testbed::repository().join(self.page)).expect(self.page);
                let printed = linted.text();
                let warnings = printed.lines().filter_map(|line| line.split_once(": warning: "));
                let surprising: Vec<&str> =
                    warnings.map(|(_, warning)| warning).filter(|warning| !page.contains(warning)).collect();
                assert!(surprising.is_empty(), "{place}: {surprising:#?}");
            }
            _ => return false,
        }
        true
    }

    /// Starts `up` with a file, as a user would, and ends it when it is ready.
    fn start_with(&self, arguments: &[&str], place: &str) {
        let state = tempfile::tempdir().expect("temporary directory");
        let mut started = command(&["up"]);
        started.args(arguments).current_dir(self.folder.path("")).envs(self.environment());
        let up = Up::serve(state.path(), started);
        let metrics = page(state.path(), "/metrics");
        let is_faulty = |line: &&str| line.starts_with("sexton_source_in_sync{") && line.ends_with(" 0");
        assert_eq!(metrics.lines().find(is_faulty), None, "{place}: {}", up.printed());
        assert_eq!(up.stop(), Some(0), "{place}");
    }

    fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|name| (name.as_str(), URL_OF_NO_SERVER))
    }

    #[track_caller]
    fn run(&mut self, line: &str, place: &str) {
        if let Some(["up", rest @ ..]) = sexton_arguments(line).as_deref() {
            return self.start_up(rest);
        }
        let mut line = self.here(line).replace("cargo run --release --", "sexton");
        if line.contains("RUN_ID") {
            line = line.replace("RUN_ID", &newest_run(self.up.as_ref()));
        }
        let ran = self.shell(&line);
        // 1: it ran and the answer is bad, as when a run is shown that failed.
        let answered = matches!(ran.status.code(), Some(0 | 1)) && (ran.status.success() || !ran.stdout.is_empty());
        assert!(answered, "{place}: `{line}`: {ran:?}");
    }

    fn shell(&self, line: &str) -> std::process::Output {
        let template = command(&[]);
        let binaries = PathBuf::from(template.get_program()).parent().expect("a folder").display().to_string();
        let mut shell = Command::new("sh");
        for (name, _) in template.get_envs() {
            shell.env_remove(name);
        }
        shell
            .args(["-c", line])
            .current_dir(self.folder.path(""))
            .env("PATH", format!("{binaries}:{}", std::env::var("PATH").unwrap_or_default()))
            .env("XDG_STATE_HOME", self.folder.path(""))
            .envs(self.environment())
            .stdin(Stdio::null())
            .output()
            .expect("sh starts")
    }

    fn start_up(&mut self, arguments: &[&str]) {
        if let Some(earlier) = self.up.take() {
            assert_eq!(earlier.stop(), Some(0));
        }
        let mut started = command(&["up"]);
        started.args(arguments.iter().map(|word| self.here(word)));
        started.current_dir(self.folder.path("")).envs(self.environment());
        self.up = Some(Up::serve(&self.folder.path("sexton"), started));
    }
}

/// The name of the file that a block is; commands are none.
fn file_of(block: &Block) -> Option<&str> {
    if matches!(block.kind.as_str(), "sh" | "console") { None } else { file_name(&block.text) }
}

/// The words after `sexton`, or after what a user without an installed binary writes.
fn sexton_arguments(line: &str) -> Option<Vec<&str>> {
    let rest = line.strip_prefix("cargo run --release -- ").or_else(|| line.strip_prefix("sexton "))?;
    Some(rest.split_whitespace().collect())
}

/// Whether there is such a subcommand with such flags: `--help` is answered only when all words before it are known.
#[track_caller]
fn check_arguments(line: &str, place: &str) {
    let words: Vec<&str> = line.split_whitespace().skip(1).take_while(|word| *word != "--").collect();
    let helped = sexton(&[&words[..], &["--help"]].concat());
    assert_eq!(helped.code, Some(0), "{place}: `{line}`: {}", helped.err);
}

fn newest_run(up: Option<&Up>) -> String {
    let runs = up.expect("an `up` runs").records(&["runs", "--limit", "1"]);
    runs.first().expect("a run")["run_id"].as_str().expect("its name").to_owned()
}

#[test]
fn every_page_is_tried() {
    let folder = testbed::repository().join("docs");
    let names = std::fs::read_dir(folder).expect("docs").map(|entry| entry.expect("read").file_name());
    let mut pages: Vec<String> = names.map(|name| format!("docs/{}", name.to_string_lossy())).collect();
    pages.retain(|page| !PAGES.contains(&page.as_str()) && !WITHOUT_TEST.contains(&page.as_str()));
    assert!(pages.is_empty(), "no test tries {pages:?}; add a line to `pages!` in docs.rs");
}

#[test]
fn an_unknown_key_in_any_file_of_a_page_is_found() {
    for (name, text) in [
        ("sexton.toml", "stte = \"x\"\n"),
        ("sinks.toml", "[sink.a]\ntype = \"stdout\"\nformt = \"json\"\n"),
        ("policy.toml", "grups = []\n"),
        ("jobs.toml", "[[job]]\nname = \"a\"\nschedule = \"@daily\"\ncommand = \"true\"\nnme = \"b\"\n"),
        ("crontab", "# sexton: nme=b\n@daily true\n"),
        ("packs/a.toml", "name = \"a\"\ndescripton = \"b\"\n[[rule]]\nid = \"a.b\"\npattern = \"c\"\n"),
    ] {
        let read = std::panic::catch_unwind(|| {
            let block = Block { kind: "toml".to_owned(), text: format!("# {name}\n{text}"), line: 1 };
            Trial::new("docs/page.md", "").try_block(&block);
        });
        assert!(read.is_err(), "{name} was accepted");
    }
}
