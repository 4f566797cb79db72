//! The suite of all backends, and the scenarios of the services over them.

use contract::Backend;

use crate::emulator::Installation;

async fn on_aws() -> Option<Backend> {
    let installation = Installation::start(&["db", "web", "other"]).await?;
    Some(Backend { ports: installation.aws.ports.clone(), keep: Box::new(installation) })
}

contract::suite!(on_aws);
contract::scenarios!(on_aws);
