//! The key that signs the installation's orders: an SSM parameter. It is read when the first order is sent, so that a
//! process without orders needs no permission for it.

use std::fmt;

use domain::ports::{PortError, PortResult};
use tokio::sync::OnceCell;

use crate::options::Options;
use crate::secrets::AwsSecrets;
use crate::signature::Signer;

/// The key that signs orders, read from its parameter at the first use.
pub struct SigningKey {
    secrets: AwsSecrets,
    parameter: String,
    /// None if the installation has no key. Read once per process.
    signer: OnceCell<Option<Signer>>,
}

impl SigningKey {
    /// Calls nothing. `parameter`: name of the SSM parameter.
    pub fn new(options: &Options, parameter: String) -> SigningKey {
        SigningKey { secrets: AwsSecrets::new(options.clone()), parameter, signer: OnceCell::new() }
    }

    /// Returns the signer. Without the parameter there is none: orders are sent unsigned, which is logged once.
    ///
    /// # Errors
    /// Returns one sentence if the parameter cannot be read or holds no key.
    pub async fn signer(&self) -> PortResult<Option<&Signer>> {
        self.signer.get_or_try_init(|| self.read_signer()).await.map(Option::as_ref)
    }

    async fn read_signer(&self) -> PortResult<Option<Signer>> {
        let Some(text) = self.secrets.find_parameter(&self.parameter).await? else {
            tracing::warn!(parameter = self.parameter, "no signing key; orders are sent unsigned");
            return Ok(None);
        };
        let permanent =
            |message: String| PortError::Permanent(format!("the parameter `{}`: {message}", self.parameter));
        Signer::from_pem(&text).map(Some).map_err(permanent)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("parameter", &self.parameter).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use domain::job::{Command, Job, JobKey};
    use domain::order::{FORMAT_VERSION, Order, PublicKey};
    use domain::run::{RunId, Trigger};
    use jiff::Timestamp;
    use testbed::Ministack;

    use crate::options::{AccessKey, Options};
    use crate::orders::OrderSigning;
    use crate::secrets::AwsSecrets;
    use crate::signature::Verifier;

    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
                           MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                           -----END PRIVATE KEY-----\n";

    /// RFC 8032, 7.1, test 1: the public half of [`PRIVATE`].
    const PUBLIC: [u8; 32] = [
        0xD7, 0x5A, 0x98, 0x01, 0x82, 0xB1, 0x0A, 0xB7, 0xD5, 0x4B, 0xFE, 0xD3, 0xC9, 0x64, 0x07, 0x3A, 0x0E, 0xE1,
        0x72, 0xF3, 0xDA, 0xA6, 0x23, 0x25, 0xAF, 0x02, 0x1A, 0x68, 0xF7, 0x07, 0x51, 0x1A,
    ];

    fn order(number: u8) -> Order {
        let now = Timestamp::now();
        Order {
            version: FORMAT_VERSION,
            run_id: RunId::unscheduled(now, [number; 6]),
            attempt: 1,
            nominal: now,
            trigger: Trigger::Manual,
            issued_at: now,
            not_before: None,
            start_by: None,
            job: Job::new(JobKey::new("db", "dump"), "@daily", Command::Shell("true".to_owned())),
        }
    }

    /// A stranger may write to the queue but has no key. It sends an order between two signed ones.
    #[tokio::test]
    async fn a_runner_receives_only_orders_signed_with_the_key_of_its_installation() {
        let Some(server) = Ministack::start() else { return };
        let options = Options {
            region: Some("eu-west-1".to_owned()),
            endpoint: Some(server.endpoint()),
            access_key: Some(AccessKey { id: "200000000002".to_owned(), secret: "secret".to_owned() }),
            ..Options::default()
        };
        let stranger = crate::connect_with_signing(&options, OrderSigning::default()).await.expect("connected");
        crate::install(&stranger, &["db"]).await.expect("installed");
        AwsSecrets::new(options.clone()).put_parameter(&stranger.names.signing_key_parameter(), PRIVATE).await;
        let scheduler = crate::connect(&options).await.expect("connected");
        let verifier = Some(Arc::new(Verifier::new(&[PublicKey(PUBLIC)])));
        let runner = crate::connect_with_signing(&options, OrderSigning { verifier, ..OrderSigning::default() })
            .await
            .expect("connected");
        scheduler.ports.orders.send(&[order(1)]).await.expect("sent");
        stranger.ports.orders.send(&[order(2)]).await.expect("sent");
        scheduler.ports.orders.send(&[order(3)]).await.expect("sent");
        let mut received = Vec::new();
        while received.len() < 2 || runner.refused_orders.count() < 1 {
            let (lease, wait) = (Duration::from_secs(60), Duration::from_secs(5));
            let orders = runner.ports.orders.receive(&["db".to_owned()], 10, lease, wait).await.expect("received");
            received.extend(orders.into_iter().map(|delivery| delivery.message.run_id.to_string()[17..].to_owned()));
        }
        received.sort();
        assert_eq!(received, ["010101010101", "030303030303"]);
        assert_eq!(runner.refused_orders.count(), 1);
    }
}
