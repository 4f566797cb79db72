//! Who sent a request: the address of the connection, and the identity behind the token. Changes are logged with both.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::http_server::Connection;

/// The identity behind a valid token. There is one token, so there is one identity.
const OWNER: &str = "owner";

/// The client at the other end of the connection, as an extension of each request. Absent for a request inside the
/// process.
#[derive(Clone, Debug)]
pub struct Peer {
    address: IpAddr,
    connection: Option<Arc<Connection>>,
}

impl Peer {
    /// A client of another server in front of the router.
    pub fn new(address: IpAddr) -> Peer {
        Peer { address, connection: None }
    }

    pub(crate) fn connected(connection: Arc<Connection>) -> Peer {
        Peer { address: connection.address, connection: Some(connection) }
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// The client has presented a valid token.
    pub(crate) fn accept_token(&self) {
        if let Some(connection) = &self.connection {
            connection.accept_token();
        }
    }
}

/// The sender of a request that changes something.
#[derive(Debug)]
pub(crate) struct Caller {
    address: Option<IpAddr>,
}

impl Caller {
    /// Logs a change: what was changed, who requested it, and from which address.
    pub(crate) fn log(&self, change: std::fmt::Arguments<'_>) {
        match self.address {
            Some(address) => tracing::info!(by = OWNER, from = %address, "{change}"),
            None => tracing::info!(by = OWNER, "{change}"),
        }
    }

    /// For the `reason` of a run.
    pub(crate) fn text(&self) -> String {
        self.address.map_or_else(|| OWNER.to_owned(), |address| format!("{OWNER} from {address}"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Infallible> {
        Ok(Caller { address: parts.extensions.get::<Peer>().map(Peer::address) })
    }
}
