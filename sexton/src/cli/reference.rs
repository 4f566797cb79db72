//! Generates docs/cli.md from the definitions of the subcommands. `UPDATE_DOCS=1` writes the page; otherwise a test
//! fails when the page differs.

use clap::{Arg, ArgAction, Command, CommandFactory};

use super::Cli;

const PAGE: &str = "docs/cli.md";

/// Prose of the page is at most this wide, as all prose of the repository is.
const COLUMNS_MAX: usize = 120;

/// Ids of the options by which a command finds its installation. The page describes them once.
const INSTALLATION: [&str; 4] = ["aws", "server", "config", "state"];

const HEAD: &str = "\
# Commands

This page is generated from the definitions of the commands: `UPDATE_DOCS=1 cargo test -p sexton cli::reference` writes
it. `sexton COMMAND --help` prints the same.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | the command ran and the result is negative: a run did not succeed (`run --wait`), the ledger does not add up, \
`rules test` finds a false success, `check` finds a fault, a server is not reachable |
| 2 | the arguments or a file are wrong; each fault is one line on standard error |
| 130 | `up` and `runner`: a second signal ended the process before the stop was complete |

`exec` exits with the code of its command: 128 plus the number of the signal when a signal ended it (^C is 130), 127
when it was not found, 126 when it could not be executed. The exception is 1: it exited 0, and a rule failed it or its
output could not be written. Code 2 is only for a command line that cannot be read.

`lint` exits 2 when the file has a fault, 0 when it has only warnings.

With `--json`, a command prints one JSON object for each record. Instants are RFC 3339, such as `2026-11-23T07:50:00Z`.
Durations are written like `90s`, `10m`, `6h` or `2d`.
";

const INSTALLATION_HEAD: &str = "
## Installation

Most commands query an installation. `--aws` selects one on AWS, and so does `[aws]` of the configuration when neither
`--server` nor `--state` is given. `--server` selects a server. Otherwise the command finds the `sexton up` that uses
the state directory of this machine.
";

fn page() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut page = format!("{HEAD}\n## `sexton`\n\n{}", wrapped(&sentence(&cli)));
    page.push_str("\n```text\nsexton [OPTIONS] COMMAND\n```\n");
    page.push_str(&table(cli.get_arguments()));
    page.push_str("\n| command | effect |\n|---|---|\n");
    for command in subcommands(&cli) {
        let name = command.get_name();
        page.push_str(&format!("| [`{name}`](#sexton-{name}) | {} |\n", sentence(command)));
    }
    page.push_str(&installation(&cli));
    for command in subcommands(&cli) {
        push_command(&mut page, command, &format!("sexton {}", command.get_name()));
    }
    page
}

/// The options that most commands share, as `jobs` has them.
fn installation(cli: &Command) -> String {
    let jobs = cli.find_subcommand("jobs").expect("a command that queries a server");
    let options = jobs.get_arguments().filter(|argument| INSTALLATION.contains(&argument.get_id().as_str()));
    format!("{INSTALLATION_HEAD}{}", table(options))
}

fn push_command(page: &mut String, command: &Command, name: &str) {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    page.push_str(&format!("\n## `{name}`\n\n{}\n```text\n{usage}\n```\n", wrapped(&sentence(command))));
    let finds_installation = command.get_arguments().any(|argument| argument.get_id() == "server");
    let is_shared = |argument: &Arg| finds_installation && INSTALLATION.contains(&argument.get_id().as_str());
    // Global options are described at `sexton`.
    page.push_str(&table(command.get_arguments().filter(|argument| !argument.is_global_set() && !is_shared(argument))));
    if finds_installation {
        page.push_str("\nTakes the [options of the installation](#installation).\n");
    }
    for inner in subcommands(command) {
        push_command(page, inner, &format!("{name} {}", inner.get_name()));
    }
}

fn subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|inner| inner.get_name() != "help")
}

fn is_shown(argument: &Arg) -> bool {
    !argument.is_hide_set()
        && !matches!(
            argument.get_action(),
            ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
        )
}

fn table<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let rows: String = arguments.filter(|argument| is_shown(argument)).map(row).collect();
    if rows.is_empty() { rows } else { format!("\n| argument | meaning |\n|---|---|\n{rows}") }
}

fn row(argument: &Arg) -> String {
    let values: Vec<&str> = argument.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    let takes_value = argument.get_action().takes_values();
    let values = if takes_value { values.join(" ") } else { String::new() };
    let shown = match argument.get_long() {
        None => values,
        Some(long) if values.is_empty() => format!("--{long}"),
        Some(long) if argument.is_require_equals_set() => format!("--{long}[={values}]"),
        Some(long) => format!("--{long} {values}"),
    };
    let mut meaning = vec![argument.get_help().map(ToString::to_string).unwrap_or_default()];
    let choices: Vec<String> =
        argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if takes_value && !choices.is_empty() {
        meaning.push(format!("[one of {}]", choices.join(", ")));
    }
    let defaults: Vec<String> = argument
        .get_default_values()
        .iter()
        .map(|value| value.display().to_string())
        .filter(|text| !text.is_empty())
        .collect();
    if takes_value && !defaults.is_empty() {
        meaning.push(format!("[default: `{}`]", defaults.join(" ")));
    }
    if let Some(variable) = argument.get_env() {
        meaning.push(format!("[environment: `{}`]", variable.display()));
    }
    meaning.retain(|part| !part.is_empty());
    format!("| `{shown}` | {} |\n", meaning.join(" ").replace('|', "\\|"))
}

fn sentence(command: &Command) -> String {
    command
        .get_long_about()
        .or(command.get_about())
        .map(|about| about.to_string().replace('\n', " "))
        .unwrap_or_default()
}

/// Breaks a text into lines of the page's width, each with its line end.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last().map_or(0, String::len);
        if last > 0 && last + 1 + word.len() > COLUMNS_MAX {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn docs_cli_md_is_generated_from_the_commands() {
    let path = testbed::repository().join(PAGE);
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect(PAGE);
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differing = written.lines().zip(page.lines()).position(|(written, wanted)| written != wanted);
    let line = differing.map_or(written.lines().count().min(page.lines().count()), |line| line) + 1;
    assert!(written == page, "{PAGE}:{line} differs from the commands; UPDATE_DOCS=1 writes it");
}

#[test]
fn every_argument_has_a_help_text() {
    fn check(command: &Command, name: &str, missing: &mut Vec<String>) {
        let arguments = command.get_arguments().filter(|argument| argument.get_help().is_none());
        missing.extend(arguments.map(|argument| format!("{name}: {}", argument.get_id())));
        for inner in subcommands(command) {
            check(inner, &format!("{name} {}", inner.get_name()), missing);
        }
    }
    let mut missing = Vec::new();
    check(&Cli::command(), "sexton", &mut missing);
    assert!(missing.is_empty(), "no help text: {missing:?}");
}
