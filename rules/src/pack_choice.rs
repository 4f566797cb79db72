//! The packs of a job: those that it names, or with `auto` those that fit its command, and each pack of the user that
//! names no programs.
//!
//! Reading a command is a guess that prefers too many packs: a pack for a program that does not run finds nothing. A
//! shell command is split as the shell splits it, without any expansion.

use domain::glob;
use domain::job::Command;

use crate::pack::Pack;
use crate::packs::{BUILT_IN, Packs};
use crate::rule_set::RulesError;

/// The name in a job's `rules` for [`DEFAULT_PACK`] and the packs that fit the command.
pub const AUTO: &str = "auto";

/// The pack that `auto` always includes.
pub const DEFAULT_PACK: &str = "default";

/// The pack that `auto` includes for every shell command.
const SHELL_PACK: &str = "shell";

/// Nesting of commands within commands (`sh -c "env nice ..."`) that is read. Chosen, not measured.
const DEPTH_MAX: usize = 8;

/// Programs that run another program: their options with a value in the next word, and the number of arguments before
/// the other program.
const WRAPPERS: [(&str, &[&str], usize); 28] = [
    ("builtin", &[], 0),
    ("chroot", &[], 1),
    ("chronic", &[], 0),
    ("chrt", &["-T", "-P", "-D"], 1),
    ("command", &[], 0),
    ("cpulimit", &["-l", "--limit"], 0),
    ("doas", &["-u", "-C"], 0),
    ("env", &["-u", "--unset", "-C", "--chdir"], 0),
    ("exec", &["-a"], 0),
    ("flock", &["-w", "--timeout", "-E"], 1),
    ("ionice", &["-c", "-n", "--class", "--classdata"], 0),
    ("linux32", &[], 0),
    ("linux64", &[], 0),
    ("lockrun", &["-L", "--lockfile", "-W"], 0),
    ("nice", &["-n", "--adjustment"], 0),
    ("nohup", &[], 0),
    ("numactl", &["-C", "-N", "-m", "-i"], 0),
    ("prlimit", &[], 0),
    ("runuser", &["-u", "--user", "-g"], 0),
    ("setarch", &[], 1),
    ("setpriv", &["--reuid", "--regid"], 0),
    ("setsid", &[], 0),
    ("stdbuf", &["-i", "-o", "-e"], 0),
    ("sudo", &["-u", "-g", "-h", "-p", "-C", "-D", "-R", "-T", "-U", "--user", "--group", "--chdir"], 0),
    ("taskset", &["-c"], 1),
    ("time", &["-f", "-o"], 0),
    ("timeout", &["-k", "-s", "--kill-after", "--signal"], 1),
    ("unshare", &[], 0),
];

/// Shell keywords that are followed by a command.
const KEYWORDS: [&str; 9] = ["if", "then", "else", "elif", "while", "until", "do", "!", "{"];

const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "ksh", "zsh"];

/// The packs of a job.
#[derive(Debug)]
pub struct ChosenPacks {
    /// The packs that exist, each once, in order.
    pub names: Vec<String>,
    /// An error for each name that no pack has, with the nearest known name.
    pub unknown: Vec<RulesError>,
}

/// Chooses the packs for a job whose `rules` are `wanted`. A job runs with the packs that exist: a job without some of
/// its rules is better than no job.
pub fn choose_packs(packs: &Packs, wanted: &[String], command: &Command) -> ChosenPacks {
    let (mut chosen, mut unknown): (Vec<String>, _) = (Vec::new(), Vec::new());
    let mut add = |name: &str| {
        if !chosen.iter().any(|known| known == name) {
            chosen.push(name.to_owned());
        }
    };
    for name in wanted {
        if name == AUTO {
            suggested_packs(packs, command).iter().for_each(|name| add(name));
        } else {
            match packs.find(name) {
                Ok(_) => add(name),
                Err(error) => unknown.push(error),
            }
        }
    }
    ChosenPacks { names: chosen, unknown }
}

fn suggested_packs<'p>(packs: &'p Packs, command: &Command) -> Vec<&'p str> {
    let programs = program_names(command);
    let by_shell = matches!(command, Command::Shell(_));
    let by_name = |name: &str| name == DEFAULT_PACK || (by_shell && name == SHELL_PACK);
    let wanted = |pack: &Pack| match &pack.suggest {
        None => pack.file != BUILT_IN || by_name(&pack.name),
        Some(globs) if globs.is_empty() => false,
        Some(globs) => {
            by_name(&pack.name) || globs.iter().any(|wild| programs.iter().any(|program| glob::matches(wild, program)))
        }
    };
    let mut names: Vec<&str> = packs.iter().filter(|pack| wanted(pack)).map(|pack| pack.name.as_str()).collect();
    names.sort_by_key(|name| (*name != DEFAULT_PACK, *name));
    names
}

/// The file names of all programs that a command seems to run, and of the scripts passed to them.
pub fn program_names(command: &Command) -> Vec<String> {
    let mut programs = Vec::new();
    match command {
        Command::Shell(text) => add_from_shell(text, DEPTH_MAX, &mut programs),
        Command::Argv(words) => add_from_words(words, DEPTH_MAX, &mut programs),
    }
    programs
}

fn add_from_shell(text: &str, depth: usize, programs: &mut Vec<String>) {
    for words in simple_commands(text) {
        add_from_words(&words, depth, programs);
    }
}

