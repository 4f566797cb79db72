//! Reads a command: which programs it runs, which of them print to the job's standard output, and which words it has.
//! Sees through wrappers, containers and remote shells. A guess that prefers too many programs. Reads no file.

use domain::job::Command;

use crate::command_syntax::{self, Node, Output, Simple};
use crate::wrappers::{Inner, VALUED_BEFORE_SUBCOMMAND, WRAPPERS, Wrapper};

/// Nesting of commands within commands (`sh -c "env nice ..."`) that is read. Chosen, not measured.
const DEPTH_MAX: usize = 16;

const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "ksh", "zsh"];

/// Programs that copy their input to their output.
const COPIERS: [&str; 4] = ["tee", "pv", "ts", "sponge"];

/// Programs that print nothing to standard output, or nothing that is judged.
const SILENT: [&str; 41] = [
    ":", "[", "[[", "alias", "break", "cd", "chgrp", "chmod", "chown", "continue", "cp", "declare", "exit", "export",
    "false", "install", "kill", "ln", "local", "logger", "mkdir", "mkfifo", "mv", "popd", "pushd", "read", "readonly",
    "return", "rm", "rmdir", "set", "shift", "shopt", "sleep", "sync", "test", "touch", "trap", "true", "umask",
    "unset",
];

/// The programs of a command.
#[derive(Debug, Default)]
pub struct Programs {
    /// In the order of the command.
    all: Vec<Program>,
    root: Vec<Stage>,
}

/// One program of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The last part of its path.
    pub name: String,
    /// As the command names it.
    pub path: String,
    /// The words behind it.
    pub arguments: Vec<String>,
    /// The script that it gets as its first argument, if its name shows that it is one.
    pub script: Option<String>,
    /// Whether it runs on the runner's own files: not in a container or on another host.
    pub is_local: bool,
}

/// How programs follow each other.
#[derive(Debug)]
enum Stage {
    /// A program by its place in the list, with what it does to the output.
    Program(usize, Output),
    List(Vec<Stage>, Output),
    Pipe(Vec<Stage>),
}

/// What arrives at the standard output of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    /// The programs whose messages arrive there, by their place in the list.
    pub(crate) text: Vec<usize>,
    /// The programs whose data arrives there.
    pub(crate) data: Vec<usize>,
    /// Programs that only copy data there.
    pub(crate) copiers: Vec<usize>,
}

impl Programs {
    /// Reads a command.
    pub fn of(command: &Command) -> Programs {
        let mut programs = Programs::default();
        programs.root = match command {
            Command::Shell(text) => programs.add_text(text, DEPTH_MAX, true),
            Command::Argv(words) => {
                let simple = Simple { words: words.clone(), ..Simple::default() };
                programs.add_simple(&simple, DEPTH_MAX, true)
            }
        };
        programs
    }

    /// The programs, in the order of the command.
    pub fn iter(&self) -> impl Iterator<Item = &Program> {
        self.all.iter()
    }

