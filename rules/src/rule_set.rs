//! The rules that one job uses, compiled into one automaton and shared by all jobs with the same packs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::automaton::Automaton;
use crate::pack::{Expectation, Pack, Rule, StreamChoice};
use crate::packs::Packs;

/// A list of packs that has no rule set.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// No pack has this name.
    #[error("no rule pack `{name}`; {hint}")]
    UnknownPack {
        /// As the job names it.
        name: String,
        /// The nearest known name, or all of them.
        hint: String,
    },
    /// The compiled rules exceed their limit together.
    #[error("the rules of {packs} do not fit into one automaton ({why}); use fewer packs or smaller repetitions")]
    TooLarge {
        /// The names of the packs.
        packs: String,
        /// The limit, from the compiler.
        why: String,
    },
}

/// Rules of several packs, in the order of the packs and of their files.
pub struct RuleSet {
    packs: Vec<Arc<Pack>>,
    /// Indices of pack and rule, by the number of the automaton's pattern.
    places: Vec<(usize, usize)>,
    digest: String,
    /// By the name of the pack.
    pack_digests: BTreeMap<String, String>,
    automaton: Option<Automaton>,
}

impl RuleSet {
    /// Returns the compiled rules of the packs with these names ([`crate::choose_packs`]); cached in `packs`.
    ///
    /// # Errors
    /// An unknown pack, with the nearest known name; or too many rules to compile together.
    pub fn compile(packs: &Packs, names: &[String]) -> Result<Arc<RuleSet>, RulesError> {
        packs.rule_set(names)
    }

    /// The empty set: nothing is matched, and no run gets a hit.
    pub fn none() -> Arc<RuleSet> {
        Arc::new(RuleSet {
            digest: digest_of(&[]),
            pack_digests: BTreeMap::new(),
            packs: Vec::new(),
            places: Vec::new(),
            automaton: None,
        })
    }

    pub(crate) fn from_packs(packs: Vec<Arc<Pack>>) -> Result<RuleSet, RulesError> {
        let mut places = Vec::new();
        for (pack, held) in packs.iter().enumerate() {
            places.extend((0..held.rules.len()).map(|rule| (pack, rule)));
        }
        let patterns: Vec<_> = places.iter().map(|(pack, rule)| &packs[*pack].rules[*rule].pattern).collect();
        let automaton = match patterns.is_empty() {
            true => None,
            false => Some(Automaton::compile(&patterns).map_err(|why| RulesError::TooLarge {
                packs: packs.iter().map(|pack| pack.name.as_str()).collect::<Vec<_>>().join(", "),
                why,
            })?),
        };
        let digest = |pack: &Arc<Pack>| (pack.name.clone(), digest_of(std::slice::from_ref(pack)));
        let pack_digests = packs.iter().map(digest).collect();
        Ok(RuleSet { digest: digest_of(&packs), pack_digests, packs, places, automaton })
    }

    /// The digest of each pack, by name.
    pub fn pack_digests(&self) -> &BTreeMap<String, String> {
        &self.pack_digests
    }

    /// The number of rules; they are numbered from 0.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The rule with this number, and its pack.
    pub fn rule(&self, number: usize) -> Option<(&Pack, &Rule)> {
        let (pack, rule) = *self.places.get(number)?;
        let pack = self.packs.get(pack)?;
        Some((pack, pack.rules.get(rule)?))
    }

    /// All rules with their packs, by number.
    pub fn rules(&self) -> impl Iterator<Item = (&Pack, &Rule)> {
        (0..self.len()).filter_map(|number| self.rule(number))
    }

    /// The names of the packs, in the order of [`RuleSet::compile`].
    pub fn packs(&self) -> impl Iterator<Item = &str> {
        self.packs.iter().map(|pack| pack.name.as_str())
    }

    /// A digest of everything that decides matches; texts for people have no effect. 16 hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub(crate) fn automaton(&self) -> Option<&Automaton> {
        self.automaton.as_ref()
    }
}

fn digest_of(packs: &[Arc<Pack>]) -> String {
    let mut hash = Sha256::new();
    for (pack, rule) in packs.iter().flat_map(|pack| pack.rules.iter().map(move |rule| (pack, rule))) {
        let expectation = match rule.expectation {
            Expectation::NoMatch => "pattern",
            Expectation::Match => "require",
        };
        let stream = match rule.stream {
            StreamChoice::Any => "any",
            StreamChoice::Stdout => "stdout",
            StreamChoice::Stderr => "stderr",
        };
        let unless = rule.unless.as_ref().map_or("", |unless| unless.text());
        let severity = match rule.severity {
            domain::run::Severity::Fail => "fail",
            domain::run::Severity::Warn => "warn",
        };
        let at_least = rule.at_least.to_string();
        for part in [&pack.name, &rule.id, expectation, rule.pattern.text(), unless, stream, severity, &at_least] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
    }
    let mut digest = String::with_capacity(16);
    for byte in &hash.finalize()[..8] {
        // Writing to a String cannot fail.
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}
