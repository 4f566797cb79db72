//! HAProxy, a load balancer in front of log servers. Called by the tests of sinks: no plain listener ends connections
//! as it does, after retries of its own and without having passed on a byte.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::installation::{Certificates, certificates, installed};
use crate::listeners::{Addresses, free_port};
use crate::process::{Process, Program};

/// The socket for commands, below the temporary folder.
const ADMIN: &str = "admin";

/// A running HAProxy. It has one backend `logs` with the servers `s0`, `s1`, ...; all but the first are backups.
#[derive(Debug)]
pub struct Haproxy {
    process: Process,
}

impl Haproxy {
    /// Starts HAProxy in front of `servers`; `None` when it is not available here. `defaults` are lines of the section
    /// of that name, `server_options` follow each server's address.
    #[track_caller]
    pub fn start(servers: &[SocketAddr], defaults: &str, server_options: &str) -> Option<Haproxy> {
        let path = installed("haproxy", "bin/haproxy")?;
        let certificates = certificates()?;
        let process = Process::start(|folder| {
            let addresses = Addresses { tcp: Some(free_port()), tls: Some(free_port()), ..Addresses::default() };
            write_certificate(folder, &certificates);
            let file = folder.join("configuration");
            let configuration = configuration(folder, &addresses, servers, defaults, server_options);
            fs::write(&file, configuration).expect("the temporary folder is writable");
            let arguments = ["-db", "-f", &file.display().to_string()].map(str::to_owned).to_vec();
            Program { path: path.clone(), arguments, addresses }
        });
        Some(Haproxy { process })
    }

    /// Where it accepts plain TCP connections.
    pub fn tcp(&self) -> SocketAddr {
        self.process.addresses().tcp.expect("chosen at the start")
    }

    /// Where it accepts TLS connections, with `certificates().server`.
    pub fn tls(&self) -> SocketAddr {
        self.process.addresses().tls.expect("chosen at the start")
    }

    /// Runs a command of its admin socket, such as `set server logs/s0 state maint`, and returns its output.
    #[track_caller]
    pub fn command(&self, text: &str) -> String {
        let run = || {
            let mut socket = UnixStream::connect(self.process.folder().join(ADMIN))?;
            writeln!(socket, "{text}")?;
            socket.shutdown(Shutdown::Write)?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer)?;
            Ok::<String, std::io::Error>(answer)
        };
        run().unwrap_or_else(|error| panic!("HAProxy runs no `{text}`: {error}"))
    }
}

/// HAProxy reads certificate and key from one file.
fn write_certificate(folder: &Path, certificates: &Certificates) {
    let read = |path| fs::read(path).expect("a test certificate");
    let both = [read(&certificates.server), read(&certificates.server_key)].concat();
    fs::write(folder.join("server.pem"), both).expect("the temporary folder is writable");
}

fn configuration(
    folder: &Path,
    addresses: &Addresses,
    servers: &[SocketAddr],
    defaults: &str,
    server_options: &str,
) -> String {
    let server = |(index, address): (usize, &SocketAddr)| {
        let backup = if index == 0 { "" } else { " backup" };
        format!("  server s{index} {address} {server_options}{backup}\n")
    };
    let servers: String = servers.iter().enumerate().map(server).collect();
    let address = |address: Option<SocketAddr>| address.map(|address| address.to_string()).unwrap_or_default();
    format!(
        r#"global
  stats socket {folder}/{ADMIN} level admin
defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
{defaults}
frontend plain
  bind {tcp}
  default_backend logs
frontend encrypted
  bind {tls} ssl crt {folder}/server.pem
  default_backend logs
backend logs
{servers}"#,
        folder = folder.display(),
        tcp = address(addresses.tcp),
        tls = address(addresses.tls),
    )
}