fn add_from_words(words: &[String], depth: usize, programs: &mut Vec<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    let begin = words.iter().position(|word| !is_assignment(word) && !KEYWORDS.contains(&word.as_str()));
    let Some((program, arguments)) = begin.and_then(|begin| words[begin..].split_first()) else { return };
    let name = base_name(program);
    programs.push(name.to_owned());
    if let Some((_, valued, own_words)) = WRAPPERS.iter().find(|(wrapper, _, _)| *wrapper == name) {
        // `env -S "python3 -u"` and `flock FILE -c TEXT` have a command in one word.
        let in_one_word = |word: &String| match name {
            "env" => matches!(word.as_str(), "-S" | "--split-string"),
            "flock" => word == "-c",
            _ => false,
        };
        if let Some(at) = arguments.iter().position(in_one_word) {
            return arguments.get(at + 1).into_iter().for_each(|text| add_from_shell(text, depth, programs));
        }
        add_from_words(skip_own_words(arguments, valued, *own_words), depth, programs);
    } else if SHELLS.contains(&name) {
        match arguments.iter().position(|word| is_command_option(word)) {
            Some(at) => arguments.get(at + 1).into_iter().for_each(|text| add_from_shell(text, depth, programs)),
            None => programs.extend(script_of(arguments)),
        }
    } else {
        programs.extend(script_of(arguments));
    }
}

/// `-c`, also among other letters (`-ec`).
fn is_command_option(word: &str) -> bool {
    word.len() >= 2 && word.starts_with('-') && !word.starts_with("--") && word.ends_with('c')
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

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Splits shell text into simple commands, and those into words. Quotes and backslashes are removed; redirections are
/// left out; a command in `$( )` or backquotes counts as a separate one.
fn simple_commands(text: &str) -> Vec<Vec<String>> {
    let mut commands: Vec<Vec<String>> = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut redirected = false;
    let mut rest = text.chars().peekable();
    let mut quote: Option<char> = None;
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some('"') | None, '\\') => word.get_or_insert_default().extend(rest.next().filter(|c| *c != '\n')),
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => while rest.next_if(|c| *c != '\n').is_some() {},
            (None, ' ' | '\t' | '\r' | '\n' | ';' | '|' | '&' | '(' | ')' | '`' | '<' | '>') => {
                let ended = word.take();
                match c {
                    // The number before a redirection is not an argument.
                    '<' | '>' => {
                        let number = |word: &String| word.chars().all(|c| c.is_ascii_digit());
                        push_word(ended.filter(|word| !number(word)), &mut redirected, &mut commands);
                        while rest.next_if(|c| matches!(c, '<' | '>' | '&')).is_some() {}
                        redirected = true;
                    }
                    ' ' | '\t' | '\r' => push_word(ended, &mut redirected, &mut commands),
                    _ => {
                        push_word(ended, &mut redirected, &mut commands);
                        redirected = false;
                        commands.push(Vec::new());
                    }
                }
            }
            (None, '$') if rest.peek() == Some(&'(') => (),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    push_word(word, &mut redirected, &mut commands);
    commands.retain(|words| !words.is_empty());
    commands
}

/// Adds a word to the last command, unless it is the file of a redirection.
fn push_word(word: Option<String>, redirected: &mut bool, commands: &mut [Vec<String>]) {
    let Some(word) = word else { return };
    if std::mem::take(redirected) {
        return;
    }
    if let Some(command) = commands.last_mut() {
        command.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(program_names(&Command::Shell(text.to_owned())), expected, "{text}");
    }

    #[test]
    fn programs_of_a_shell_command_are_found_behind_wrappers_and_assignments() {
        check("python3 /srv/x.py --all", &["python3", "x.py"]);
        check("cd /srv && ./venv/bin/python3 -m app >> /var/log/app.log 2>&1", &["cd", "python3"]);
        check("A=1 B='x y' nice -n 10 timeout -k 5s 10m /usr/bin/python", &["nice", "timeout", "python"]);
        check("sudo -u postgres env X=1 pg_dump db | gzip > f.gz", &["sudo", "env", "pg_dump", "gzip"]);
        check("flock -n /run/x.lock /opt/run.sh", &["flock", "run.sh"]);
        check("flock /run/x.lock -c 'python3 a.py'", &["flock", "python3", "a.py"]);
        check("bash -ec 'echo \"a b\"; python3 x'", &["bash", "echo", "python3"]);
        check("if test -f /x; then ruby y.rb; fi", &["test", "ruby", "y.rb", "fi"]);
        check("[ -x /a ] && x=$(date +%s) # python3", &["[", "date"]);
        check("env -S 'python3 -u' x", &["env", "python3"]);
        check("echo 'python3; perl'", &["echo"]);
        check("2>/dev/null cmd", &["cmd"]);
        check("", &[]);
        check("'unclosed", &["unclosed"]);
    }

    #[test]
    fn a_command_without_a_shell_is_read_word_by_word() {
        let argv = |words: &[&str]| Command::Argv(words.iter().map(|word| (*word).to_owned()).collect());
        assert_eq!(program_names(&argv(&["/usr/bin/env", "python3", "x.py"])), ["env", "python3", "x.py"]);
        assert_eq!(program_names(&argv(&["a b;python3", "c"])), ["a b;python3"]);
        assert!(program_names(&argv(&[])).is_empty());
    }
}
