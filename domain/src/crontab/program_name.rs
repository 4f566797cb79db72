//! The program that a command runs, as an operator would call it. Guards (`[ -x /x ] &&`), preparations (`cd /x;`) and
//! programs that run another one (`sudo`, `nice`, `sh -c`) are skipped.
//!
//! Reads the shell's words and separators, and expands nothing.

/// Commands in commands that are read: `sudo sh -c "flock f -c '...'"`. Chosen, not measured.
const DEPTH_MAX: usize = 4;

/// A program that runs the command in its arguments.
struct Wrapper {
    name: &'static str,
    /// Letters of its short options that take the next word.
    options: &'static str,
    /// Words between its options and the command.
    words: usize,
}

const fn wrapper(name: &'static str, options: &'static str, words: usize) -> Wrapper {
    Wrapper { name, options, words }
}

const WRAPPERS: [Wrapper; 27] = [
    wrapper("builtin", "", 0),
    wrapper("chroot", "", 1),
    wrapper("chronic", "", 0),
    wrapper("chrt", "TPD", 1),
    wrapper("command", "", 0),
    wrapper("cronic", "", 0),
    wrapper("doas", "uC", 0),
    wrapper("env", "uC", 0),
    wrapper("envdir", "", 1),
    wrapper("eval", "", 0),
    wrapper("exec", "a", 0),
    wrapper("flock", "wEc", 1),
    wrapper("ionice", "cnpPu", 0),
    wrapper("nice", "n", 0),
    wrapper("nohup", "", 0),
    wrapper("runuser", "ugG", 0),
    wrapper("setlock", "", 1),
    wrapper("setsid", "", 0),
    wrapper("setuidgid", "", 1),
    wrapper("stdbuf", "ioe", 0),
    wrapper("sudo", "ugpCDhrtTU", 0),
    wrapper("systemd-cat", "tp", 0),
    wrapper("taskset", "", 1),
    wrapper("time", "fo", 0),
    wrapper("timeout", "ks", 1),
    wrapper("unbuffer", "", 0),
    wrapper("xvfb-run", "enspw", 0),
];

/// Words of the shell before a command.
const KEYWORDS: [&str; 14] =
    ["if", "then", "elif", "else", "fi", "while", "until", "do", "done", "esac", "{", "}", "!", "coproc"];

/// Steps that only prepare or guard the main one.
const PRELUDES: [&str; 30] = [
    ":", ".", "[", "[[", "alias", "break", "cd", "continue", "exit", "export", "false", "hash", "local", "popd",
    "pushd", "read", "return", "set", "shopt", "sleep", "source", "test", "trap", "true", "type", "ulimit", "umask",
    "unset", "wait", "which",
];

/// Programs that are the main one only when there is no other.
const MINOR: [&str; 10] = ["chmod", "chown", "date", "echo", "logger", "mkdir", "pgrep", "printf", "rm", "touch"];

const SHELLS: [&str; 7] = ["sh", "bash", "dash", "ksh", "zsh", "ash", "su"];

/// The name of the main program, in letters that a name of a job may have; `job` when there is none.
pub(super) fn program_name(command: &str) -> String {
    let name = main_program(command, 0).map(|program| program.name).unwrap_or_default();
    let legal: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')).collect();
    match legal.trim_start_matches(['.', '-']) {
        "" => "job".to_owned(),
        program => program.to_owned(),
    }
}

struct Program {
    name: String,
    rank: Rank,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Prelude,
    Minor,
    Main,
}

/// The words of a simple command from its program on: without assignments, and without the programs that run it.
pub(crate) fn called<'a, 'w>(words: &'w [&'a str]) -> &'w [&'a str] {
    let mut words = words;
    while let Some(word) = words.first() {
        let wrapper = WRAPPERS.iter().find(|wrapper| wrapper.name == base_name(word));
        words = match wrapper {
            _ if is_assignment(word) => &words[1..],
            Some(wrapper) => after_options(&words[1..], wrapper.options).get(wrapper.words..).unwrap_or_default(),
            None => return words,
        };
    }
    words
}

