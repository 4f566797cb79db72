//! Other programs that do part of the same work, from Debian, each set up the way it is fastest. Where they are found is
//! said in `benchmarks/setup/install`.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::meter;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    S6Log,
    Multilog,
    Logger,
    Rsyslog,
    SyslogNg,
}

/// Where a peer's input comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file that is there.
    File(PathBuf),
    /// A command that prints at its own pace.
    Command(Vec<String>),
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::S6Log => "s6-log",
            Peer::Multilog => "multilog",
            Peer::Logger => "logger",
            Peer::Rsyslog => "rsyslog",
            Peer::SyslogNg => "syslog-ng",
        }
    }

    /// The program, unless this machine has not got it.
    pub fn program(self) -> Option<PathBuf> {
        let unpacked = testbed::repository().join(".testbed/bin");
        let name = if self == Peer::Rsyslog { "rsyslogd" } else { self.name() };
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::iter::once(unpacked)
            .chain(std::env::split_paths(&path))
            .map(|folder| folder.join(name))
            .find(|p| p.is_file())
    }
}

/// Feeds a file through a peer that writes it into a folder; its CPU seconds and peak bytes.
///
/// # Errors
/// When it fails, or does not write all lines.
pub fn write_to_file(peer: Peer, lines: &Path) -> Result<(f64, u64)> {
    let folder = TempDir::with_prefix("bench-")?;
    let to = folder.path().join("log");
    let arguments: &[&str] = match peer {
        Peer::S6Log => &["T", "n3", "s268435455"],
        Peer::Multilog => &["t", "n3", "s16777215"],
        _ => bail!("{} is not measured here", peer.name()),
    };
    let feeder = feed(&Source::File(lines.to_owned()))?;
    let mut peer = Command::new(peer.program().context("a program")?);
    finish(peer.args(arguments).arg(&to), feeder)
}

/// Feeds logger, which sends over TCP and ends with its input; its CPU seconds and peak bytes.
///
/// # Errors
/// When it fails.
pub fn send_by_logger(source: &Source, to: SocketAddr) -> Result<(f64, u64)> {
    let mut logger = Command::new(Peer::Logger.program().context("a program")?);
    logger.args(["-n", &to.ip().to_string(), "-P", &to.port().to_string()]);
    logger.args(["-T", "--rfc5424", "--octet-count", "-t", "bench", "-S", "65536"]);
    finish(&mut logger, feed(source)?)
}

/// A process that prints what a peer reads.
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
    // The pipe's other end is the child's alone, so that it ends with its input.
    peer.stdin(Stdio::null());
    let used = meter::wait(&child)?;
    feeder.wait()?;
    Ok(used)
}

/// rsyslogd or syslog-ng, forwarding. It is killed when this is dropped.
pub struct Forwarder {
    child: Child,
    emitter: Option<Child>,
    folder: TempDir,
}

impl Forwarder {
    /// Starts it with its input and where it forwards to, at first to one receiver, then to others that must not
    /// hold that one up.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(peer: Peer, source: &Source, to: &[SocketAddr]) -> Result<Forwarder> {
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
        let said = File::create(folder.path().join("said"))?;
        let child =
            command.current_dir(folder.path()).stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said).spawn()?;
        Ok(Forwarder { child, emitter, folder })
    }

    /// Its own CPU seconds and peak bytes so far.
    ///
    /// # Errors
    /// When it is gone.
    pub fn used(&self) -> Result<(f64, u64)> {
        let used = meter::cpu(self.child.id()).zip(meter::peak_bytes(self.child.id()));
        let (cpu, peak) = used.with_context(|| {
            let said = fs::read_to_string(self.folder.path().join("said")).unwrap_or_default();
            format!("it has ended: {said}")
        })?;
        Ok((cpu.own, peak))
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        for child in [Some(&mut self.child), self.emitter.as_mut()].into_iter().flatten() {
            let _gone = child.kill();
            let _waited = child.wait();
        }
    }
}

/// Debian's build reads no pipe, so it follows a file. A second receiver has a queue on disk, as our spool is.
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

/// Reads a program's output. It starts a program that has ended again; so this one stays
/// until syslog-ng is gone. Only the first receiver may hold the flow up; what a second one is behind, beyond its
/// queue in memory, is dropped.
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
