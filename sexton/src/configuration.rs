//! Reads the configuration file `sexton.toml` of `up`, `runner`, `exec`, `check` and the client commands.
//!
//! All faults are reported together. Paths are relative to the file. Secrets may be references (`env:NAME`,
//! `file:/path`); they are resolved when the file is read and never printed.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use channels::Channel;
use domain::document::{Document, Section};
use domain::fault::{Fault, Faults};
use rules::Packs;
use runner::{OnShutdown, PolicyFile};

use crate::failure::{Failure, print_error_line};
use crate::source_path;
use crate::text_files::{read_file, read_file_or_pipe, to_checked_text};

/// The content of the file; keys that are absent have their defaults.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    pub(crate) state: Option<PathBuf>,
    pub(crate) listen: Option<SocketAddr>,
    /// `plain`: whether `listen` may be an address beyond loopback.
    pub(crate) plain: bool,
    pub(crate) crontabs: Vec<PathBuf>,
    /// All crontabs have a user column.
    pub(crate) system: bool,
    pub(crate) jobs: Vec<PathBuf>,
    pub(crate) sinks: Option<PathBuf>,
    pub(crate) rules: Vec<PathBuf>,
    pub(crate) runner: RunnerSection,
    pub(crate) history: HistorySection,
    pub(crate) channels: Vec<Channel>,
    pub(crate) mail: MailSection,
    /// `[links]`: names with URLs, in which `{group}`, `{job}`, `{run_id}` and `{attempt}` are replaced by the run's.
    pub(crate) links: BTreeMap<String, String>,
    /// `[aws]`: the installation that `sexton runner` and the client commands use.
    pub(crate) aws: Option<aws::Options>,
}

/// `[runner]`: how runs are executed on this machine.
#[derive(Debug, Default)]
pub(crate) struct RunnerSection {
    pub(crate) name: Option<String>,
    pub(crate) mode: Mode,
    /// Empty: all groups.
    pub(crate) groups: Vec<String>,
    /// Names of environment variables of Sexton that are passed on to jobs.
    pub(crate) pass_env: Vec<String>,
    /// The policy file: which jobs this machine may run.
    pub(crate) policy: Option<PathBuf>,
    /// How long the output of finished runs is kept on disk.
    pub(crate) retention: Option<Duration>,
    /// Bytes of output kept on disk over all runs.
    pub(crate) spool_max: Option<u64>,
    /// What happens to running jobs at a shutdown; absent: it depends on whether this is process 1.
    pub(crate) on_shutdown: Option<OnShutdown>,
}

/// How many runs are executed at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One at a time.
    Serial,
    /// As many as fit into the machine's cores and memory, by the `resources` of the jobs.
    Resources,
    /// No limit.
    #[default]
    Free,
}

/// `[history]`: how many finished runs are kept.
#[derive(Debug, Default)]
pub(crate) struct HistorySection {
    pub(crate) keep: Option<Duration>,
    pub(crate) runs_per_job: Option<usize>,
}

/// `[mail]`: how the output of crontab entries is mailed.
#[derive(Debug, Default)]
pub(crate) struct MailSection {
    /// The smtp channel; the only one by default.
    pub(crate) channel: Option<String>,
    /// Whether entries without MAILTO are mailed to their user, as cron does.
    pub(crate) owner: bool,
}

impl Configuration {
    /// Reads the file; all defaults without one. Prints its warnings.
    ///
    /// # Errors
    /// Returns every fault of the file.
    pub(crate) fn load(path: Option<&Path>) -> Result<Configuration, Failure> {
        let Some(path) = path else { return Ok(Configuration::default()) };
        let text = read_text(path)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let (configuration, faults) = Configuration::read(&path.display().to_string(), &text, &folder)?;
        for warning in &faults.0 {
            print_error_line(&warning.to_string());
        }
        Ok(configuration)
    }

    /// Reads a text; returns its warnings, too.
    ///
    /// # Errors
    /// Returns every fault of the text.
    pub(crate) fn read(file: &str, text: &str, folder: &Path) -> Result<(Configuration, Faults), Faults> {
        let (document, mut root) = Document::parse(file, text)?;
        let configuration = Configuration {
            state: root.path("state", folder),
            listen: read_address(&mut root, "listen"),
            plain: root.flag("plain").unwrap_or_default(),
            crontabs: read_paths(&mut root, "crontabs", folder),
            system: root.flag("system").unwrap_or_default(),
            jobs: read_paths(&mut root, "jobs", folder),
            sinks: root.path("sinks", folder),
            rules: read_paths(&mut root, "rules", folder),
            runner: root.section("runner").map(|section| read_runner(section, folder)).unwrap_or_default(),
            history: root.section("history").map(read_history).unwrap_or_default(),
            channels: read_channels(&mut root, folder),
            mail: root.section("mail").map(read_mail).unwrap_or_default(),
            links: root.map("links").unwrap_or_default(),
            aws: root.section("aws").map(read_aws),
        };
        root.reject_unknown_keys();
        let faults = document.faults();
        if faults.has_faults() { Err(faults) } else { Ok((configuration, faults)) }
    }
}

