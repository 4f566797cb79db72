//! The listen address of `up` and `runner`: the requested one, otherwise the first free port from 7077.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

use console::ServerLimits;

use crate::failure::Failure;

/// First port that is tried. Chosen: an arbitrary unprivileged port.
const PORT_FIRST: u16 = 7077;
/// Ports that are tried. Chosen: more servers than one machine needs.
const PORTS_TRIED_MAX: u16 = 100;

/// Refuses a listen address beyond loopback, because requests and answers, the token included, are not encrypted.
///
/// # Errors
/// Exit 2, unless `plain`.
pub(crate) fn check_exposure(requested: Option<SocketAddr>, plain: bool) -> Result<(), Failure> {
    match requested {
        Some(address) if !plain && !address.ip().to_canonical().is_loopback() => Err(Failure::usage(format!(
            "listening on {address} is refused: other machines could reach it, and the API is not encrypted; listen on \
             127.0.0.1, or write `plain = true` (or --plain) where a proxy on this network encrypts"
        ))),
        _ => Ok(()),
    }
}

/// The limits of the API's server, by the descriptors of this process.
pub(crate) fn server_limits() -> ServerLimits {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    ServerLimits::for_descriptors(descriptors.unwrap_or(u64::MAX))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_served_without_plain() {
        for (address, is_loopback) in [
            ("127.0.0.1:7077", true),
            ("127.9.9.9:0", true),
            ("[::1]:7077", true),
            ("[::ffff:127.0.0.1]:7077", true),
            ("0.0.0.0:7077", false),
            ("[::]:7077", false),
            ("[::ffff:0.0.0.0]:7077", false),
            ("192.168.1.2:7077", false),
            ("[fe80::1]:7077", false),
        ] {
            let address = parse_address(address).expect("an address");
            assert_eq!(check_exposure(Some(address), false).is_ok(), is_loopback, "{address}");
            assert!(check_exposure(Some(address), true).is_ok(), "{address}");
        }
        assert!(check_exposure(None, false).is_ok());
    }
}
