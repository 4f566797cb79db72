//! The suite of all backends, and the scenarios of the services over them.

use contract::Backend;
use embedded::Embedded;

async fn embedded() -> Backend {
    let directory = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(&directory.path().join("sexton.db")).unwrap();
    Backend { ports: embedded.ports(), keep: Box::new((embedded, directory)) }
}

contract::suite!(embedded);
contract::scenarios!(embedded);