/// What the words of [`called`] execute beside their program.
pub(crate) enum Executed<'a> {
    /// A script of an interpreter.
    Script(&'a str),
    /// The command of a shell's option `-c`.
    Command(&'a str),
}

pub(crate) fn executed<'a>(called: &[&'a str]) -> Option<Executed<'a>> {
    let (program, rest) = called.split_first()?;
    let base = base_name(program);
    if let Some(command) = option_c(base, rest) {
        return Some(Executed::Command(command));
    }
    let is_script = base != "su" && (SHELLS.contains(&base) || is_interpreter(base));
    after_options(rest, "").first().filter(|_| is_script).map(|script| Executed::Script(script))
}

/// The first program of the highest rank.
fn main_program(command: &str, depth: usize) -> Option<Program> {
    let mut best: Option<Program> = None;
    for step in steps(command) {
        let Some(program) = step_program(&step, depth) else { continue };
        if best.as_ref().is_none_or(|best| program.rank > best.rank) {
            best = Some(program);
        }
    }
    best
}

fn step_program(step: &[String], depth: usize) -> Option<Program> {
    let mut words = step.iter().map(String::as_str).peekable();
    loop {
        let word = words.next()?;
        if matches!(word, "for" | "case" | "select" | "function") {
            return None;
        }
        if KEYWORDS.contains(&word) || is_assignment(word) {
            continue;
        }
        let base = base_name(word);
        let rest: Vec<&str> = words.clone().collect();
        if base == "command" && rest.first().is_some_and(|option| matches!(*option, "-v" | "-V")) {
            return Some(Program { name: "command".to_owned(), rank: Rank::Prelude });
        }
        if depth < DEPTH_MAX
            && let Some(text) = option_c(base, &rest)
        {
            return main_program(text, depth + 1);
        }
        if let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.name == base) {
            let more = after_options(&rest, wrapper.options);
            let command = more.get(wrapper.words..).filter(|command| !command.is_empty());
            let Some(command) = command else { return Some(ranked(base)) };
            words = step[step.len() - command.len()..].iter().map(String::as_str).peekable();
            continue;
        }
        return Some(argument_program(base, &rest).unwrap_or_else(|| ranked(base)));
    }
}

/// A program that is named after its argument: scripts of interpreters, directories of `run-parts`, services.
fn argument_program(base: &str, rest: &[&str]) -> Option<Program> {
    let main = |name: &str| Some(Program { name: name.to_owned(), rank: Rank::Main });
    let first = |options: &str| after_options(rest, options).first().copied().map(base_name);
    match base {
        "run-parts" | "invoke-rc.d" | "service" => main(first("aur")?),
        "systemctl" => {
            let unit = after_options(rest, "HMpst").get(1).copied().map(base_name)?;
            main(unit.trim_end_matches(".service").trim_end_matches(".timer"))
        }
        "java" => match rest.iter().position(|word| *word == "-jar") {
            Some(at) => main(base_name(rest.get(at + 1)?)),
            None => main(first("")?.rsplit('.').next()?),
        },
        _ if SHELLS.contains(&base) && base != "su" => main(first("Oo")?),
        _ if is_interpreter(base) => {
            match rest.iter().position(|word| matches!(*word, "-e" | "-E" | "-r" | "-c" | "-m")) {
                Some(at) if rest[at] == "-m" => main(rest.get(at + 1)?),
                Some(at) if rest.get(at + 1).is_some_and(|code| code.trim_start().starts_with("sleep")) => {
                    Some(Program { name: base.to_owned(), rank: Rank::Prelude })
                }
                Some(_) => None,
                None => main(first("dIW")?),
            }
        }
        _ => None,
    }
}

fn is_interpreter(base: &str) -> bool {
    let name = base.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    matches!(name, "python" | "perl" | "php" | "ruby" | "node" | "nodejs" | "Rscript" | "tclsh")
}

fn ranked(base: &str) -> Program {
    let rank = match base {
        _ if PRELUDES.contains(&base) => Rank::Prelude,
        _ if MINOR.contains(&base) => Rank::Minor,
        _ => Rank::Main,
    };
    let name = if matches!(base, "[" | "[[") { "test" } else { base };
    Program { name: name.to_owned(), rank }
}

