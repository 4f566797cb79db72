//! Chooses free ports of 127.0.0.1, and finds out which process listens on a port. Called by every `start`.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::path::PathBuf;

/// Below Linux's ephemeral ports (`ip_local_port_range` starts at 32,768): no outgoing connection takes such a port
/// while its server is down, and a client that retries to connect cannot connect to itself (TCP simultaneous open).
const PORTS: Range<u16> = 10_240..32_768;

/// The addresses of a server; `None` for each transport that it does not offer. It is ready when it listens on all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Addresses {
    pub udp: Option<SocketAddr>,
    pub tcp: Option<SocketAddr>,
    pub tls: Option<SocketAddr>,
    pub unix: Option<PathBuf>,
}

/// The process that listens on an address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The expected process.
    Process,
    /// Another process took the port.
    Other,
    /// No process listens yet.
    NoProcess,
}

/// An address of 127.0.0.1 whose port was free for TCP and UDP a moment ago. In rare cases another test takes the port
/// before the caller binds it.
pub fn free_port() -> SocketAddr {
    loop {
        let random = RandomState::new().build_hasher().finish();
        let port = PORTS.start + (random % u64::from(PORTS.end - PORTS.start)) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

impl Addresses {
    /// The owner of each listener, seen from process `pid`. Reads the kernel's tables instead of connecting: a
    /// connection appears in the server's log, and another process on the same port may answer it.
    pub(crate) fn owners(&self, pid: u32) -> io::Result<Vec<Owner>> {
        let mut owners = Vec::new();
        for address in [self.tcp, self.tls].into_iter().flatten() {
            owners.push(owner(pid, "/proc/net/tcp", address, "0A")?);
        }
        if let Some(address) = self.udp {
            owners.push(owner(pid, "/proc/net/udp", address, "07")?);
        }
        if let Some(path) = &self.unix {
            owners.push(if path.exists() { Owner::Process } else { Owner::NoProcess });
        }
        Ok(owners)
    }
}

fn owner(pid: u32, table: &str, address: SocketAddr, state: &str) -> io::Result<Owner> {
    // Table first: a socket of this process that is in the table is certain to be among its descriptors afterwards.
    let Some(inode) = socket_inode(table, address, state)? else { return Ok(Owner::NoProcess) };
    Ok(if sockets_of(pid)?.contains(&format!("socket:[{inode}]")) { Owner::Process } else { Owner::Other })
}

/// The inode of the socket that is bound to `address` and in `state` (proc_net_tcp, kernel documentation: field 1 is
/// the local address in hexadecimal, field 3 the state, field 9 the inode).
fn socket_inode(table: &str, address: SocketAddr, state: &str) -> io::Result<Option<String>> {
    let local = format!("0100007F:{:04X}", address.port());
    Ok(fs::read_to_string(table)?.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let listens_there = fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&state);
        fields.get(9).filter(|_| listens_there).map(|inode| (*inode).to_owned())
    }))
}

fn sockets_of(pid: u32) -> io::Result<HashSet<String>> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?;
    Ok(descriptors
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect())
}