fn read_runner(mut section: Section, folder: &Path) -> RunnerSection {
    let modes = [("serial", Mode::Serial), ("resources", Mode::Resources), ("free", Mode::Free)];
    let on_shutdown = [("leave", OnShutdown::Leave), ("drain", OnShutdown::Drain), ("stop", OnShutdown::Stop)];
    let runner = RunnerSection {
        name: section.text("name"),
        mode: section.choice("mode", &modes).unwrap_or_default(),
        groups: section.texts("groups").unwrap_or_default(),
        pass_env: section.texts("pass_env").unwrap_or_default(),
        policy: section.path("policy", folder),
        retention: section.duration("retention"),
        spool_max: section.size("spool_max"),
        on_shutdown: section.choice("on_shutdown", &on_shutdown),
    };
    section.reject_unknown_keys();
    runner
}

/// Absent keys are resolved like in the AWS SDKs: environment, profile, role of the machine.
fn read_aws(mut section: Section) -> aws::Options {
    let mut options = aws::Options::default();
    if let Some((line, prefix)) = section.text_at("prefix") {
        options.prefix.clone_from(&prefix);
        if let Err(error) = options.names() {
            section.fault(line, prefix, error.to_string());
        }
    }
    options.region = section.text("region");
    options.profile = section.text("profile");
    if let Some((line, endpoint)) = section.text_at("endpoint") {
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            section.fault(line, &*endpoint, "not an endpoint; write https://HOST");
        }
        options.endpoint = Some(endpoint);
    }
    options.role_arn = section.text("role_arn");
    if let Some((line, id)) = section.text_at("external_id") {
        if options.role_arn.is_none() {
            section.fault(line, &*id, "`external_id` requires `role_arn`; add it");
        }
        options.external_id = Some(id);
    }
    section.reject_unknown_keys();
    options
}

fn read_history(mut section: Section) -> HistorySection {
    let runs = section.integer("runs_per_job", 1..=100_000_000);
    let history = HistorySection {
        keep: section.duration("keep"),
        runs_per_job: runs.map(|runs| usize::try_from(runs).unwrap_or(usize::MAX)),
    };
    section.reject_unknown_keys();
    history
}

fn read_mail(mut section: Section) -> MailSection {
    let mail = MailSection { channel: section.text("channel"), owner: section.flag("owner").unwrap_or_default() };
    section.reject_unknown_keys();
    mail
}

fn read_channels(root: &mut Section, folder: &Path) -> Vec<Channel> {
    let sections = root.named_sections("channel");
    sections
        .into_iter()
        .filter_map(|(name, section)| Some(Channel { name, options: channels::read_options(section, folder)? }))
        .collect()
}

fn read_paths(section: &mut Section, key: &'static str, folder: &Path) -> Vec<PathBuf> {
    section.texts(key).unwrap_or_default().into_iter().map(|text| folder.join(text)).collect()
}

fn read_address(section: &mut Section, key: &'static str) -> Option<SocketAddr> {
    let (line, text) = section.text_at(key)?;
    text.parse()
        .map_err(|_| {
            section.fault(line, text, format!("`{key}` is not an address; write IP:PORT, like 127.0.0.1:7077"))
        })
        .ok()
}

/// Reads a text file that decides what Sexton does. As root, only one that no other user can write.
///
/// # Errors
/// Exit 2 if it cannot be read, is refused, is neither a regular file nor an inherited pipe (`<(...)`), is too long, or
/// is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    let read = if source_path::is_descriptor(path) { read_file_or_pipe(path) } else { read_file(path) };
    let text = read.map_err(|unreadable| unreadable.message).and_then(to_checked_text);
    text.map_err(|why| Failure::usage(Fault::new(&path.display().to_string(), 0, "", why).to_string()))
}

/// Reads the policy of this machine. Prints its warnings.
///
/// # Errors
/// Returns every fault of the file.
pub(crate) fn load_policy(path: &Path) -> Result<PolicyFile, Failure> {
    let (policy, faults) = PolicyFile::parse(&path.display().to_string(), &read_text(path)?)?;
    for warning in &faults.0 {
        print_error_line(&warning.to_string());
    }
    Ok(policy)
}

