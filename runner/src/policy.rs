//! `policy.toml`: what may run on this machine, independent of who orders it. A genuine order that it does not allow
//! ends its run `failed`. The reason names the file, the line and what is allowed there.
//!
//! ```toml
//! groups = ["db", "web-*"]                  # `*` and `?` as in a shell
//! users = ["postgres"]                      # a job without `user` runs as the runner's own user, by its name
//! directories = ["/var/lib/dumps"]          # `cwd` must be one of these or below
//! env = ["LEVEL", "PG*"]                    # variables that a job may set; default none with [commands], else all
//! references = ["ssm:/db/*"]                # default: ssm:* and secretsmanager:*, so neither env: nor file:
//! timeout_max = "6h"                        # a job must have a `timeout` of at most this
//! order_keys = ["MCowBQYDK2VwAyEA..."]      # public keys; orders from a queue must be signed with one of them
//!
//! [commands]                                # regular expressions for the whole command, linear in time
//! argv = ['/usr/local/bin/dump( --all)?']   # words joined by spaces, quoted as for a shell where needed
//! shell = []                                # commands that are not listed are not allowed
//! ```
//!
//! A key that is absent restricts nothing, except as noted above. Read once, when the runner starts.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::document::{Document, Section};
use domain::fault::Faults;
use domain::job::{Command, Job};
use domain::order::{Order, PublicKey};
use domain::secret::Reference;
use domain::shell_text::quote_word;
use domain::units::format_duration;
use keeper::own_user;
use keeper::records::AllowedDirectories;
use regex::Regex;

use crate::options::Policy;

/// Allowed references without the key `references`: those that IAM roles protect, but none of this machine's own.
const REFERENCES_DEFAULT: [&str; 2] = ["ssm:*", "secretsmanager:*"];

