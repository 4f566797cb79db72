//! Every promise of the ports.

use contract::Backend;

use crate::emulator::Installation;

async fn on_aws() -> Option<Backend> {
    let installation = Installation::start(&["db", "web", "other"]).await?;
    Some(Backend { ports: installation.aws.ports.clone(), keep: Box::new(installation) })
}

contract::suite!(on_aws);
contract::scenarios!(on_aws);
