//! The table of open connections, and which of them is ended when there are too many. Pure: the server acts.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::ServerLimits;
use super::activity::Activity;

/// A connection is not replaced earlier than this after its start, so that a client that connects while another floods
/// its address has time to present its token. Chosen: far longer than a client needs to send its header.
const REPLACE_AGE_MIN: Duration = Duration::from_millis(50);

/// One open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) address: IpAddr,
    accepted_at: Instant,
    has_token: AtomicBool,
    /// Notified once, when another connection replaces this one.
    pub(super) evicted: Notify,
    pub(super) activity: Arc<Activity>,
}

impl Connection {
    fn new(address: IpAddr, now: Instant) -> Connection {
        Connection {
            address,
            accepted_at: now,
            has_token: AtomicBool::new(false),
            evicted: Notify::new(),
            activity: Arc::new(Activity::new(now)),
        }
    }

    /// The connection has presented a valid token, so the limit of its address no longer counts it.
    pub(crate) fn accept_token(&self) {
        self.has_token.store(true, Ordering::Relaxed);
    }

    fn has_token(&self) -> bool {
        self.has_token.load(Ordering::Relaxed)
    }
}

/// Whether a new connection is served.
pub(super) enum Admission {
    Admitted(Arc<Connection>),
    /// Not before this instant.
    Wait(Instant),
    /// Every other connection has a token and an answer that is not complete.
    Full,
}

pub(super) struct Connections {
    limits: ServerLimits,
    /// Oldest first.
    open: Mutex<Vec<Arc<Connection>>>,
}

impl Connections {
    pub(super) fn new(limits: ServerLimits) -> Connections {
        Connections { limits, open: Mutex::default() }
    }

    pub(super) fn admit(&self, address: IpAddr, now: Instant) -> Admission {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let is_rival = |other: &&Arc<Connection>| other.address == address && !other.has_token();
        let rivals = open.iter().filter(is_rival).count();
        let replaced = if rivals >= self.limits.connections_without_token {
            open.iter().find(is_rival).cloned()
        } else if open.len() >= self.limits.connections {
            let idle = || {
                let idle = open.iter().filter_map(|other| Some((other.activity.idle_since()?, other)));
                idle.min_by_key(|(since, _)| *since).map(|(_, other)| other)
            };
            let Some(found) = open.iter().find(|other| !other.has_token()).or_else(idle) else {
                return Admission::Full;
            };
            Some(found.clone())
        } else {
            None
        };
        if let Some(replaced) = replaced {
            let at = replaced.accepted_at + REPLACE_AGE_MIN;
            if now < at {
                return Admission::Wait(at);
            }
            open.retain(|other| !Arc::ptr_eq(other, &replaced));
            replaced.evicted.notify_one();
        }
        let connection = Arc::new(Connection::new(address, now));
        open.push(connection.clone());
        Admission::Admitted(connection)
    }

    pub(super) fn remove(&self, connection: &Arc<Connection>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| !Arc::ptr_eq(other, connection));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn table(connections: usize, connections_without_token: usize) -> Connections {
        Connections::new(ServerLimits { connections, connections_without_token, ..ServerLimits::default() })
    }

    #[track_caller]
    fn admitted(table: &Connections, address: IpAddr, now: Instant) -> Arc<Connection> {
        match table.admit(address, now) {
            Admission::Admitted(connection) => connection,
            Admission::Wait(_) | Admission::Full => panic!("not admitted"),
        }
    }

    fn is_open(table: &Connections, connection: &Arc<Connection>) -> bool {
        table.open.lock().expect("not poisoned").iter().any(|other| Arc::ptr_eq(other, connection))
    }

    #[test]
    fn the_oldest_connection_without_a_token_of_the_same_address_is_replaced() {
        let (table, start) = (table(10, 2), Instant::now());
        let with_token = admitted(&table, HERE, start);
        with_token.accept_token();
        let (first, second) = (admitted(&table, HERE, start), admitted(&table, HERE, start));
        let elsewhere = admitted(&table, THERE, start);
        assert!(matches!(table.admit(HERE, start), Admission::Wait(at) if at == start + REPLACE_AGE_MIN));
        admitted(&table, HERE, start + REPLACE_AGE_MIN);
        let open = [&with_token, &first, &second, &elsewhere].map(|connection| is_open(&table, connection));
        assert_eq!(open, [true, false, true, true]);
    }

    #[test]
    fn a_full_table_ends_those_without_a_token_first_and_never_an_answer_of_one_with_a_token() {
        let (table, start) = (table(2, 2), Instant::now());
        let (busy, without) = (admitted(&table, HERE, start), admitted(&table, THERE, start));
        busy.accept_token();
        let _answer = busy.activity.start_answer();
        let later = start + REPLACE_AGE_MIN;
        let idle = admitted(&table, HERE, later);
        assert!(!is_open(&table, &without));
        idle.accept_token();
        assert!(matches!(table.admit(HERE, later + REPLACE_AGE_MIN), Admission::Full), "its header is not complete");
        drop(idle.activity.start_answer());
        let newest = admitted(&table, HERE, later + REPLACE_AGE_MIN);
        assert_eq!([&busy, &idle, &newest].map(|connection| is_open(&table, connection)), [true, false, true]);
    }
}