/// The command of `sh -c COMMAND`, `bash -lc COMMAND`, `su - USER -c COMMAND`.
fn option_c<'a>(base: &str, rest: &[&'a str]) -> Option<&'a str> {
    let is_c = |word: &&str| {
        let letters = word.strip_prefix('-').unwrap_or_default();
        letters.ends_with('c') && letters.chars().all(|c| c.is_ascii_lowercase()) || *word == "--command"
    };
    let options = rest.split(|word| *word == "--").next()?;
    let at = options.iter().position(is_c)?;
    let is_own = match base {
        "su" | "runuser" | "flock" => true,
        _ => SHELLS.contains(&base) && options[..at].iter().all(|word| word.starts_with('-') || *word == "pipefail"),
    };
    rest.get(at + 1).copied().filter(|_| is_own)
}

/// The words after the options. `with_word`: letters of the short options that take the next word.
fn after_options<'a, 'w>(words: &'w [&'a str], with_word: &str) -> &'w [&'a str] {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        match word.strip_prefix('-') {
            Some("-") => return &words[at + 1..],
            Some(letter) if letter.len() == 1 && with_word.contains(letter) => at += 2,
            Some(_) => at += 1,
            None if is_assignment(word) => at += 1,
            None => break,
        }
    }
    words.get(at..).unwrap_or_default()
}

fn is_assignment(word: &str) -> bool {
    let Some((name, _)) = word.split_once('=') else { return false };
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+'))
}

/// The part after the last slash. `$(dirname /x)` has none.
fn base_name(word: &str) -> &str {
    if word.ends_with([')', '`']) {
        return word;
    }
    word.rsplit('/').find(|part| !part.is_empty()).unwrap_or(word)
}

/// The words of each step of a command, without redirections. Steps end at `;`, `&`, `|`, parentheses and newlines.
fn steps(command: &str) -> Vec<Vec<String>> {
    let mut reader = WordReader { steps: vec![Vec::new()], word: None, is_target: false };
    let mut rest = command;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\'' => reader.push(until(&rest[1..], '\'', false), 2),
            '"' => reader.push(until(&rest[1..], '"', true), 2),
            '`' => {
                let inner = until(&rest[1..], '`', true);
                reader.push(&rest[..(inner.len() + 2).min(rest.len())], 0)
            }
            '\\' => {
                let next = rest[1..].chars().next().map_or(0, char::len_utf8);
                reader.push(&rest[1..1 + next], 1)
            }
            '$' if rest[1..].starts_with(['(', '{']) => reader.push(&rest[..expansion_length(rest)], 0),
            ' ' | '\t' => reader.end_word(1),
            '#' if reader.word.is_none() => break,
            '&' if rest[1..].starts_with('>') => reader.redirection(1 + redirection_length(&rest[1..])),
            '>' | '<' => reader.redirection(redirection_length(rest)),
            '&' | '|' | ';' | '(' | ')' | '\n' => reader.end_step(1),
            _ => reader.push(&rest[..c.len_utf8()], 0),
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    reader.end_step(0);
    reader.steps
}

struct WordReader {
    steps: Vec<Vec<String>>,
    word: Option<String>,
    /// The word is the target of a redirection.
    is_target: bool,
}

impl WordReader {
    /// Returns the length of the text and its quotes.
    fn push(&mut self, text: &str, quotes: usize) -> usize {
        self.word.get_or_insert_default().push_str(text);
        text.len() + quotes
    }

    fn end_word(&mut self, length: usize) -> usize {
        if let Some(word) = self.word.take()
            && !std::mem::take(&mut self.is_target)
            && let Some(step) = self.steps.last_mut()
        {
            step.push(word);
        }
        length
    }

    fn end_step(&mut self, length: usize) -> usize {
        self.end_word(0);
        self.is_target = false;
        self.steps.push(Vec::new());
        length
    }

    /// The next word is a file, and a number directly before is a descriptor.
    fn redirection(&mut self, length: usize) -> usize {
        if self.word.as_ref().is_some_and(|word| word.chars().all(|c| c.is_ascii_digit())) {
            self.word = None;
        }
        self.end_word(0);
        self.is_target = true;
        length
    }
}

/// The text before `quote`; all of it when there is none.
fn until(text: &str, quote: char, has_escapes: bool) -> &str {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        if c == quote && !is_escaped {
            return &text[..at];
        }
        is_escaped = has_escapes && c == '\\' && !is_escaped;
    }
    text
}

