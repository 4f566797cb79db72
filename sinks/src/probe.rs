//! Probes whether a sink accepts connections; sends nothing. Called repeatedly by the runner for sinks with `required =
//! true`, so the receiver sees only connections that end at once.

use std::time::Duration;

use tokio::net::{UnixDatagram, UnixStream, lookup_host};
use tokio::time::timeout;

use crate::address::{Address, Scheme};
use crate::config::{SinkConfig, SinkKind};
use crate::error::SinkError;
use crate::file;
use crate::resolver::connect_tcp;

/// A server that accepts no connection in this time is unreachable. Chosen: the same as for a delivery.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the sink's receiver and disconnects. Does not check what follows a connection (a certificate, a token):
/// the engine finds that out when it delivers. Always succeeds for CloudWatch Logs, which has no lasting connection.
///
/// # Errors
/// One sentence: why nothing can be delivered now.
pub async fn probe(config: &SinkConfig) -> Result<(), String> {
    match &config.kind {
        SinkKind::File(file) => file::check(file).map(drop),
        SinkKind::Stdout(_) | SinkKind::CloudwatchLogs(_) => Ok(()),
        SinkKind::Syslog(syslog) => connect(&syslog.address).await,
        SinkKind::Gelf(gelf) => connect(&gelf.address).await,
    }
}

async fn connect(address: &Address) -> Result<(), String> {
    let connected = timeout(CONNECT_TIMEOUT, async {
        match address.scheme {
            Scheme::Unix => match UnixDatagram::unbound()?.connect(address.socket_path()) {
                Ok(()) => Ok(()),
                Err(_) => UnixStream::connect(address.socket_path()).await.map(drop),
            },
            // Only name resolution can fail: UDP does not show whether a server listens.
            Scheme::Udp => lookup_host(address.host_port()).await.map(drop),
            _ => connect_tcp(&address.host_port()).await.map(drop),
        }
    });
    match connected.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(SinkError::unreachable(address, &error).message),
        Err(_) => Err(format!("{address} accepted no connection within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}
