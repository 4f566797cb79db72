//! Guards of a shell command: tests before `&&` without which the rest does not run, as in
//! `[ -x /usr/sbin/dma ] && /usr/sbin/dma -q`. The keeper asks which guard was false after such a command has exited.
//!
//! Only the text is read; no guard is executed. A guard that the text does not explain is never named.

use serde::{Deserialize, Serialize};

use crate::crontab::program_name::{self, Executed};
use crate::shell_text::{self, Pipeline, Token, pipelines, simple_commands, tokens};

/// A guard that was false, so that the rest of the command did not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FalseGuard {
    /// The guard as written; several with `&&` between when it is not known which of them was false.
    pub text: String,
    /// The program that it asked for and that does not exist on the runner's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_program: Option<String>,
}

/// A program as a guard names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A path; a relative one is relative to the working directory of the command.
    Path(String),
    /// A name that the shell searches along `PATH`.
    Name(String),
}

/// A test of `[` about one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTest {
    /// `-d`, `-e`, `-f`, `-r`, `-s` or `-x`.
    pub operator: String,
    /// A relative one is relative to the working directory of the command.
    pub path: String,
}

/// The guards of one command, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guards {
    guards: Vec<Guard>,
    /// The guards, or commands before them, may start programs.
    guards_start_children: bool,
    /// What follows the guards fails with a message or starts a program. So a silent exit without one proves that a
    /// guard was false.
    rest_is_loud: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Guard {
    text: String,
    /// `command -v` and its kind, whose exit code for "not found" differs between shells.
    is_search: bool,
    /// The guard is false when each of these lists has a missing program. Empty: it can be true without any program.
    alternatives: Vec<Vec<Program>>,
    /// The guard is true when no program is missing.
    is_about_programs_only: bool,
    /// The guard is true when all of these are. Empty: not known.
    files: Vec<FileTest>,
}

/// What the keeper observed at the exit of the shell, which did not become another program.
#[derive(Clone, Copy, Debug)]
pub struct SilentExit {
    /// Of the shell.
    pub exit_code: i32,
    /// No child process of the shell has ended: it executed builtins only.
    pub without_children: bool,
}

/// Exit code of `[` and `test` for false (POSIX, test).
const FALSE_CODE: i32 = 1;

/// Exit code of `command -v` for an unknown name in dash.
const NOT_FOUND_CODE: i32 = 127;

impl Guards {
    /// The guards of a command of `sh` and shells like it; `None` when it has none. `variable`: the environment of the
    /// command.
    pub fn of(command: &str, variable: impl Fn(&str) -> Option<String>) -> Option<Guards> {
        let all = tokens(command);
        let assigned: Vec<&str> = shell_text::words(&all).into_iter().filter_map(assigned_name).collect();
        let known = |name: &str| variable(name).filter(|_| !assigned.contains(&name));
        let GuardedList { guards, rest, is_alone, is_redirected } = split(&all)?;
        let rest_tokens: Vec<Token<'_>> = rest
            .iter()
            .flat_map(|pipeline| pipeline.tokens.iter().copied().chain([Token::Operator(pipeline.end)]))
            .collect();
        let mut reader = GuardReader {
            command,
            known: &known,
            rest: &rest_tokens,
            path_changes: assigned.contains(&"PATH"),
            folder: Some(String::new()),
        };
        let starts_child = |word: &&str| {
            word.contains(['`', '(']) || *word == "which" || word.starts_with('/') && is_test_program(word)
        };
        let guards_start_children =
            !is_alone || guards.iter().any(|pipeline| pipeline.words().iter().any(starts_child));
        let guards: Vec<Guard> = guards.iter().filter_map(|pipeline| reader.read(pipeline)).collect();
        let rest_is_loud = !is_redirected
            && simple_commands(&rest_tokens).all(|command| {
                let words = shell_text::words(command);
                words.first().is_none_or(|word| !may_fail_silently(word)) && !words.is_empty()
            });
        (!guards.is_empty()).then_some(Guards { guards, guards_start_children, rest_is_loud })
    }