/// The bytes before the 32 bytes of an Ed25519 key, as `openssl pkey -pubout -outform DER` writes them (RFC 8410).
const KEY_HEAD: [u8; 12] = [0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A parsed `policy.toml`.
pub struct PolicyFile {
    file: String,
    groups: Option<List>,
    users: Option<List>,
    directories: Option<Directories>,
    env: Option<List>,
    references: List,
    timeout_max: Option<(u32, Duration)>,
    commands: Option<Commands>,
    order_keys: Vec<PublicKey>,
    /// The user that runs a job without `user`.
    own_user: String,
}

/// Patterns of which one must match the whole text.
struct List {
    /// 1-based line of the file.
    line: u32,
    patterns: Vec<Regex>,
    /// The patterns as written in the file.
    written: Vec<String>,
}

struct Directories {
    line: u32,
    paths: Vec<PathBuf>,
}

struct Commands {
    argv: List,
    shell: List,
}

impl PolicyFile {
    /// Parses a policy and returns it with its warnings. Faults and reasons name `file`.
    ///
    /// # Errors
    /// Returns every fault of the text.
    pub fn parse(file: &str, text: &str) -> Result<(PolicyFile, Faults), Faults> {
        let (document, mut root) = Document::parse(file, text)?;
        let commands = root.section("commands").map(read_commands);
        let policy = PolicyFile {
            file: file.to_owned(),
            groups: read_globs(&mut root, "groups"),
            users: read_globs(&mut root, "users"),
            directories: read_directories(&mut root),
            env: read_globs(&mut root, "env")
                .or_else(|| commands.as_ref().map(|commands| List::none(commands.argv.line))),
            references: read_globs(&mut root, "references").unwrap_or_else(|| List {
                line: 0,
                patterns: REFERENCES_DEFAULT.iter().filter_map(|glob| anchored(&glob_to_regex(glob)).ok()).collect(),
                written: REFERENCES_DEFAULT.map(str::to_owned).to_vec(),
            }),
            timeout_max: read_duration(&mut root, "timeout_max"),
            commands,
            order_keys: read_order_keys(&mut root),
            own_user: own_user(),
        };
        root.reject_unknown_keys();
        let faults = document.faults();
        if faults.has_faults() { Err(faults) } else { Ok((policy, faults)) }
    }

    /// The sentence for something that the line does not allow.
    fn refusal(&self, line: u32, what: &str, remedy: &str) -> String {
        match line {
            0 => format!("{} does not allow {what}; {remedy}", self.file),
            _ => format!("{}:{line} does not allow {what}; {remedy}", self.file),
        }
    }

    fn check(&self, list: &List, key: &str, text: &str, what: &str) -> Result<(), String> {
        if list.matches(text) {
            return Ok(());
        }
        let allowed = match list.written.is_empty() {
            true => format!("`{key}` lists none"),
            false => format!("`{key}` lists {}", list.written.join(", ")),
        };
        Err(self.refusal(list.line, what, &allowed))
    }

    /// The rule and the directory that it concerns. Without `cwd` a job starts in its user's home, which the machine
    /// defines, unless the job sets HOME.
    fn directory_rule<'j>(&self, job: &'j Job) -> Option<(&Directories, &'j str)> {
        Some((self.directories.as_ref()?, job.cwd.as_ref().or_else(|| job.env.get("HOME"))?))
    }

    fn check_directory(&self, job: &Job) -> Result<(), String> {
        let Some((rule, cwd)) = self.directory_rule(job) else { return Ok(()) };
        let path = Path::new(cwd);
        let is_plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
        let resolved = resolve_links(path);
        if is_plain && rule.resolved().any(|allowed| resolved.starts_with(allowed)) {
            return Ok(());
        }
        Err(self.directory_refusal(rule, cwd, &resolved))
    }

    fn directory_refusal(&self, rule: &Directories, cwd: &str, resolved: &Path) -> String {
        let allowed: Vec<String> = rule.paths.iter().map(|path| path.display().to_string()).collect();
        let message = format!("`directories` lists {}, and `..` is not allowed in a path", allowed.join(", "));
        let shown = match resolved == Path::new(cwd) {
            true => format!("the directory `{cwd}`"),
            false => format!("the directory `{cwd}`, which is {}", resolved.display()),
        };
        self.refusal(rule.line, &shown, &message)
    }

    fn check_command(&self, command: &Command) -> Result<(), String> {
        let Some(commands) = &self.commands else { return Ok(()) };
        match command {
            Command::Argv(words) => {
                let text = words_as_text(words);
                self.check(&commands.argv, "argv", &text, &format!("the command `{text}`"))
            }
            Command::Shell(text) => self.check(&commands.shell, "shell", text, &format!("the shell command `{text}`")),
        }
    }

    fn check_timeout(&self, job: &Job) -> Result<(), String> {
        let Some((line, most)) = self.timeout_max else { return Ok(()) };
        let remedy = format!("give the job a timeout of at most {}", format_duration(most));
        match job.timeout {
            Some(timeout) if timeout <= most => Ok(()),
            Some(timeout) => Err(self.refusal(line, &format!("a timeout of {}", format_duration(timeout)), &remedy)),
            None => Err(self.refusal(line, "a job without a timeout", &remedy)),
        }
    }
}

impl Policy for PolicyFile {
    fn check_order(&self, order: &Order) -> Result<(), String> {
        let job = &order.job;
        if let Some(groups) = &self.groups {
            self.check(groups, "groups", &job.group, &format!("the group `{}`", job.group))?;
        }
        if let Some(users) = &self.users {
            let user = job.user.as_ref().unwrap_or(&self.own_user);
            self.check(users, "users", user, &format!("jobs of user `{user}`"))?;
        }
        self.check_directory(job)?;
        self.check_command(&job.command)?;
        for (name, value) in &job.env {
            if let Some(env) = &self.env {
                self.check(env, "env", name, &format!("the variable `{name}`"))?;
            }
            if Reference::parse(value).is_some() {
                self.check(&self.references, "references", value, &format!("the reference `{value}`"))?;
            }
        }
        self.check_timeout(job)
    }

