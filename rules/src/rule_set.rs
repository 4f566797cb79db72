//! The rules that one job uses, compiled into one automaton and shared by all jobs with the same packs.

use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::automaton::Automaton;
use crate::pack::{Expectation, Pack, Rule, StreamChoice};
use crate::packs::Packs;

/// Why there is no rule set.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error("no rule pack `{name}`; {hint}")]
    UnknownPack { name: String, hint: String },
    #[error("the rules of {packs} do not fit one automaton ({why}); name fewer packs or write smaller repetitions")]
    TooLarge { packs: String, why: String },
}

/// Rules of several packs, in the order of the packs and of their files.
pub struct RuleSet {
    packs: Vec<Arc<Pack>>,
    /// Which pack and which rule of it the automaton's pattern of the same number is.
    places: Vec<(usize, usize)>,
    digest: String,
    automaton: Option<Automaton>,
}

impl RuleSet {
    /// Compiles the packs of these names (as [`crate::choose_packs`] gives them), or hands out the set compiled before.
    ///
    /// # Errors
    /// A name that no pack has, with the nearest; or that the rules are too many to be compiled together.
    pub fn compile(packs: &Packs, names: &[String]) -> Result<Arc<RuleSet>, RulesError> {
        packs.rule_set(names)
    }

    /// No rules at all: nothing is matched, nothing speaks against a run.
    pub fn none() -> Arc<RuleSet> {
        Arc::new(RuleSet { digest: digest_of(&[]), packs: Vec::new(), places: Vec::new(), automaton: None })
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
        Ok(RuleSet { digest: digest_of(&packs), packs, places, automaton })
    }

    /// How many rules there are; a rule's number is its place.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The rule of this number and its pack.
    pub fn rule(&self, number: usize) -> Option<(&Pack, &Rule)> {
        let (pack, rule) = *self.places.get(number)?;
        let pack = self.packs.get(pack)?;
        Some((pack, pack.rules.get(rule)?))
    }

    /// All rules with their packs, by number.
    pub fn rules(&self) -> impl Iterator<Item = (&Pack, &Rule)> {
        (0..self.len()).filter_map(|number| self.rule(number))
    }

    pub fn packs(&self) -> impl Iterator<Item = &str> {
        self.packs.iter().map(|pack| pack.name.as_str())
    }

    /// The same for every set that judges alike: what the rules match, not what they say. 16 hexadecimal digits.
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
