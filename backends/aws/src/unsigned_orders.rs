//! Whether an installation sends unsigned orders while it has no key. The scheduler stores the choice of the template;
//! all other processes that send orders follow it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::ports::{PortResult, Settings};
use serde_json::json;
use tokio::sync::Mutex;

use crate::Backend;
use crate::signature::Signer;
use crate::signing_key::{KeyState, absent_reason};

/// Name of the setting: `{"unsigned": true}`.
const SETTING: &str = "order_signing";

/// How long the choice is cached. Chosen: the ticks of a minute share one read.
const CACHED_FOR: Duration = Duration::from_secs(10);

/// The choice as it was read last.
pub(crate) type UnsignedChoice = Mutex<Option<(bool, Instant)>>;

impl Backend {
    /// Returns what signs orders now, none for unsigned orders; or one sentence why none can be sent.
    ///
    /// # Errors
    /// Returns `Retry` if the key or the choice cannot be read now.
    pub(crate) async fn order_signer(&self) -> PortResult<Result<Option<Arc<Signer>>, String>> {
        let Some(key) = &self.signing.signing_key else { return Ok(Ok(None)) };
        Ok(match key.state().await? {
            KeyState::Present(signer) => Ok(Some(signer)),
            KeyState::Unusable(reason) => Err(reason),
            KeyState::Absent if self.sends_unsigned().await? => Ok(None),
            KeyState::Absent => Err(absent_reason(key.parameter())),
        })
    }

    /// Whether orders are sent unsigned while there is no key; false until a scheduler has stored its choice.
    pub(crate) async fn sends_unsigned(&self) -> PortResult<bool> {
        let mut cached = self.unsigned_choice.lock().await;
        if let Some((choice, read_at)) = *cached
            && read_at.elapsed() < CACHED_FOR
        {
            return Ok(choice);
        }
        let stored = self.read(SETTING).await?;
        let choice = stored.is_some_and(|stored| stored.record["unsigned"] == true);
        *cached = Some((choice, Instant::now()));
        Ok(choice)
    }

    /// Stores the choice of the template.
    pub(crate) async fn store_unsigned(&self, unsigned: bool) -> PortResult<()> {
        loop {
            let stored = self.read(SETTING).await?;
            if stored.as_ref().is_some_and(|stored| stored.record["unsigned"] == unsigned) {
                return Ok(());
            }
            let version = stored.map(|stored| stored.version);
            if self.write(SETTING, &json!({ "unsigned": unsigned }), version).await? {
                return Ok(());
            }
        }
    }
}