    fn allowed_directories(&self, job: &Job) -> Option<AllowedDirectories> {
        let (rule, cwd) = self.directory_rule(job)?;
        Some(AllowedDirectories {
            paths: rule.resolved().map(|path| path.to_string_lossy().into_owned()).collect(),
            refusal: self.directory_refusal(rule, cwd, Path::new(cwd)),
        })
    }

    fn order_keys(&self) -> &[PublicKey] {
        &self.order_keys
    }
}

impl Directories {
    /// The directories with links resolved: /var/run is /run on most systems.
    fn resolved(&self) -> impl Iterator<Item = PathBuf> {
        self.paths.iter().map(|path| resolve_links(path))
    }
}

/// The path that the kernel would enter. What does not exist, or cannot be read by this process, is kept as written;
/// the keeper checks the directory again when the job has entered it.
fn resolve_links(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|ancestor| Some((ancestor, std::fs::canonicalize(ancestor).ok()?)));
    let Some((ancestor, resolved)) = existing else { return path.to_owned() };
    match path.strip_prefix(ancestor) {
        Ok(rest) if !rest.as_os_str().is_empty() => resolved.join(rest),
        _ => resolved,
    }
}

impl List {
    fn none(line: u32) -> List {
        List { line, patterns: Vec::new(), written: Vec::new() }
    }

    fn matches(&self, text: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.is_match(text))
    }
}

/// A command without a shell as one unambiguous text.
fn words_as_text(words: &[String]) -> String {
    words.iter().map(|word| quote_word(word)).collect::<Vec<_>>().join(" ")
}

fn glob_to_regex(glob: &str) -> String {
    format!("(?s:{})", regex::escape(glob).replace("\\*", ".*").replace("\\?", "."))
}

/// Matches the whole text only.
fn anchored(pattern: &str) -> Result<Regex, regex::Error> {
    // Compiled alone first, so that its brackets cannot close the added ones.
    Regex::new(pattern)?;
    Regex::new(&format!(r"\A(?:{pattern})\z"))
}

fn read_globs(section: &mut Section, key: &'static str) -> Option<List> {
    let line = section.line_of(key);
    let written = section.texts(key)?;
    let patterns = written.iter().filter_map(|glob| anchored(&glob_to_regex(glob)).ok()).collect();
    Some(List { line, patterns, written })
}

fn read_commands(mut section: Section) -> Commands {
    let commands = Commands { argv: read_regexes(&mut section, "argv"), shell: read_regexes(&mut section, "shell") };
    section.reject_unknown_keys();
    commands
}

fn read_regexes(section: &mut Section, key: &'static str) -> List {
    let line = section.line_of(key);
    let written = section.texts(key).unwrap_or_default();
    let mut patterns = Vec::new();
    for text in &written {
        match anchored(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => {
                let error = error.to_string();
                let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                let message = format!("not a regular expression ({why}); escape literal characters with a backslash");
                section.fault(line, text.as_str(), message);
            }
        }
    }
    List { line, patterns, written }
}

fn read_directories(section: &mut Section) -> Option<Directories> {
    let line = section.line_of("directories");
    let paths: Vec<PathBuf> = section.texts("directories")?.into_iter().map(PathBuf::from).collect();
    for path in paths.iter().filter(|path| !path.is_absolute()) {
        section.fault(line, path.display().to_string(), "not an absolute path; start it with /, like /var/lib/dumps");
    }
    Some(Directories { line, paths })
}

fn read_duration(section: &mut Section, key: &'static str) -> Option<(u32, Duration)> {
    let line = section.line_of(key);
    section.duration(key).map(|duration| (line, duration))
}

fn read_order_keys(section: &mut Section) -> Vec<PublicKey> {
    let line = section.line_of("order_keys");
    let texts = section.texts("order_keys").unwrap_or_default();
    let mut keys = Vec::new();
    for text in texts {
        match parse_key(&text) {
            Some(key) => keys.push(key),
            None => section.fault(
                line,
                text,
                "not a public key for orders; write what `openssl pkey -in KEY -pubout` prints between its first and last line",
            ),
        }
    }
    keys
}

