//! The listen address of `up` and `runner`: the requested one, otherwise the first free port from 7077.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

use crate::failure::Failure;

/// First port that is tried. Chosen: an arbitrary unprivileged port.
const PORT_FIRST: u16 = 7077;
/// Ports that are tried. Chosen: more servers than one machine needs.
const PORTS_TRIED_MAX: u16 = 100;

/// Binds the requested address, otherwise the first free port of 127.0.0.1. Returns also the URL of the server.
///
/// # Errors
/// Fails if the requested address is in use or does not belong to this machine, or if no port is free.
pub(crate) async fn bind(requested: Option<SocketAddr>) -> Result<(TcpListener, String), Failure> {
    let listener = bind_listener(requested).await?;
    let address =
        listener.local_addr().map_err(|why| Failure::failed(format!("cannot read the listen address: {why}")))?;
    let url = format!("http://{}", reachable_address(address));
    Ok((listener, url))
}

async fn bind_listener(requested: Option<SocketAddr>) -> Result<TcpListener, Failure> {
    if let Some(address) = requested {
        let in_use =
            |why| Failure::failed(format!("cannot listen on {address}: {why}; name another address with --listen"));
        return TcpListener::bind(address).await.map_err(in_use);
    }
    for port in PORT_FIRST..PORT_FIRST + PORTS_TRIED_MAX {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(why) if why.kind() == io::ErrorKind::AddrInUse => {}
            Err(why) => return Err(Failure::failed(format!("cannot listen on {address}: {why}"))),
        }
    }
    let last = PORT_FIRST + PORTS_TRIED_MAX - 1;
    Err(Failure::failed(format!("no port from {PORT_FIRST} to {last} is free on 127.0.0.1; name one with --listen")))
}

/// The address that clients connect to: the loopback address for a listener on all interfaces.
fn reachable_address(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), address.port()),
        _ => address,
    }
}

/// Parses IP:PORT; `7077` and `:7077` are ports of 127.0.0.1.
///
/// # Errors
/// Returns the form to write.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    text.parse().map_err(|_| "write IP:PORT, like 127.0.0.1:7077".to_owned())
}