    /// The guard that was false, if the exit of a run that printed nothing proves it. `is_missing`: whether a program
    /// does not exist. `holds`: whether a test is true.
    pub fn find_false(
        &self,
        exit: SilentExit,
        is_missing: impl Fn(&Program) -> bool,
        holds: impl Fn(&FileTest) -> bool,
    ) -> Option<FalseGuard> {
        let fits = |guard: &Guard| exit.exit_code == FALSE_CODE || guard.is_search && exit.exit_code == NOT_FOUND_CODE;
        // A program that was started may have removed itself; then its guard was true.
        let rest_may_have_run = !exit.without_children && !self.guards_start_children;
        for guard in self.guards.iter().filter(|_| !rest_may_have_run) {
            let first_missing = |programs: &Vec<Program>| programs.iter().find(|program| is_missing(program)).cloned();
            let missing: Option<Vec<Program>> = guard.alternatives.iter().map(first_missing).collect();
            if let Some(Program::Path(name) | Program::Name(name)) =
                missing.and_then(|missing| missing.first().cloned())
            {
                let found = FalseGuard { text: guard.text.clone(), missing_program: Some(name) };
                return fits(guard).then_some(found);
            }
            // Whether the shell came to the guards after this one is not known.
            let is_true = !guard.files.is_empty() && guard.files.iter().all(&holds);
            if !guard.is_about_programs_only && !is_true {
                break;
            }
        }
        let provable = self.rest_is_loud && exit.without_children;
        let candidates: Vec<&str> =
            self.guards.iter().filter(|guard| fits(guard)).map(|guard| guard.text.as_str()).collect();
        (provable && !candidates.is_empty())
            .then(|| FalseGuard { text: candidates.join(" && "), missing_program: None })
    }
}

/// The last list of a command, whose exit code is that of the command.
struct GuardedList<'t> {
    guards: Vec<Pipeline<'t>>,
    rest: Vec<Pipeline<'t>>,
    /// No list precedes it, and no subshell executes it.
    is_alone: bool,
    /// Its messages may not reach the output of the run.
    is_redirected: bool,
}

fn split<'t>(tokens: &[Token<'t>]) -> Option<GuardedList<'t>> {
    let mut list = pipelines(tokens);
    let (mut is_subshell, mut is_redirected) = (false, false);
    if let [only] = list.as_slice() {
        let redirected = only.tokens.iter().rev().take_while(|token| matches!(token, Token::Redirection { .. }));
        let redirections = redirected.count();
        is_redirected = redirections > 0;
        let inner = match &only.tokens[..only.tokens.len() - redirections] {
            [Token::Operator("("), inner @ .., Token::Operator(")")] => {
                is_subshell = true;
                inner
            }
            [Token::Word("{"), inner @ .., Token::Word("}")] => inner,
            _ => return None,
        };
        list = pipelines(inner);
    }
    if list.last()?.end == "&" || list.iter().any(|pipeline| pipeline.end == "||") {
        return None;
    }
    let last = list.len() - 1;
    let start = list[..last].iter().rposition(|pipeline| pipeline.end != "&&").map_or(0, |index| index + 1);
    let list = list.split_off(start);
    let is_guard = |pipeline: &Pipeline<'_>| pipeline.end == "&&" && (is_test(pipeline) || is_prelude(pipeline));
    let count = list.iter().take_while(|pipeline| is_guard(pipeline)).count();
    let rest = list[count..].to_vec();
    Some(GuardedList { guards: list[..count].to_vec(), rest, is_alone: start == 0 && !is_subshell, is_redirected })
}

fn is_test(pipeline: &Pipeline<'_>) -> bool {
    let words = pipeline.words();
    let words = words.strip_prefix(&["!"]).unwrap_or(&words);
    let is_bash = words.first() == Some(&"[[");
    let operators = pipeline.tokens.iter().any(|token| match token {
        Token::Operator("&&" | "||") => !is_bash,
        token => matches!(token, Token::Operator(_)),
    });
    !operators
        && match words {
            ["[[", .., "]]"] | ["command", "-v" | "-V", _, ..] | ["type" | "hash" | "which", _, ..] => true,
            [program, .., last] => is_test_program(program) && (!program.ends_with('[') || *last == "]"),
            _ => false,
        }
}

/// `[` or `test`, builtin or not.
fn is_test_program(word: &str) -> bool {
    matches!(word, "[" | "test" | "/usr/bin/[" | "/usr/bin/test" | "/bin/[" | "/bin/test")
}

/// Whether a pipeline prepares the rest, and prints a message when it fails.
fn is_prelude(pipeline: &Pipeline<'_>) -> bool {
    let words = pipeline.words();
    let operators = pipeline.tokens.iter().any(|token| matches!(token, Token::Operator(_)));
    let loud = words.iter().all(|word| assigned_name(word).is_some() && !word.contains(['`', '(']))
        || matches!(words.first(), Some(&("cd" | "umask" | "ulimit" | "export" | ":" | "true")));
    let silenced = pipeline.tokens.iter().any(|token| matches!(token, Token::Redirection { .. }));
    !operators && loud && !silenced
}

