//! Programs of Debian that do part of the same work, each in its fastest configuration. Unpacked by
//! `benchmarks/setup/install`.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::meter;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    S6Log,
    Multilog,
    Logger,
    Rsyslog,
    SyslogNg,
}

/// The input of a peer.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A complete file.
    File(PathBuf),
    /// A command that prints at its own pace.
    Command(Vec<String>),
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::S6Log => "s6-log",
            Peer::Multilog => "multilog",
            Peer::Logger => "logger",
            Peer::Rsyslog => "rsyslog",
            Peer::SyslogNg => "syslog-ng",
        }
    }

    /// The path of the program; `None` when it is not installed.
    pub(crate) fn program(self) -> Option<PathBuf> {
        let unpacked = testbed::repository().join(".testbed/bin");
        let name = if self == Peer::Rsyslog { "rsyslogd" } else { self.name() };
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::iter::once(unpacked)
            .chain(std::env::split_paths(&path))
            .map(|folder| folder.join(name))
            .find(|p| p.is_file())
    }
}

/// Feeds a file to a peer that writes it into a folder. Returns the CPU seconds and the peak bytes of the peer.
///
/// # Errors
/// When it fails, or does not write all lines.
pub(crate) fn write_to_file(peer: Peer, lines: &Path) -> Result<(f64, u64)> {
    let folder = TempDir::with_prefix("bench-")?;
    let to = folder.path().join("log");
    let arguments: &[&str] = match peer {
        Peer::S6Log => &["T", "n3", "s268435455"],
        Peer::Multilog => &["t", "n3", "s16777215"],
        _ => bail!("{} does not write files", peer.name()),
    };
    let feeder = feed(&Source::File(lines.to_owned()))?;
    let mut peer = Command::new(peer.program().context("a program")?);
    finish(peer.args(arguments).arg(&to), feeder)
}

/// Feeds logger, which sends over TCP and ends with its input. Returns its CPU seconds and peak bytes.
///
/// # Errors
/// When it fails.
pub(crate) fn send_by_logger(source: &Source, to: SocketAddr) -> Result<(f64, u64)> {
    let mut logger = Command::new(Peer::Logger.program().context("a program")?);
    logger.args(["-n", &to.ip().to_string(), "-P", &to.port().to_string()]);
    logger.args(["-T", "--rfc5424", "--octet-count", "-t", "bench", "-S", "65536"]);
    finish(&mut logger, feed(source)?)
}

/// Starts a process that prints the input of a peer.
fn feed(source: &Source) -> Result<Child> {
    let mut command = match source {
        Source::File(path) => {
            let mut command = Command::new("cat");
            command.arg(path);
            command
        }
        Source::Command(argv) => {
            let (program, arguments) = argv.split_first().context("a command")?;
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
    };
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
}

fn finish(peer: &mut Command, mut feeder: Child) -> Result<(f64, u64)> {
    let input = feeder.stdout.take().context("a pipe")?;
    let child = peer.stdin(Stdio::from(input)).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // Closes this process's end of the pipe, so that only the child holds it.
    peer.stdin(Stdio::null());
    let used = meter::wait(&child)?;
    feeder.wait()?;
    Ok(used)
}

/// rsyslogd or syslog-ng, which forwards its input. Killed when it is dropped.
pub(crate) struct Forwarder {
    child: Child,
    emitter: Option<Child>,
    folder: TempDir,
}

impl Forwarder {
    /// Starts it with its input and its receivers. Only the first receiver may block it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(peer: Peer, source: &Source, to: &[SocketAddr]) -> Result<Forwarder> {
        let folder = TempDir::with_prefix("bench-")?;
        let file = folder.path().join("configuration");
        let program = peer.program().context("a program")?;
        let mut command = Command::new(program);
        let mut emitter = None;
        if peer == Peer::Rsyslog {
            let input = match source {
                Source::File(path) => path.clone(),
                Source::Command(_) => folder.path().join("input"),
            };
            if let Source::Command(argv) = source {
                let (program, arguments) = argv.split_first().context("a command")?;
                let out = File::create(&input)?;
                emitter = Some(Command::new(program).args(arguments).stdin(Stdio::null()).stdout(out).spawn()?);
            }
            fs::write(&file, rsyslog(folder.path(), &input, to))?;
            command.args(["-n", "-i", "NONE", "-f"]).arg(&file);
        } else {
            fs::write(&file, syslog_ng(source, to))?;
            command.args(["-F", "--no-caps", "-f"]).arg(&file).args(["-R", "persist", "-p", "pid", "-c", "control"]);
        }
        let output = File::create(folder.path().join("output"))?;
        let child = command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        Ok(Forwarder { child, emitter, folder })
    }

    /// Its CPU seconds and peak bytes so far.
    ///
    /// # Errors
    /// When it has exited.
    pub(crate) fn used(&self) -> Result<(f64, u64)> {
        let used = meter::cpu(self.child.id()).zip(meter::peak_bytes(self.child.id()));
        let (cpu, peak) = used.with_context(|| {
            let output = fs::read_to_string(self.folder.path().join("output")).unwrap_or_default();
            format!("exited: {output}")
        })?;
        Ok((cpu.own, peak))
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        for child in [Some(&mut self.child), self.emitter.as_mut()].into_iter().flatten() {
            let _killed = child.kill();
            let _waited = child.wait();
        }
    }
}

