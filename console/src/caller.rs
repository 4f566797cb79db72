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

/// The header in which a command names the user of its machine. Only a holder of the token can send it.
pub const USER_HEADER: &str = "sexton-user";

/// Characters of a user's name. Chosen: Linux allows 32.
const USER_CHARS_MAX: usize = 64;

/// The sender of a request that changes something.
#[derive(Debug)]
pub(crate) struct Caller {
    address: Option<IpAddr>,
    user: Option<String>,
}

impl Caller {
    /// Logs a change: what was changed, who requested it, and from which address.
    pub(crate) fn log(&self, change: std::fmt::Arguments<'_>) {
        let by = self.user.as_deref().unwrap_or(OWNER);
        match self.address {
            Some(address) => tracing::info!(by, from = %address, "{change}"),
            None => tracing::info!(by, "{change}"),
        }
    }

    /// For records of who did something: `user:NAME` where the command named its user.
    pub(crate) fn by(&self) -> String {
        self.user.clone().unwrap_or_else(|| OWNER.to_owned())
    }

    /// For the `reason` of a run.
    pub(crate) fn text(&self) -> String {
        let by = self.by();
        match self.address {
            Some(address) => format!("{by} from {address}"),
            None => by,
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Infallible> {
        let is_legal = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '@' | '$');
        let named = parts.headers.get(USER_HEADER).and_then(|name| name.to_str().ok());
        let user = named.filter(|name| !name.is_empty() && name.len() <= USER_CHARS_MAX && name.chars().all(is_legal));
        Ok(Caller {
            address: parts.extensions.get::<Peer>().map(Peer::address),
            user: user.map(|name| format!("user:{name}")),
        })
    }
}
