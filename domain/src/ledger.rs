//! The ledger: in any window, scheduled runs are the sum of ended runs by outcome, plus open runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::run::Outcome;

/// The runs of a window of nominal times, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// All runs.
    pub scheduled: u64,
    /// Ended runs by outcome; an outcome without runs is absent.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Runs that have not ended.
    pub open: u64,
}

impl Ledger {
    /// Runs with this outcome.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(&outcome).copied().unwrap_or(0)
    }

    /// Whether every run is either open or has exactly one outcome.
    pub fn adds_up(&self) -> bool {
        self.scheduled == self.outcomes.values().sum::<u64>() + self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_neither_open_nor_has_an_outcome_is_noticed() {
        let outcomes = BTreeMap::from([(Outcome::Succeeded, 3), (Outcome::Skipped, 1)]);
        let ledger = Ledger { scheduled: 5, outcomes, open: 1 };
        assert!(ledger.adds_up());
        assert!(!Ledger { scheduled: 6, ..ledger }.adds_up());
    }

    #[test]
    fn its_json_has_the_names_of_outcomes() {
        let ledger = Ledger { scheduled: 1, outcomes: BTreeMap::from([(Outcome::FalseSuccess, 1)]), open: 0 };
        let json = serde_json::to_string(&ledger).unwrap();
        assert_eq!(json, r#"{"scheduled":1,"outcomes":{"false_success":1},"open":0}"#);
        assert_eq!(serde_json::from_str::<Ledger>(&json).unwrap(), ledger);
    }
}
