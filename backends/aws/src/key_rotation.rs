//! Changes the key that signs orders, for `sexton keys rotate`: makes the new key beside the old one, and puts it in
//! its place. The caller decides when. The Lambdas read the key again by themselves.

use domain::ports::{PortError, PortResult};

use crate::Names;
use crate::options::Options;
use crate::secrets::AwsSecrets;
use crate::signature::Signer;

/// What may be known of a private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderKey {
    /// Its id in messages and heartbeats.
    pub id: String,
    /// The public key, as `order_keys` of a policy file takes it.
    pub public: String,
}

/// The parameters with the key in use and the next one.
pub struct KeyRotation {
    secrets: AwsSecrets,
    current: String,
    next: String,
    kms_key: Option<String>,
}

impl KeyRotation {
    /// Calls nothing. `kms_key` encrypts the parameters; none for the key of AWS.
    pub fn new(options: &Options, names: &Names, kms_key: Option<String>) -> KeyRotation {
        let (current, next) = (names.signing_key_parameter(), names.next_signing_key_parameter());
        KeyRotation { secrets: AwsSecrets::new(options.clone()), current, next, kms_key }
    }

    /// Returns the key that signs orders now.
    ///
    /// # Errors
    /// Returns the port's error; also for a parameter without a key.
    pub async fn current(&self) -> PortResult<Option<OrderKey>> {
        self.read(&self.current).await.map(|found| found.map(|(key, _)| key))
    }

    /// Returns the key of a change that has started.
    ///
    /// # Errors
    /// Returns the errors of [`KeyRotation::current`].
    pub async fn next(&self) -> PortResult<Option<OrderKey>> {
        self.read(&self.next).await.map(|found| found.map(|(key, _)| key))
    }

    /// Makes the next key, unless another process has made it by now, and returns it.
    ///
    /// # Errors
    /// Returns the errors of [`KeyRotation::current`].
    pub async fn make_next(&self) -> PortResult<OrderKey> {
        let pem = Signer::generate_pem().map_err(PortError::Permanent)?;
        self.secrets.write_parameter(&self.next, &pem, false, self.kms_key.as_deref()).await?;
        self.next().await?.ok_or_else(|| self.vanished())
    }

    /// Puts the next key in the place of the current one. Idempotent until [`KeyRotation::discard_next`].
    ///
    /// # Errors
    /// Returns the errors of [`KeyRotation::current`].
    pub async fn switch(&self) -> PortResult<()> {
        let (_, pem) = self.read(&self.next).await?.ok_or_else(|| self.vanished())?;
        self.secrets.write_parameter(&self.current, &pem, true, self.kms_key.as_deref()).await.map(drop)
    }

    /// Deletes the parameter of the next key.
    ///
    /// # Errors
    /// Returns the port's error.
    pub async fn discard_next(&self) -> PortResult<()> {
        self.secrets.delete_parameter(&self.next).await
    }

    fn vanished(&self) -> PortError {
        PortError::Permanent(format!(
            "the parameter `{}` was deleted by another process; repeat the command",
            self.next
        ))
    }

    async fn read(&self, parameter: &str) -> PortResult<Option<(OrderKey, String)>> {
        let Some(pem) = self.secrets.find_parameter(parameter).await? else { return Ok(None) };
        let signer = Signer::from_pem(&pem);
        let signer = signer.map_err(|reason| PortError::Permanent(format!("the parameter `{parameter}`: {reason}")))?;
        Ok(Some((OrderKey { id: signer.id().to_owned(), public: signer.public_text() }, pem)))
    }
}