/// Base64 of an Ed25519 key, with or without its X.509 prefix, or a whole PEM file.
fn parse_key(text: &str) -> Option<PublicKey> {
    let inner: String = text.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
    let bytes = STANDARD.decode(inner).ok()?;
    let key = bytes.strip_prefix(&KEY_HEAD).unwrap_or(&bytes);
    key.try_into().ok().map(PublicKey)
}

#[cfg(test)]
mod tests {
    use domain::job::JobKey;
    use domain::order::FORMAT_VERSION;
    use domain::run::{RunId, Trigger};
    use jiff::Timestamp;

    use super::*;

    const POLICY: &str = r#"groups = ["db", "web-*"]
users = ["postgres", "www-*"]
directories = ["/var/lib/dumps"]
env = ["LEVEL", "PG*", "HOME"]
references = ["ssm:/db/*", "file:/etc/secrets/*"]
timeout_max = "6h"

[commands]
argv = ['/usr/local/bin/dump( --all)?', "echo '[a-z ]+'"]
shell = ['backup\.sh > /dev/null']
"#;

    fn order(change: impl FnOnce(&mut Job)) -> Order {
        let mut job = Job::new(JobKey::new("db", "dump"), "@daily", Command::Argv(vec!["/usr/local/bin/dump".into()]));
        job.user = Some("postgres".into());
        job.timeout = Some(Duration::from_secs(3_600));
        change(&mut job);
        let at = Timestamp::UNIX_EPOCH;
        Order {
            version: FORMAT_VERSION,
            run_id: RunId::unscheduled(at, [1; 6]),
            attempt: 1,
            nominal: at,
            trigger: Trigger::Manual,
            issued_at: at,
            not_before: None,
            start_by: None,
            job,
        }
    }

    fn policy(text: &str) -> PolicyFile {
        PolicyFile::parse("policy.toml", text).expect("policy").0
    }

