//! Whether a sink would take a connection now, without sending it anything: for runs that must not start while a required
//! sink cannot be reached. Called again and again, so it leaves no trace in anybody's logs but the connection.

use std::time::Duration;

use tokio::net::{TcpStream, UnixDatagram, UnixStream, lookup_host};
use tokio::time::timeout;

use crate::address::{Address, Scheme};
use crate::config::{SinkConfig, SinkKind};
use crate::file;

/// A server that does not take the connection for so long cannot be reached. Ours; as long as a delivery waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Says nothing of what happens behind the connection (a certificate, a token): the engine finds that out by delivering.
/// CloudWatch Logs, which has no connection of its own, is left to the engine altogether.
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
            // Only the name can be wrong; whether anybody listens, nobody can tell.
            Scheme::Udp => lookup_host(address.host_port()).await.map(drop),
            _ => TcpStream::connect(address.host_port()).await.map(drop),
        }
    });
    match connected.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{address}: {}", without_number(&error))),
        Err(_) => Err(format!("{address} did not take a connection within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

fn without_number(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_lowercase()
}
