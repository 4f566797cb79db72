//! How far the sending of an alert to each channel is. Stored with the alert as soon as a channel has answered, so that
//! no restart and no other channel repeats it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Transition;

/// Failed sends of an alert to one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelProgress {
    /// Failed sends so far.
    pub tries: u32,
    /// When it is sent again. `None`: never; the channel has it, or refused it permanently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// Error of the latest failed send; `None` once the channel has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Transition {
    /// Whether the channel will never accept it: it refused it permanently, or failed too often.
    pub fn is_refused_by(&self, channel: &str) -> bool {
        let is_over = |progress: &ChannelProgress| progress.retry_at.is_none() && progress.error.is_some();
        self.progress.get(channel).is_some_and(is_over)
    }

    /// Whether the channel has it or will never accept it.
    pub fn is_settled_for(&self, channel: &str) -> bool {
        self.delivered_to.iter().any(|has| has == channel) || self.is_refused_by(channel)
    }

    /// Failed sends to the channel.
    pub fn tries_of(&self, channel: &str) -> u32 {
        match self.progress.get(channel) {
            Some(progress) => progress.tries,
            // Older builds count the failed sends to all channels together.
            None if self.progress.is_empty() => self.tries,
            None => 0,
        }
    }

    /// The time of the next send to the channel; `None` before the first one.
    pub fn retry_at(&self, channel: &str) -> Option<Timestamp> {
        self.progress.get(channel).and_then(|progress| progress.retry_at)
    }
}