    /// The file names of the programs and of the scripts passed to them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().flat_map(|program| std::iter::once(program.name.as_str()).chain(program.script.as_deref()))
    }

    /// What arrives at the job's standard output. `is_data`: whether a program writes data to its own.
    pub(crate) fn flow(&self, is_data: &dyn Fn(&Program) -> bool) -> Flow {
        self.flow_of_list(&self.root, &Flow::default(), is_data)
    }

    fn flow_of_list(&self, stages: &[Stage], upstream: &Flow, is_data: &dyn Fn(&Program) -> bool) -> Flow {
        let mut all = Flow::default();
        for stage in stages {
            all.add(self.flow_of(stage, upstream, is_data));
        }
        all
    }

    fn flow_of(&self, stage: &Stage, upstream: &Flow, is_data: &dyn Fn(&Program) -> bool) -> Flow {
        match stage {
            Stage::List(stages, output) => {
                let flow = self.flow_of_list(stages, upstream, is_data);
                if output.is_elsewhere { Flow::default() } else { flow }
            }
            Stage::Pipe(stages) => {
                let mut flow = upstream.clone();
                for stage in stages {
                    flow = self.flow_of(stage, &flow, is_data);
                }
                flow
            }
            Stage::Program(number, output) => self.flow_of_program(*number, *output, upstream, is_data),
        }
    }

    fn flow_of_program(
        &self,
        number: usize,
        output: Output,
        upstream: &Flow,
        is_data: &dyn Fn(&Program) -> bool,
    ) -> Flow {
        let Some(program) = self.all.get(number) else { return Flow::default() };
        let only = |number: usize| Flow { text: vec![number], ..Flow::default() };
        if output.is_merged {
            // Messages arrive with the data.
            return only(number);
        }
        if output.is_elsewhere || SILENT.contains(&program.name.as_str()) {
            return Flow::default();
        }
        let copies = COPIERS.contains(&program.name.as_str());
        if !copies && !is_data(program) {
            return only(number);
        }
        // A filter passes on what it reads: data, or another program's messages.
        let mut flow = upstream.clone();
        if !upstream.text.is_empty() {
            flow.text.push(number);
        } else if copies {
            flow.copiers.push(number);
        } else {
            flow.data.push(number);
        }
        flow
    }

    fn add_text(&mut self, text: &str, depth: usize, is_local: bool) -> Vec<Stage> {
        let Some(depth) = depth.checked_sub(1) else { return Vec::new() };
        self.add_nodes(&command_syntax::read(text), depth, is_local)
    }

    fn add_nodes(&mut self, nodes: &[Node], depth: usize, is_local: bool) -> Vec<Stage> {
        let mut stages = Vec::new();
        for node in nodes {
            match node {
                Node::Simple(simple) => stages.extend(self.add_simple(simple, depth, is_local)),
                Node::List(nodes, output) => stages.push(Stage::List(self.add_nodes(nodes, depth, is_local), *output)),
                Node::Pipe(nodes) => {
                    let mut piped = Vec::with_capacity(nodes.len());
                    for node in nodes {
                        let stage = self.add_nodes(std::slice::from_ref(node), depth, is_local);
                        piped.push(Stage::List(stage, Output::default()));
                    }
                    stages.push(Stage::Pipe(piped));
                }
            }
        }
        stages
    }

    fn add_simple(&mut self, simple: &Simple, depth: usize, is_local: bool) -> Vec<Stage> {
        let stages = self.add_words(&simple.words, simple, depth, is_local);
        // A substituted command prints into an argument.
        self.add_nodes(&simple.substituted, depth.saturating_sub(1), is_local);
        stages
    }

    /// Adds the program of these words, and those that it runs. `simple` has the redirections.
    fn add_words(&mut self, words: &[String], simple: &Simple, depth: usize, is_local: bool) -> Vec<Stage> {
        let Some(depth) = depth.checked_sub(1) else { return Vec::new() };
        let begin = words.iter().position(|word| !is_assignment(word) && word != "!");
        let Some((path, arguments)) = begin.and_then(|begin| words[begin..].split_first()) else { return Vec::new() };
        let name = base_name(path);
        let number = self.all.len();
        self.all.push(Program {
            name: name.to_owned(),
            path: path.clone(),
            arguments: arguments.to_vec(),
            script: script_of(arguments),
            is_local,
        });
        let inner = self.add_inner(name, arguments, simple, depth, is_local);
        match inner {
            Some(stages) => vec![Stage::List(stages, simple.output)],
            None => vec![Stage::Program(number, simple.output)],
        }
    }

    /// Adds the programs that this one runs; none when it runs no other.
    fn add_inner(
        &mut self,
        name: &str,
        arguments: &[String],
        simple: &Simple,
        depth: usize,
        is_local: bool,
    ) -> Option<Vec<Stage>> {
        // Redirections are those of the outer program.
        let bare = Simple { input: simple.input.clone(), ..Simple::default() };
        if let Some(text) = text_argument(name, arguments) {
            return Some(self.add_text(&text, depth, is_local));
        }
        if SHELLS.contains(&name) {
            let script = simple.input.as_ref().filter(|_| arguments.iter().all(|word| word.starts_with('-')))?;
            return Some(self.add_text(script, depth, is_local));
        }
        if matches!(name, "find" | "fd" | "fdfind") {
            let commands = executed_by_find(arguments);
            let stages: Vec<Stage> =
                commands.into_iter().flat_map(|words| self.add_words(words, &bare, depth, is_local)).collect();
            return (!stages.is_empty()).then_some(stages);
        }
        let (wrapper, arguments) = wrapper_of(name, arguments)?;
        let is_local = is_local && !runs_elsewhere(wrapper);
        if let Some(entry) = option_value(arguments, "--entrypoint").filter(|_| !is_local) {
            self.add_words(&[entry], &bare, depth, is_local);
        }
        let inner = inner_words(wrapper, arguments);
        if wrapper.name.ends_with(" run") && runs_elsewhere(wrapper) && !wrapper.name.contains("compose") {
            // The image of `docker run IMAGE` names its program: `restic/restic:0.17`.
            let own = skip_own_words(arguments, wrapper.valued, 0).first();
            if let Some(image) = own {
                let image = base_name(image).split([':', '@']).next().unwrap_or_default().to_owned();
                self.all.push(Program { name: image.clone(), path: image, ..Program::default() });
            }
        }
        match (wrapper.inner, inner) {
            (Inner::Text, []) => simple.input.as_ref().map(|text| self.add_text(text, depth, is_local)),
            (_, []) => None,
            (Inner::Text, words) => {
                let end = words.iter().position(|word| word.starts_with(":::")).unwrap_or(words.len());
                Some(self.add_text(&words[..end].join(" "), depth, is_local))
            }
            (_, words) => Some(self.add_words(words, &bare, depth, is_local)),
        }
    }
}