/// Follows a file, because Debian's build cannot read a pipe. A second receiver has a queue on disk, like Sexton's
/// spool.
fn rsyslog(folder: &Path, input: &Path, to: &[SocketAddr]) -> String {
    let mut text = format!(
        r#"global(workDirectory="{folder}" maxMessageSize="64k" net.enableDNS="off")
module(load="imfile" mode="inotify")
main_queue(queue.type="FixedArray" queue.size="100000" queue.dequeueBatchSize="2048" queue.workerThreads="1")
input(type="imfile" file="{input}" tag="bench" maxSubmitAtOnce="1024")
"#,
        folder = folder.display(),
        input = input.display(),
    );
    for (number, address) in to.iter().enumerate() {
        let on_disk = match number {
            0 => String::new(),
            _ => format!("queue.filename=\"queue{number}\" queue.maxDiskSpace=\"4g\""),
        };
        text += &format!(
            r#"action(type="omfwd" target="{}" port="{}" protocol="tcp" TCP_Framing="octet-counted"
  template="RSYSLOG_SyslogProtocol23Format" action.resumeRetryCount="-1" action.resumeInterval="1"
  queue.type="FixedArray" queue.size="100000" queue.dequeueBatchSize="2048" {on_disk})
"#,
            address.ip(),
            address.port()
        );
    }
    text
}

/// Reads the output of a program. syslog-ng restarts a program that has ended, so the program runs until syslog-ng has
/// exited. Only the first receiver may block the flow; lines of a second receiver beyond its queue in memory are
/// dropped.
fn syslog_ng(source: &Source, to: &[SocketAddr]) -> String {
    let command = match source {
        Source::File(path) => format!("cat {}", path.display()),
        Source::Command(argv) => argv.join(" "),
    };
    let mut text = format!(
        "@version: 3.38\noptions {{ use-dns(no); dns-cache(no); keep-hostname(yes); stats-freq(0); threaded(yes); time-reopen(1); }};\n\
         source s {{ program(\"{command}; exec tail -f --pid=$PPID /dev/null\" flags(no-parse) log-iw-size(100000) log-fetch-limit(1000)); }};\n",
    );
    for (number, address) in to.iter().enumerate() {
        let flags = if number == 0 { "flags(flow-control); " } else { "" };
        text += &format!(
            "destination d{number} {{ syslog(\"{}\" port({}) transport(\"tcp\") flush-lines(1000) log-fifo-size(200000)); }};\n\
             log {{ source(s); destination(d{number}); {flags}}};\n",
            address.ip(),
            address.port()
        );
    }
    text
}
