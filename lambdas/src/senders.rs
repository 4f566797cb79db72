//! Checks that the sender of a report may report for its group. SQS names the sender's role with each message
//! (`SenderId`: role id, colon, session name). A tag of the group's orders queue names the role of its runners; only
//! the deployment of the group (`group.yaml`) can write it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws::Names;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{DisplayErrorContext, SdkError};

/// Tag of an orders queue with role ids, separated by spaces.
pub const ROLE_TAG: &str = "sexton-runner-role";

/// How long a tag is cached. Chosen: a removed role can report for at most one minute longer.
const TAG_CACHED_FOR: Duration = Duration::from_secs(60);

/// Result of checking a sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderCheck {
    /// The sender is a runner of the group.
    Accepted,
    /// The sender may not report for the group. Holds one sentence.
    Refused(String),
    /// The tag cannot be read now. Holds one sentence.
    Unknown(String),
}

/// Checks senders against the tags of orders queues.
pub struct Senders {
    client: Client,
    names: Names,
    /// By group: the roles of its tag, and the time of the read.
    known: Mutex<HashMap<String, (Vec<String>, Instant)>>,
}

impl Senders {
    /// Calls nothing.
    pub fn new(client: Client, names: Names) -> Senders {
        Senders { client, names, known: Mutex::default() }
    }

    /// Checks whether `sender`, a `SenderId` of SQS, may report for `group`.
    pub async fn check(&self, group: &str, sender: &str) -> SenderCheck {
        let role = sender.split(':').next().unwrap_or(sender);
        if let Err(reason) = aws::check_group(&self.names, group) {
            return SenderCheck::Refused(reason);
        }
        if self.known_roles(group).is_some_and(|roles| roles.iter().any(|known| known == role)) {
            return SenderCheck::Accepted;
        }
        // The role may be new, so a cached tag never refuses.
        match self.read_roles(group).await {
            Ok(roles) if roles.iter().any(|known| known == role) => SenderCheck::Accepted,
            Ok(roles) if roles.is_empty() => SenderCheck::Refused(format!(
                "the orders queue of group {group} has no tag {ROLE_TAG}; deploy group.yaml for it"
            )),
            Ok(_) => SenderCheck::Refused(format!("{role} is not the role of the runners of group {group}")),
            Err(verdict) => verdict,
        }
    }

    fn known_roles(&self, group: &str) -> Option<Vec<String>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(group).filter(|(_, read_at)| read_at.elapsed() < TAG_CACHED_FOR).map(|(roles, _)| roles.clone())
    }

    async fn read_roles(&self, group: &str) -> Result<Vec<String>, SenderCheck> {
        let queue = self.names.orders(group);
        let unknown = |reason: String| {
            SenderCheck::Unknown(format!("cannot read the role of the runners of group {group}: {reason}"))
        };
        let url = match self.client.get_queue_url().queue_name(&queue).send().await {
            Ok(answer) => answer.queue_url.unwrap_or_default(),
            Err(SdkError::ServiceError(error)) if error.err().is_queue_does_not_exist() => {
                return Err(SenderCheck::Refused(format!("there is no group {group}: no queue {queue}")));
            }
            Err(error) => return Err(unknown(DisplayErrorContext(error).to_string())),
        };
        let tags = self.client.list_queue_tags().queue_url(url).send().await;
        let tags = tags.map_err(|error| unknown(DisplayErrorContext(error).to_string()))?.tags.unwrap_or_default();
        let roles: Vec<String> =
            tags.get(ROLE_TAG).map(String::as_str).unwrap_or_default().split(' ').map(str::to_owned).collect();
        let roles: Vec<String> = roles.into_iter().filter(|role| !role.is_empty()).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(group.to_owned(), (roles.clone(), Instant::now()));
        Ok(roles)
    }
}