impl Flow {
    fn add(&mut self, other: Flow) {
        self.text.extend(other.text);
        self.data.extend(other.data);
        self.copiers.extend(other.copiers);
    }
}

/// The wrapper of this name, with the words behind its subcommand.
fn wrapper_of<'w>(name: &str, arguments: &'w [String]) -> Option<(&'static Wrapper, &'w [String])> {
    if let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.name == name) {
        return Some((wrapper, arguments));
    }
    let mut named = name.to_owned();
    let mut rest = arguments;
    for _ in 0..2 {
        rest = skip_own_words(rest, VALUED_BEFORE_SUBCOMMAND, 0);
        let (subcommand, behind) = rest.split_first()?;
        named = format!("{named} {subcommand}");
        rest = behind;
        if let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.name == named) {
            return Some((wrapper, rest));
        }
    }
    None
}

/// Whether the other program sees other files than the runner.
fn runs_elsewhere(wrapper: &Wrapper) -> bool {
    let first = wrapper.name.split(' ').next().unwrap_or_default();
    matches!(
        first,
        "docker"
            | "docker-compose"
            | "podman"
            | "podman-compose"
            | "nerdctl"
            | "kubectl"
            | "oc"
            | "ssh"
            | "autossh"
            | "chroot"
    )
}

fn inner_words<'w>(wrapper: &Wrapper, arguments: &'w [String]) -> &'w [String] {
    match wrapper.inner {
        Inner::AfterDashes => {
            let dashes = arguments.iter().position(|word| word == "--");
            dashes.and_then(|at| arguments.get(at + 1..)).unwrap_or_default()
        }
        Inner::Words | Inner::Text => skip_own_words(arguments, wrapper.valued, wrapper.own_words),
    }
}