    fn argv(words: &[&str]) -> Command {
        Command::Argv(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn listed_values_are_allowed_and_a_refusal_names_its_line() {
        let policy = policy(POLICY);
        let check = |expected: &str, change: &dyn Fn(&mut Job)| {
            let allowed = policy.check_order(&order(change));
            match expected {
                "" => assert_eq!(allowed, Ok(())),
                part => {
                    let message = allowed.expect_err(part);
                    assert!(message.starts_with(part), "{message}, but {part}");
                }
            }
        };
        check("", &|_| {});
        check("", &|job| job.group = "web-1".into());
        check("policy.toml:1 does not allow the group `dbx`; `groups` lists db, web-*", &|job| {
            job.group = "dbx".into()
        });
        check("policy.toml:2 does not allow jobs of user `root`", &|job| job.user = Some("root".into()));
        check("", &|job| job.cwd = Some("/var/lib/dumps/one".into()));
        for cwd in ["/var/lib/dumpster", "/var/lib/dumps/../../etc", "var/lib/dumps", "/"] {
            check("policy.toml:3 does not allow the directory", &|job| job.cwd = Some(cwd.into()));
            check("policy.toml:3 does not allow the directory", &|job| drop(job.env.insert("HOME".into(), cwd.into())));
        }
        check("", &|job| drop(job.env.insert("PGHOST".into(), "localhost".into())));
        check("policy.toml:4 does not allow the variable `LD_PRELOAD`", &|job| {
            job.env.insert("LD_PRELOAD".into(), "/tmp/x.so".into());
        });
        check("", &|job| drop(job.env.insert("PGPASSWORD".into(), "ssm:/db/password".into())));
        check("policy.toml:5 does not allow the reference `file:/etc/shadow`", &|job| {
            job.env.insert("LEVEL".into(), "file:/etc/shadow".into());
        });
        check("policy.toml:6 does not allow a job without a timeout; give the job a timeout of at most 6h", &|job| {
            job.timeout = None;
        });
        check("policy.toml:6 does not allow a timeout of 7h", &|job| {
            job.timeout = Some(Duration::from_secs(7 * 3_600))
        });
    }

    #[test]
    fn commands_match_as_a_whole_and_word_by_word() {
        let policy = policy(POLICY);
        let check = |command: Command, is_allowed: bool| {
            let allowed = policy.check_order(&order(|job| job.command = command.clone()));
            assert_eq!(allowed.is_ok(), is_allowed, "{command}: {allowed:?}");
        };
        check(argv(&["/usr/local/bin/dump", "--all"]), true);
        check(argv(&["/usr/local/bin/dump", "--all", "--force"]), false);
        check(argv(&["/usr/local/bin/dump --all"]), false);
        check(argv(&["sh", "-c", "/usr/local/bin/dump"]), false);
        check(argv(&["echo", "a b"]), true);
        check(argv(&["echo", "a", "b"]), false);
        check(argv(&["echo", "a' 'b"]), false);
        check(argv(&[]), false);
        check(Command::Shell("backup.sh > /dev/null".into()), true);
        check(Command::Shell("backup.sh > /dev/null; rm -rf /".into()), false);
        check(Command::Shell("backup.sh > /dev/null\nrm -rf /".into()), false);
        check(Command::Shell("/usr/local/bin/dump".into()), false);
    }

    #[test]
    fn absent_keys_restrict_nothing_except_those_that_would_undo_others() {
        let free = policy("");
        assert_eq!(free.check_order(&order(|job| job.command = Command::Shell("anything".into()))), Ok(()));
        let with = |name: &str, value: &str| order(|job| drop(job.env.insert(name.into(), value.into())));
        assert_eq!(free.check_order(&with("A", "ssm:/x")), Ok(()));
        let message = free.check_order(&with("A", "file:/etc/shadow")).expect_err("refused");
        assert_eq!(
            message,
            "policy.toml does not allow the reference `file:/etc/shadow`; `references` lists ssm:*, secretsmanager:*"
        );
        // A job that sets PATH, SHELL or LD_PRELOAD chooses its program itself.
        let commands = policy("[commands]\nargv = ['.*']\n");
        assert!(commands.check_order(&with("PATH", "/tmp")).expect_err("refused").contains("`env` lists none"));
        let own = policy(&format!("users = [\"{}\"]", own_user()));
        assert_eq!(own.check_order(&order(|job| job.user = None)), Ok(()));
        let other = policy("users = [\"nobody-here\"]");
        assert!(other.check_order(&order(|job| job.user = None)).is_err());
    }

    #[test]
    fn every_fault_has_its_line() {
        let text = "group = [\"db\"]\ndirectories = [\"dumps\"]\ntimeout_max = \"soon\"\norder_keys = [\"AAAA\"]\n\
                    [commands]\nargv = ['dump(', 'a)|(b']\nshel = []\n";
        let faults = PolicyFile::parse("policy.toml", text).err().expect("refused");
        let said: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
        let starts = [
            "policy.toml:1: `group`: unknown key; did you mean `groups`?",
            "policy.toml:2: `dumps`: not an absolute path",
            "policy.toml:3: `soon`: `timeout_max` is not a duration",
            "policy.toml:4: `AAAA`: not a public key for orders; write what `openssl pkey -in KEY -pubout` prints",
            "policy.toml:6: `dump(`: not a regular expression (unclosed group)",
            "policy.toml:6: `a)|(b`: not a regular expression (unopened group)",
            "policy.toml:7: `shel`: unknown key; did you mean `shell`?",
        ];
        assert_eq!(said.len(), starts.len(), "{said:#?}");
        said.iter().zip(starts).for_each(|(said, start)| assert!(said.starts_with(start), "{said}"));
    }

    #[test]
    fn keys_are_read_as_openssl_writes_them() {
        // RFC 8032, 7.1, test 1.
        let der = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n");
        let raw = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        let keys = policy(&format!("order_keys = [\"{der}\", '''{pem}''', \"{raw}\"]"));
        let keys = keys.order_keys();
        assert_eq!(keys.len(), 3);
        assert!(keys.iter().all(|key| key.0[..4] == [0xD7, 0x5A, 0x98, 0x01]), "{keys:?}");
    }
}