/// The length of `$(...)` or `${...}`, nested ones included.
fn expansion_length(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' | '{' => depth += 1,
            ')' | '}' if depth == 1 => return at + 1,
            ')' | '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

fn redirection_length(text: &str) -> usize {
    let operators = text.len() - text.trim_start_matches(['>', '<', '|', '&']).len();
    operators.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: &str, expected: &str) {
        assert_eq!(program_name(command), expected, "{command}");
    }

    #[test]
    fn a_command_is_named_after_its_main_program() {
        for (command, expected) in [
            ("/usr/local/bin/dump.sh --all", "dump.sh"),
            ("cd /srv/app && ./bin/report", "report"),
            ("LEVEL=9 PATH=/x nice -n 19 backup", "backup"),
            ("nice -n10 /usr/sbin/logcheck -R", "logcheck"),
            ("[ \"$(date +%u)\" = 5 ] && weekly", "weekly"),
            ("sudo -u root /opt/x/", "x"),
            ("sudo -u www-data -- php -q /srv/poll.php >/dev/null 2>&1", "poll.php"),
            ("$HOME/bin/thing", "thing"),
            ("(sleep 6; job) & echo started", "job"),
            ("(true)", "true"),
            ("...", "job"),
            ("", "job"),
            ("ünïcode", "ncode"),
            ("sh -c 'cd /x && \"./a b/run.sh\" -v'", "run.sh"),
            ("bash -lc \"exec /opt/y\"", "y"),
            ("su - postgres -c 'pg_dump main | gzip > /x'", "pg_dump"),
            ("flock -n /run/lock/x /opt/job --fast", "job"),
            ("flock -w 5 /run/lock/x -c '/opt/other'", "other"),
            ("timeout -k 5 1h ionice -c 3 rsync -a /x /y", "rsync"),
            ("env -i A=b python3 -u /opt/t.py", "t.py"),
            ("python3 -m http.server", "http.server"),
            ("java -Xmx1g -jar /opt/app.jar", "app.jar"),
            ("perl -e 'sleep int(rand(9))' && certbot -q renew", "certbot"),
            ("for f in *.log; do gzip \"$f\"; done", "gzip"),
            ("2>/dev/null >> /log job1 < in", "job1"),
            ("job2 &>/dev/null # a; remark", "job2"),
            ("mkdir -p /x && rm -f /y; archive", "archive"),
            ("rm -rf /tmp/x", "rm"),
            ("[ -d /mnt ]", "test"),
            ("a'b'\"c\"\\d", "abcd"),
            ("'unclosed", "unclosed"),
            ("$(", "job"),
        ] {
            check(command, expected);
        }
    }

    /// Lines of Debian packages.
    #[test]
    fn entries_of_packages_have_names_that_an_operator_recognises() {
        for (command, expected) in [
            (
                "[ -x /usr/lib/php/sessionclean ] && if [ ! -d /run/systemd/system ]; then /usr/lib/php/sessionclean; fi",
                "sessionclean",
            ),
            ("test -e /run/systemd/system || SERVICE_MODE=1 /sbin/e2scrub_all -A -r", "e2scrub_all"),
            ("test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }", "cron.daily"),
            (
                "[ -x /etc/init.d/anacron ] && if [ ! -d /run/systemd/system ]; then /usr/sbin/invoke-rc.d anacron start \
              >/dev/null; fi",
                "anacron",
            ),
            (
                "if [ -x /usr/share/mdadm/checkarray ] && [ $(date +%d) -le 7 ]; then /usr/share/mdadm/checkarray --cron; fi",
                "checkarray",
            ),
            ("command -v debian-sa1 > /dev/null && debian-sa1 1 1", "debian-sa1"),
            ("if [ -x /usr/sbin/logcheck ]; then nice -n10 /usr/sbin/logcheck; fi", "logcheck"),
            (
                "test -x /usr/bin/certbot -a \\! -d /run/systemd/system && perl -e 'sleep int(rand(43200))' && certbot -q \
              renew --no-random-sleep-on-renew",
                "certbot",
            ),
            (
                "if [ -d \"/run/systemd/system\" ]; then systemctl restart atop; else /usr/share/atop/atop.daily & fi",
                "atop",
            ),
            (
                "php --define suhosin.memory_limit=512M /usr/share/cacti/site/poller.php 2>&1 >/dev/null | cat",
                "poller.php",
            ),
        ] {
            check(command, expected);
        }
    }
}
