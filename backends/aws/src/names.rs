//! The names of tables, queues, topics and parameters, made from the prefix. The template makes the same names; a test
//! compares both.

use domain::ports::{PortError, PortResult};

/// Prefix of an installation whose configuration has none.
pub const PREFIX_DEFAULT: &str = "sexton";

/// SQS CreateQueue: a queue's name has at most 80 characters, of `[A-Za-z0-9_-]`.
const QUEUE_NAME_MAX: usize = 80;

/// End of a dead-letter queue's name.
const DEAD_LETTER_SUFFIX: &str = "-dead";

/// The names of one installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Does not check the prefix: [`crate::Options::names`] does.
    pub fn new(prefix: impl Into<String>) -> Names {
        Names { prefix: prefix.into() }
    }

    /// The start of all names of the installation.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The table `PREFIX-jobs`.
    pub fn jobs(&self) -> String {
        format!("{}-jobs", self.prefix)
    }

    /// The table `PREFIX-due`: the due index.
    pub fn due(&self) -> String {
        format!("{}-due", self.prefix)
    }

    /// The table `PREFIX-runs`.
    pub fn runs(&self) -> String {
        format!("{}-runs", self.prefix)
    }

    /// The table `PREFIX-runners`: heartbeats and stop requests.
    pub fn runners(&self) -> String {
        format!("{}-runners", self.prefix)
    }

    /// The table `PREFIX-alerts`: alert states and transitions.
    pub fn alerts(&self) -> String {
        format!("{}-alerts", self.prefix)
    }

    /// The table `PREFIX-settings`: state of the services, buckets of runs, quarantine notes.
    pub fn settings(&self) -> String {
        format!("{}-settings", self.prefix)
    }

    /// The queue `PREFIX-orders-GROUP`.
    pub fn orders(&self, group: &str) -> String {
        format!("{}{group}", self.orders_prefix())
    }

    /// The queue `PREFIX-orders-GROUP-dead`: orders that were received five times and not deleted.
    pub fn orders_dead(&self, group: &str) -> String {
        format!("{}{DEAD_LETTER_SUFFIX}", self.orders(group))
    }

    /// The start of the names of all orders queues: `PREFIX-orders-`.
    pub fn orders_prefix(&self) -> String {
        format!("{}-orders-", self.prefix)
    }

    /// Returns the group of an orders queue; none for a dead-letter queue and for any other name.
    pub fn group_of_queue<'q>(&self, queue: &'q str) -> Option<&'q str> {
        let group = queue.strip_prefix(&self.orders_prefix())?;
        check_group(self, group).is_ok().then_some(group)
    }

    /// The queue `PREFIX-reports`.
    pub fn reports(&self) -> String {
        format!("{}-reports", self.prefix)
    }

    /// The queue `PREFIX-reports-dead`: reports that cannot be collected.
    pub fn reports_dead(&self) -> String {
        format!("{}{DEAD_LETTER_SUFFIX}", self.reports())
    }

    /// The topic `PREFIX-alerts`, for alerts about jobs.
    pub fn alerts_topic(&self) -> String {
        format!("{}-alerts", self.prefix)
    }

    /// The topic `PREFIX-operations`, for CloudWatch alarms about the installation itself.
    pub fn operations_topic(&self) -> String {
        format!("{}-operations", self.prefix)
    }

    /// The path below which the runners of a group read parameters: `/PREFIX/groups/GROUP/`. Secrets Manager has it
    /// without the first slash.
    pub fn group_secrets(&self, group: &str) -> String {
        format!("/{}/groups/{group}/", self.prefix)
    }

    /// The SSM parameter `/PREFIX/order-signing-key`, with the private key that signs orders.
    pub fn signing_key_parameter(&self) -> String {
        format!("/{}/order-signing-key", self.prefix)
    }

    /// The SSM parameter `/PREFIX/order-signing-key-next`: the new private key while it is being changed.
    pub fn next_signing_key_parameter(&self) -> String {
        format!("{}-next", self.signing_key_parameter())
    }
}

/// Checks whether a group can exist on AWS. Its name is part of a queue's name, and the start of the keys that the role
/// of its runners may change; so no group's keys may begin with those of another group.
///
/// # Errors
/// Returns one sentence with the remedy.
pub fn check_group(names: &Names, group: &str) -> Result<(), String> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if group.is_empty() || !group.bytes().all(is_legal) {
        return Err(format!(
            "group `{group}` cannot be part of the name of an SQS queue; use only letters, digits, `-` and `_`"
        ));
    }
    if group.ends_with(DEAD_LETTER_SUFFIX) {
        return Err(format!(
            "group `{group}` ends with `{DEAD_LETTER_SUFFIX}`, as dead-letter queues do; choose another name"
        ));
    }
    let longest = names.orders_dead(group).len();
    if longest > QUEUE_NAME_MAX {
        let over = longest - QUEUE_NAME_MAX;
        return Err(format!(
            "the name of group `{group}` is {over} characters too long for an SQS queue of this installation; \
             shorten it"
        ));
    }
    Ok(())
}

/// As [`check_group`], with the error of a port.
pub(crate) fn check_group_for_port(names: &Names, group: &str) -> PortResult<()> {
    check_group(names, group).map_err(PortError::Permanent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_name_leads_back_to_its_group() {
        let names = Names::new("sexton");
        assert_eq!(names.orders_dead("db"), "sexton-orders-db-dead");
        for group in ["db", "a-b_C9"] {
            assert_eq!(names.group_of_queue(&names.orders(group)), Some(group));
            assert_eq!(names.group_of_queue(&names.orders_dead(group)), None);
        }
        assert_eq!(names.group_of_queue("sexton-reports"), None);
        assert_eq!(names.group_of_queue("other-orders-db"), None);
    }

    #[test]
    fn a_group_whose_name_cannot_be_in_a_queue_name_is_refused() {
        let names = Names::new("sexton");
        for group in ["", "a b", "a/b", "a#b", "ü", "x-dead", &"a".repeat(62)] {
            assert!(check_group(&names, group).is_err(), "{group}");
        }
        assert_eq!(check_group(&names, &"a".repeat(61)), Ok(()));
    }
}