/// Whether a command may end with an error and print nothing although no program was started.
fn may_fail_silently(word: &str) -> bool {
    const BUILTINS: [&str; 21] = [
        "[", "[[", "test", "command", "type", "hash", "false", "exit", "return", "read", "eval", ".", "source", "wait",
        "getopts", "let", "!", "trap", "kill", "break", "continue",
    ];
    BUILTINS.contains(&word) || assigned_name(word).is_some() && word.contains(['`', '('])
}

/// `NAME` of `NAME=value`.
fn assigned_name(word: &str) -> Option<&str> {
    let (name, _) = word.split_once('=')?;
    let legal = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (legal && !name.is_empty() && !name.as_bytes()[0].is_ascii_digit()).then_some(name)
}

struct GuardReader<'r, 't, F> {
    command: &'t str,
    known: &'r F,
    rest: &'r [Token<'t>],
    /// The command sets `PATH` itself.
    path_changes: bool,
    /// Where `cd` led so far, relative to the working directory; `None` when the text does not show it.
    folder: Option<String>,
}

impl<F: Fn(&str) -> Option<String>> GuardReader<'_, '_, F> {
    /// `None` for a prelude.
    fn read(&mut self, pipeline: &Pipeline<'_>) -> Option<Guard> {
        let words = pipeline.words();
        if !is_test(pipeline) {
            if let ["cd", folder @ ..] = words.as_slice() {
                let folder = folder.first().and_then(|word| shell_text::expanded(word, self.known));
                self.folder = folder.filter(|folder| folder.starts_with('/'));
            }
            return None;
        }
        let text = self.source_of(&words);
        // `&&` and `||` inside of `[[ ]]`.
        let joined: Vec<&str> = pipeline.tokens.iter().filter_map(joined_word).collect();
        let mut files = Vec::new();
        let (is_search, (alternatives, is_about_programs_only)) = match joined.as_slice() {
            ["[[", inner @ .., "]]"] | ["test" | "/usr/bin/test" | "/bin/test", inner @ ..] => {
                files = self.file_tests(inner);
                (false, self.expression(inner))
            }
            ["[" | "/usr/bin/[" | "/bin/[", inner @ .., "]"] => {
                files = self.file_tests(inner);
                (false, self.expression(inner))
            }
            ["command", _, name] | ["type" | "hash" | "which", name] | ["type", "-p" | "-P", name] => {
                let programs = self.search(name);
                let is_known = !programs.is_empty();
                (true, (programs, is_known))
            }
            ["command" | "type" | "hash" | "which", ..] => (true, (Vec::new(), false)),
            _ => (false, (Vec::new(), false)),
        };
        Some(Guard { text, is_search, alternatives, is_about_programs_only, files })
    }