/// The text for a shell that a program gets in one argument.
fn text_argument(name: &str, arguments: &[String]) -> Option<String> {
    let behind = |at: usize| arguments.get(at + 1).cloned();
    let place = |is_it: &dyn Fn(&str) -> bool| arguments.iter().position(|word| is_it(word));
    match name {
        // `env -S "python3 -u" x` and `flock FILE -c TEXT`.
        "env" => {
            let at = place(&|word| matches!(word, "-S" | "--split-string"))?;
            let rest = arguments.get(at + 2..).unwrap_or_default();
            Some(format!("{} {}", behind(at)?, rest.join(" ")).trim_end().to_owned())
        }
        "flock" => behind(place(&|word| word == "-c")?),
        "su" | "runuser" | "script" => {
            let attached =
                option_value(arguments, "--command").or_else(|| option_value(arguments, "--session-command"));
            attached.or_else(|| behind(place(&is_command_option)?))
        }
        "nix-shell" => option_value(arguments, "--run").or_else(|| option_value(arguments, "--command")),
        _ if SHELLS.contains(&name) => behind(place(&is_command_option)?),
        _ => None,
    }
}

/// `-c`, also among other letters (`-ec`).
fn is_command_option(word: &str) -> bool {
    word.len() >= 2 && word.starts_with('-') && !word.starts_with("--") && word.ends_with('c')
}

/// The value of a long option: `--command TEXT` or `--command=TEXT`.
fn option_value(arguments: &[String], option: &str) -> Option<String> {
    let joined = |word: &String| word.strip_prefix(option)?.strip_prefix('=').map(str::to_owned);
    let at = arguments.iter().position(|word| word == option);
    arguments.iter().find_map(joined).or_else(|| arguments.get(at? + 1).cloned())
}

/// The commands of `find -exec COMMAND ;` and `fd -x COMMAND`.
fn executed_by_find(arguments: &[String]) -> Vec<&[String]> {
    let starts = |word: &String| {
        matches!(word.as_str(), "-exec" | "-execdir" | "-ok" | "-okdir" | "-x" | "-X" | "--exec" | "--exec-batch")
    };
    let ends = |word: &String| matches!(word.as_str(), ";" | "+");
    let mut commands = Vec::new();
    let mut rest = arguments;
    while let Some(at) = rest.iter().position(starts) {
        let command = &rest[at + 1..];
        let end = command.iter().position(ends).unwrap_or(command.len());
        commands.push(&command[..end]);
        rest = &command[end..];
    }
    commands
}

/// The first argument that is not an option, if it has the suffix of a script (`x.py`, not `x`).
fn script_of(arguments: &[String]) -> Option<String> {
    let first = arguments.iter().find(|word| !word.starts_with('-'))?;
    let name = base_name(first);
    let (stem, ending) = name.rsplit_once('.')?;
    (!stem.is_empty() && matches!(ending, "py" | "pyz" | "sh" | "bash" | "pl" | "rb" | "js" | "php"))
        .then(|| name.to_owned())
}

fn skip_own_words<'w>(words: &'w [String], valued: &[&str], own_words: usize) -> &'w [String] {
    let mut at = 0;
    let mut left = own_words;
    while let Some(word) = words.get(at) {
        if word == "--" {
            at += 1 + left;
            break;
        } else if valued.contains(&word.as_str()) {
            at += 2;
        } else if (word.starts_with('-') && word.len() > 1) || is_assignment(word) {
            at += 1;
        } else if left > 0 {
            left -= 1;
            at += 1;
        } else {
            break;
        }
    }
    words.get(at..).unwrap_or_default()
}

/// `NAME=value` before a command.
fn is_assignment(word: &str) -> bool {
    let Some((name, _)) = word.split_once('=') else { return false };
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The program that the first line of a file names: `python3` for `#!/usr/bin/env python3`. `head`: the first bytes of
/// the file.
pub fn interpreter_of(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace().map(base_name);
    match words.next()? {
        "env" => words.find(|word| !word.starts_with('-') && !is_assignment(word)).map(str::to_owned),
        name => Some(name.to_owned()),
    }
}

pub(crate) fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
#[path = "programs_tests.rs"]
mod tests;
