//! Every promise of the ports.

use contract::Backend;
use embedded::Embedded;

async fn embedded() -> Backend {
    let directory = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(&directory.path().join("sexton.db")).unwrap();
    Backend { ports: embedded.ports(), keep: Box::new((embedded, directory)) }
}

contract::suite!(embedded);
