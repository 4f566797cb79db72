//! What everything is called, as functions of the prefix. The template makes the same names; a test compares them.

use domain::ports::{PortError, PortResult};

/// The prefix of an installation that chose none.
pub const PREFIX_DEFAULT: &str = "sexton";

/// SQS CreateQueue: a queue's name has at most 80 characters, of `[A-Za-z0-9_-]`.
const QUEUE_NAME_MAX: usize = 80;

/// What a dead-letter queue's name ends with.
const DEAD_LETTER_SUFFIX: &str = "-dead";

/// The names of one installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl Names {
    pub fn new(prefix: impl Into<String>) -> Names {
        Names { prefix: prefix.into() }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn jobs(&self) -> String {
        format!("{}-jobs", self.prefix)
    }

    pub fn due(&self) -> String {
        format!("{}-due", self.prefix)
    }

    pub fn runs(&self) -> String {
        format!("{}-runs", self.prefix)
    }

    pub fn runners(&self) -> String {
        format!("{}-runners", self.prefix)
    }

    pub fn alerts(&self) -> String {
        format!("{}-alerts", self.prefix)
    }

    pub fn settings(&self) -> String {
        format!("{}-settings", self.prefix)
    }

    pub fn orders(&self, group: &str) -> String {
        format!("{}{group}", self.orders_prefix())
    }

    pub fn orders_dead(&self, group: &str) -> String {
        format!("{}{DEAD_LETTER_SUFFIX}", self.orders(group))
    }

    /// What the names of all groups' queues begin with.
    pub fn orders_prefix(&self) -> String {
        format!("{}-orders-", self.prefix)
    }

    /// The group whose orders a queue of this name holds; none for any other queue.
    pub fn group_of_queue<'q>(&self, queue: &'q str) -> Option<&'q str> {
        let group = queue.strip_prefix(&self.orders_prefix())?;
        check_group(self, group).is_ok().then_some(group)
    }

    pub fn reports(&self) -> String {
        format!("{}-reports", self.prefix)
    }

    pub fn reports_dead(&self) -> String {
        format!("{}{DEAD_LETTER_SUFFIX}", self.reports())
    }

    /// The topic that tells people about jobs.
    pub fn alerts_topic(&self) -> String {
        format!("{}-alerts", self.prefix)
    }

    /// The topic of the alarms that watch this installation itself.
    pub fn operations_topic(&self) -> String {
        format!("{}-operations", self.prefix)
    }

    /// The SSM parameter that holds the private key of orders.
    pub fn signing_key_parameter(&self) -> String {
        format!("/{}/order-signing-key", self.prefix)
    }
}

/// Whether a group can exist on AWS: its name is part of a queue's name, and the leading part of the keys that its
/// runners' role is permitted (so that no group's keys begin with another group's).
///
/// # Errors
/// One sentence with the remedy.
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
            "the name of group `{group}` is {over} characters too long for an SQS queue of this installation; shorten it"
        ));
    }
    Ok(())
}

/// As [`check_group`], as a port says it.
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
