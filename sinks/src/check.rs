//! Really reaches a sink, for `sexton check`. Sends no record.

use crate::address::{Address, Scheme};
use crate::cloudwatch_logs::NOT_IN_THIS_BUILD;
use crate::config::{SinkConfig, SinkKind};
use crate::datagram::DatagramWire;
use crate::file;
use crate::gelf::GelfConfig;
use crate::http::HttpWire;
use crate::stream::StreamWire;
use crate::syslog::SyslogConfig;
use crate::tls::TlsConfig;

/// One sentence each way: what was reached, or what is wrong.
///
/// # Errors
/// When the sink cannot be reached or is not in this build.
pub async fn check(config: &SinkConfig) -> Result<String, String> {
    match &config.kind {
        SinkKind::File(file) => file::check(file),
        SinkKind::Stdout(_) => Ok("standard output".to_owned()),
        SinkKind::Syslog(SyslogConfig { address, tls, .. }) => reach(address, tls).await,
        SinkKind::Gelf(GelfConfig { address, tls, compression, bulk, .. }) => match address.scheme {
            Scheme::Http | Scheme::Https => {
                let mut wire = HttpWire::new(address.clone(), *compression, *bulk, tls.clone());
                let status = wire.reach().await.map_err(|error| error.says)?;
                Ok(format!("{address} answers ({status})"))
            }
            _ => reach(address, tls).await,
        },
        SinkKind::CloudwatchLogs(_) => Err(NOT_IN_THIS_BUILD.to_owned()),
    }
}

async fn reach(address: &Address, tls: &TlsConfig) -> Result<String, String> {
    match address.scheme {
        Scheme::Udp => {
            let reached = DatagramWire::new(address.clone()).connect().await;
            reached.map_err(|error| format!("cannot reach {address}: {error}"))?;
            Ok(format!("{address} can be sent to; whether anybody listens there, udp cannot tell"))
        }
        Scheme::Unix => {
            if DatagramWire::new(address.clone()).connect().await.is_err() {
                StreamWire::new(address.clone(), tls.clone()).connect().await.map_err(|error| error.says)?;
            }
            Ok(format!("{address} is open"))
        }
        _ => {
            StreamWire::new(address.clone(), tls.clone()).connect().await.map_err(|error| error.says)?;
            Ok(format!("connected to {address}"))
        }
    }
}
