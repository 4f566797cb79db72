//! The key that signs the installation's orders: an SSM parameter. It is read when an order is sent, so that a process
//! without orders needs no permission for it, and read again every two minutes, so that a changed key is used without a
//! new deployment.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::ports::{PortError, PortResult};
use tokio::sync::Mutex;

use crate::options::Options;
use crate::secrets::AwsSecrets;
use crate::signature::Signer;

/// After this time a key is read again. Chosen: a changed key is used within five minutes by every process.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(120);

/// The same while there is no usable key. Chosen: the ticks of a minute share a few reads.
const READ_AGAIN_WITHOUT_KEY: Duration = Duration::from_secs(10);

/// How long a key is used while it cannot be read again.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(240);

/// What signs orders now.
#[derive(Clone, Debug)]
pub enum KeyState {
    /// Orders are signed with this key.
    Present(Arc<Signer>),
    /// The parameter does not exist.
    Absent,
    /// An operator must act: the parameter may not be read, or holds no key. One sentence with the remedy.
    Unusable(String),
}

/// The key that signs orders, read from its parameter at the first use.
pub struct SigningKey {
    secrets: AwsSecrets,
    parameter: String,
    read_again_after: Duration,
    known: Mutex<Option<(KeyState, Instant)>>,
}

impl SigningKey {
    /// Calls nothing. `parameter`: name of the SSM parameter.
    pub fn new(options: &Options, parameter: String) -> SigningKey {
        let secrets = AwsSecrets::new(options.clone());
        SigningKey { secrets, parameter, read_again_after: READ_AGAIN_AFTER, known: Mutex::default() }
    }

    /// The client that reads the parameter.
    pub(crate) fn secrets(&self) -> &AwsSecrets {
        &self.secrets
    }

    /// Name of the SSM parameter.
    pub fn parameter(&self) -> &str {
        &self.parameter
    }

    /// Returns the key. It is read again after two minutes; while that fails, the last one is used for two more.
    ///
    /// # Errors
    /// Returns `Retry` if the parameter cannot be read now.
    pub async fn state(&self) -> PortResult<KeyState> {
        let mut known = self.known.lock().await;
        if let Some((state, read_at)) = &*known {
            let is_present = matches!(state, KeyState::Present(_));
            let fresh_for = if is_present { self.read_again_after } else { READ_AGAIN_WITHOUT_KEY };
            if read_at.elapsed() < fresh_for.min(self.read_again_after) {
                return Ok(state.clone());
            }
        }
        match self.read().await {
            Ok(state) => {
                *known = Some((state.clone(), Instant::now()));
                Ok(state)
            }
            Err(error) => match &*known {
                Some((state @ KeyState::Present(_), read_at)) if read_at.elapsed() < UNCONFIRMED_MAX => {
                    tracing::warn!(%error, "the signing key cannot be read again; using the last one");
                    Ok(state.clone())
                }
                _ => Err(error),
            },
        }
    }

    async fn read(&self) -> PortResult<KeyState> {
        let text = match self.secrets.find_parameter(&self.parameter).await {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(KeyState::Absent),
            Err(PortError::Permanent(reason)) => {
                return Ok(KeyState::Unusable(format!("no order can be signed: {reason}")));
            }
            Err(error) => return Err(error),
        };
        Ok(match Signer::from_pem(&text) {
            Ok(signer) => KeyState::Present(Arc::new(signer)),
            Err(reason) => KeyState::Unusable(format!("the parameter `{}`: {reason}", self.parameter)),
        })
    }
}

/// Why no order is sent by an installation without a key. One sentence with the remedy.
pub(crate) fn absent_reason(parameter: &str) -> String {
    format!(
        "orders are not sent, because there is no key to sign them: the parameter `{parameter}` does not exist; make it \
         with `sexton keys rotate`, or deploy the installation with Unsigned=yes"
    )
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("parameter", &self.parameter).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use domain::job::{Command, Job, JobKey};
    use domain::order::{FORMAT_VERSION, Order, PublicKey};
    use domain::run::{RunId, Trigger};
    use jiff::Timestamp;
    use testbed::Ministack;

    use super::*;
    use crate::options::AccessKey;
    use crate::orders::OrderSigning;
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

    fn options(server: &Ministack, account: &str) -> Options {
        Options {
            region: Some("eu-west-1".to_owned()),
            endpoint: Some(server.endpoint()),
            access_key: Some(AccessKey { id: account.to_owned(), secret: "secret".to_owned() }),
            ..Options::default()
        }
    }

    /// A stranger may write to the queue but has no key. It sends an order between two signed ones.
    #[tokio::test]
    async fn a_runner_receives_only_orders_signed_with_the_key_of_its_installation() {
        let Some(server) = Ministack::start() else { return };
        let options = options(&server, "200000000002");
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

    #[tokio::test]
    async fn a_key_that_is_overwritten_or_made_later_is_used_by_the_same_process() {
        let Some(server) = Ministack::start() else { return };
        let options = options(&server, "200000000003");
        let mut key = SigningKey::new(&options, "/sexton/order-signing-key".to_owned());
        let five_minutes = Duration::from_secs(300);
        assert!(key.read_again_after < five_minutes && UNCONFIRMED_MAX < five_minutes);
        key.read_again_after = Duration::ZERO;
        let secrets = AwsSecrets::new(options);
        let mut ids = Vec::new();
        assert!(matches!(key.state().await, Ok(KeyState::Absent)));
        for _ in 0..2 {
            let pem = Signer::generate_pem().expect("a key");
            secrets.write_parameter(key.parameter(), &pem, true, None).await.expect("written");
            let Ok(KeyState::Present(signer)) = key.state().await else { panic!("no key") };
            assert_eq!(signer.id(), Signer::from_pem(&pem).expect("a key").id());
            ids.push(signer.id().to_owned());
        }
        assert_ne!(ids[0], ids[1]);
        secrets.write_parameter(key.parameter(), "no key", true, None).await.expect("written");
        let state = key.state().await;
        assert!(matches!(&state, Ok(KeyState::Unusable(reason)) if reason.contains("not a PEM file")), "{state:?}");
        secrets.delete_parameter(key.parameter()).await.expect("deleted");
        assert!(matches!(key.state().await, Ok(KeyState::Absent)));
    }

    #[tokio::test]
    async fn a_known_key_is_used_while_the_parameter_cannot_be_read() {
        let Some(server) = Ministack::start() else { return };
        let options = options(&server, "200000000004");
        let mut key = SigningKey::new(&options, "/sexton/order-signing-key".to_owned());
        key.read_again_after = Duration::ZERO;
        AwsSecrets::new(options).put_parameter(key.parameter(), PRIVATE).await;
        assert!(matches!(key.state().await, Ok(KeyState::Present(_))));
        drop(server);
        assert!(matches!(key.state().await, Ok(KeyState::Present(_))));
        key.known.lock().await.take();
        assert!(matches!(key.state().await, Err(PortError::Retry(_))));
    }
}
