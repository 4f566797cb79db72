//! Whether the first word of a command is a user of the host, or a program. Asks the host once for each word.

use std::collections::{BTreeMap, HashMap};

use super::options::HostNames;

/// Accounts whose names are no programs. Chosen: those that system crontabs name most, on Debian and Red Hat.
const ACCOUNTS: [&str; 6] = ["root", "www-data", "nobody", "daemon", "postgres", "apache"];

/// Longest name of a user (useradd(8)).
const ACCOUNT_LENGTH_MAX: usize = 32;

/// The first words of the entries so far.
pub(super) struct HostWords {
    host: Option<HostNames>,
    /// Whether a word is a user and no program, by word and PATH.
    accounts: HashMap<(String, Option<String>), bool>,
    /// Whether there is no user of a name in a user column.
    absent: HashMap<String, bool>,
}

impl HostWords {
    pub(super) fn new(host: Option<HostNames>) -> HostWords {
        HostWords { host, accounts: HashMap::new(), absent: HashMap::new() }
    }

    /// Whether the word is the name of a user and not of a program. `environment`: the assignments above the entry.
    pub(super) fn is_account(&mut self, word: &str, environment: &BTreeMap<String, String>) -> bool {
        if ACCOUNTS.contains(&word) {
            return true;
        }
        let is_name = word.len() <= ACCOUNT_LENGTH_MAX
            && word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-$".contains(&byte));
        let Some(host) = self.host.filter(|_| is_name) else { return false };
        let path = environment.get("PATH");
        let is_account = || (host.is_account)(word) && !(host.is_program)(word, path.map(String::as_str));
        *self.accounts.entry((word.to_owned(), path.cloned())).or_insert_with(is_account)
    }

    /// Whether the host has no user of this name.
    pub(super) fn lacks_account(&mut self, name: &str) -> bool {
        let Some(host) = self.host else { return false };
        *self.absent.entry(name.to_owned()).or_insert_with(|| !(host.is_account)(name))
    }

    /// Whether the host has a user or a program of this name.
    pub(super) fn is_known(&self, word: &str, environment: &BTreeMap<String, String>) -> bool {
        let path = environment.get("PATH").map(String::as_str);
        self.host.is_some_and(|host| (host.is_account)(word) || (host.is_program)(word, path))
    }
}