/// Reads the rule packs of these files and directories (their `*.toml`, by name), in addition to the built-in packs.
///
/// # Errors
/// Returns every fault of every file.
pub(crate) fn load_packs(paths: &[PathBuf]) -> Result<Packs, Failure> {
    let mut packs = Packs::builtin();
    let mut faults = Vec::new();
    for path in pack_files(paths)? {
        let text = read_text(&path)?;
        if let Err(found) = packs.add(&path.display().to_string(), &text) {
            faults.extend(found.0);
        }
    }
    for warning in &packs.warnings().0 {
        print_error_line(&warning.to_string());
    }
    empty_pack_directories(paths).iter().for_each(|warning| print_error_line(warning));
    if faults.is_empty() { Ok(packs) } else { Err(Faults(faults).into()) }
}

/// A warning for each directory without a pack.
pub(crate) fn empty_pack_directories(paths: &[PathBuf]) -> Vec<String> {
    let is_empty =
        |path: &&PathBuf| path.is_dir() && pack_files(&[path.to_path_buf()]).is_ok_and(|files| files.is_empty());
    let warning = |path: &PathBuf| {
        format!("{}: warning: this directory has no rule pack; the name of a pack ends in .toml", path.display())
    };
    paths.iter().filter(is_empty).map(warning).collect()
}

/// The files of `--rules`: a directory is replaced by all packs in it.
///
/// # Errors
/// Exit 2 if a directory cannot be read.
pub(crate) fn pack_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let unreadable = |why| Failure::usage(format!("{}: cannot be read: {why}", path.display()));
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(unreadable)?;
        let mut inside: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
        inside.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_texts(text: &str) -> Vec<String> {
        match Configuration::read("sexton.toml", text, Path::new("/etc/sexton")) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.0.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic() {
        testbed::try_inputs("configuration", |input| {
            let text = String::from_utf8_lossy(input);
            match Configuration::read("sexton.toml", &text, Path::new("/etc/sexton")) {
                Ok((_, faults)) => drop(faults.to_string()),
                Err(faults) => assert!(!faults.to_string().is_empty()),
            }
        });
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let text = "state = \"state\"\nsinks = \"/other/sinks.toml\"\ncrontabs = [\"tab\"]\n";
        let (read, _) = Configuration::read("sexton.toml", text, Path::new("/etc/sexton")).expect("read");
        assert_eq!(read.state, Some("/etc/sexton/state".into()));
        assert_eq!(read.sinks, Some("/other/sinks.toml".into()));
        assert_eq!(read.crontabs, [PathBuf::from("/etc/sexton/tab")]);
    }

    #[test]
    fn every_channel_is_read_and_its_secrets_are_not_printed() {
        let text = r#"
[channel.hook]
type = "webhook"
url = "https://example.org/very-secret"
headers = { X-Key = "very-secret" }
secret = "very-secret"
[channel.chat]
type = "slack"
url = "https://hooks.slack.com/services/very-secret"
[channel.mail]
type = "smtp"
address = "smtp.example.org"
user = "sexton"
password = "very-secret"
from = "Sexton <sexton@example.org>"
to = ["night@example.org"]
[channel.pager]
type = "command"
argv = ["/usr/local/bin/page", "--now"]
"#;
        let (read, faults) = Configuration::read("sexton.toml", text, Path::new("/etc/sexton")).expect("read");
        let names: Vec<&str> = read.channels.iter().map(|channel| channel.name.as_str()).collect();
        assert_eq!((names, faults.to_string().as_str()), (vec!["hook", "chat", "mail", "pager"], ""));
        assert!(!format!("{read:?}").contains("very-secret"), "{read:?}");
    }

    #[test]
    fn all_faults_of_all_channels_are_reported_together() {
        let text = "[channel.a]\nurl = \"x\"\n[channel.b]\ntype = \"smtp\"\nuser = \"u\"\nfrom = \"night\"\n\
                    [channel.c]\ntype = \"command\"\n[channel.d]\ntype = \"slack\"\nurl = \"env:NO_SUCH_VARIABLE\"\n";
        let faults = fault_texts(text).join("\n");
        for part in [
            "sexton.toml:1: `type` is missing",
            "`address` is missing",
            "`night`: `from` is not a mail address",
            "`to` names no recipient",
            "`user` and `password` belong together",
            "either command = ",
            "`url`: the variable NO_SUCH_VARIABLE is not set",
        ] {
            assert!(faults.contains(part), "{part}: {faults}");
        }
    }

    #[test]
    fn every_fault_has_its_line_and_the_nearest_name() {
        let text = "listen = \"here\"\ncrontab = []\n[runner]\nmode = \"serail\"\n[channel.a]\ntype = \"slak\"\n";
        assert_eq!(
            fault_texts(text),
            [
                "sexton.toml:1: `here`: `listen` is not an address; write IP:PORT, like 127.0.0.1:7077",
                "sexton.toml:2: `crontab`: unknown key; did you mean `crontabs`?",
                "sexton.toml:4: `serail`: not a `mode`; write one of serial, resources, free; did you mean `serial`?",
                "sexton.toml:6: `slak`: not a `type`; write one of webhook, slack, smtp, command; did you mean `slack`?",
            ]
        );
    }
}