    /// The tests of an expression that consists of tests of files, joined by `-a`; empty for any other expression.
    fn file_tests(&self, words: &[&str]) -> Vec<FileTest> {
        let test = |primary: &[&str]| match primary {
            [operator @ ("-d" | "-e" | "-f" | "-r" | "-s" | "-x"), word] => {
                let path = shell_text::expanded(word, self.known).filter(|path| !path.is_empty())?;
                Some(FileTest { operator: (*operator).to_owned(), path: self.located(&path)? })
            }
            _ => None,
        };
        words.split(|word| *word == "-a").map(test).collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// The words as they are in the command, with the blanks between them.
    fn source_of(&self, words: &[&str]) -> String {
        let start = self.command.as_ptr() as usize;
        let place = |word: &str| (word.as_ptr() as usize).checked_sub(start);
        match (words.first().and_then(|word| place(word)), words.last()) {
            (Some(from), Some(last)) => place(last)
                .and_then(|at| self.command.get(from..at + last.len()))
                .map_or_else(|| words.join(" "), str::to_owned),
            _ => words.join(" "),
        }
    }

    fn search(&self, word: &str) -> Vec<Vec<Program>> {
        match shell_text::expanded(word, self.known) {
            Some(name) if name.contains('/') => {
                self.located(&name).map(|path| vec![vec![Program::Path(path)]]).unwrap_or_default()
            }
            Some(name) if !self.path_changes && !name.is_empty() && !name.starts_with('-') => {
                vec![vec![Program::Name(name)]]
            }
            _ => Vec::new(),
        }
    }

    /// The alternatives of an expression of `test`, which are empty when one of them asks for no program, and whether
    /// it asks for programs only.
    fn expression(&self, words: &[&str]) -> (Vec<Vec<Program>>, bool) {
        let mut alternatives = Vec::new();
        let mut programs_only = true;
        for clause in words.split(|word| matches!(*word, "-o")) {
            let mut programs = Vec::new();
            for primary in clause.split(|word| matches!(*word, "-a")) {
                let is_group = primary.iter().any(|word| matches!(*word, "\\(" | "\\)" | "'('" | "')'"));
                let program = match primary {
                    [operator, path] => self.primary(operator, path),
                    _ => None,
                };
                programs_only &= program.as_ref().is_some_and(|(_, is_enough)| *is_enough);
                programs.extend(program.map(|(program, _)| program));
                if is_group {
                    return (Vec::new(), false);
                }
            }
            if programs.is_empty() {
                return (Vec::new(), false);
            }
            alternatives.push(programs);
        }
        (alternatives, programs_only)
    }

    /// The program that a primary asks for, and whether the primary is true when the program exists.
    fn primary(&self, operator: &str, word: &str) -> Option<(Program, bool)> {
        if matches!(operator, "-x" | "-n" | "-e" | "-f")
            && let Some(name) = searched_program(word)
        {
            return self.search(name).into_iter().flatten().next().map(|program| (program, true));
        }
        let path = shell_text::expanded(word, self.known)?;
        let is_program = match operator {
            "-x" => {
                let name = path.rsplit('/').next().unwrap_or_default();
                is_in_program_folder(&path) || self.rest_calls(|word| word == path || word == name)
            }
            "-e" | "-f" | "-r" | "-s" => self.rest_calls(|word| word == path),
            _ => false,
        };
        // An existing file may still have no execute permission, or be empty.
        let is_enough = matches!(operator, "-e");
        let located = self.located(&path).filter(|_| is_program && !path.is_empty())?;
        Some((Program::Path(located), is_enough))
    }

    /// A path relative to the working directory of the command.
    fn located(&self, path: &str) -> Option<String> {
        match (path.starts_with('/'), self.folder.as_deref()) {
            (true, _) | (false, Some("")) => Some(path.to_owned()),
            (false, Some(folder)) => Some(format!("{}/{path}", folder.trim_end_matches('/'))),
            (false, None) => None,
        }
    }

    /// Whether what follows the guards executes a program that is `wanted`. A file that `.` reads is none.
    fn rest_calls(&self, wanted: impl Fn(&str) -> bool) -> bool {
        let wanted = |word: &str| shell_text::expanded(word, self.known).is_some_and(|word| wanted(&word));
        calls(self.rest, &wanted, 0)
    }
}

/// Commands in commands that are read: `sh -c "flock f -c '...'"`. Chosen, not measured.
const DEPTH_MAX: usize = 4;

/// Whether a command executes a program that is `wanted`. `depth`: of commands in commands.
fn calls(tokens: &[Token<'_>], wanted: &dyn Fn(&str) -> bool, depth: usize) -> bool {
    simple_commands(tokens).any(|command| {
        let words = shell_text::words(command);
        let called = program_name::called(&words);
        called.first().is_some_and(|word| wanted(word))
            || match program_name::executed(called) {
                Some(Executed::Script(word)) => wanted(word),
                Some(Executed::Command(word)) if depth < DEPTH_MAX => {
                    calls(&shell_text::tokens(word.trim_matches(['"', '\''])), wanted, depth + 1)
                }
                _ => false,
            }
    })
}

/// Whether a path is in a directory of programs by the Filesystem Hierarchy Standard. A mount point or a data directory
/// is none, with any name of its last part.
fn is_in_program_folder(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        _ if parts.contains(&"..") => false,
        ["", "bin" | "sbin", _] | ["", "etc", "init.d", _] => true,
        ["", "usr", "bin" | "sbin" | "games", _] => true,
        ["", "usr", "lib" | "lib64" | "libexec" | "share", _, ..] => true,
        ["", "usr", "local", "bin" | "sbin", _] | ["", "usr", "local", "lib" | "libexec", _, ..] => true,
        ["", "opt", _, .., "bin" | "sbin", _] => true,
        _ => false,
    }
}

/// A word of a guard, with the operators of `[[ ]]` as those of `[`.
fn joined_word<'t>(token: &Token<'t>) -> Option<&'t str> {
    match token {
        Token::Word(word) => Some(word),
        Token::Operator("&&") => Some("-a"),
        Token::Operator("||") => Some("-o"),
        _ => None,
    }
}

/// `NAME` of `"$(command -v NAME)"`, `"$(which NAME)"` or the same in backticks. Without quotes, `[ -x $(which NAME) ]`
/// is true for a missing program: `[` then has the one word `-x`.
fn searched_program(word: &str) -> Option<&str> {
    let word = word.strip_prefix('"')?.strip_suffix('"')?;
    let inner = word
        .strip_prefix("$(")
        .and_then(|rest| rest.strip_suffix(')'))
        .or_else(|| word.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')))?;
    let tokens = tokens(inner);
    match shell_text::words(&tokens).as_slice() {
        ["command", "-v", name] | ["which", name] => Some(*name),
        _ => None,
    }
}
