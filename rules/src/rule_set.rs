//! The rules that one job uses, compiled together and shared by all jobs with the same packs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use domain::line::Stream;
use sha2::{Digest, Sha256};

use crate::automata::{Automata, SharedAutomata};
use crate::automaton::Automaton;
use crate::line_text::LineText;
use crate::pack::{Expectation, Pack, Rule, StreamChoice};
use crate::pack_choice::{ChosenPacks, Interpreters};
use crate::packs::Packs;
use crate::pattern::Pattern;

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

/// Rules of several packs, in the order of the packs and of their files. A copy shares the compiled patterns.
#[derive(Clone)]
pub struct RuleSet {
    packs: Vec<Arc<Pack>>,
    /// Indices of pack and rule, by the number of the rule.
    places: Vec<(usize, usize)>,
    /// By the number of the pattern in `automata`.
    uses: Vec<PatternUse>,
    digest: String,
    /// By the name of the pack.
    pack_digests: BTreeMap<String, String>,
    /// The streams whose lines count, by the number of the rule.
    streams: Vec<Streams>,
    /// That the packs were chosen by.
    interpreters: Interpreters,
    automata: Option<Arc<Automata>>,
    /// The patterns of `unless`, with the rule of each. Compiled when a line is too long for one record.
    unless: Arc<OnceLock<Option<UnlessSearch>>>,
}

/// The patterns of all `unless`, and the rule of each.
type UnlessSearch = (Automaton, Vec<usize>);

/// The streams whose lines count for a rule of one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Streams {
    stdout: bool,
    stderr: bool,
}

impl Streams {
    const NONE: Streams = Streams { stdout: false, stderr: false };

    pub(crate) fn of(choice: StreamChoice) -> Streams {
        Streams { stdout: choice != StreamChoice::Stderr, stderr: choice != StreamChoice::Stdout }
    }

    /// Whether the rule has an effect on the job.
    pub(crate) fn any(self) -> bool {
        self.stdout || self.stderr
    }

    /// Whether lines of this stream count; a line without a known stream counts for every rule that applies.
    pub(crate) fn has(self, stream: Option<Stream>) -> bool {
        match stream {
            Some(Stream::Stdout) => self.stdout,
            Some(Stream::Stderr) => self.stderr,
            None => self.any(),
        }
    }
}

/// What a match of a pattern means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatternUse {
    /// `pattern` or `require` of the rule with this number.
    Counts(usize),
    /// `cleared_by` of the rule with this number.
    Clears(usize),
}

impl RuleSet {
    /// Returns the compiled rules of the packs with these names ([`crate::choose_packs`]); cached in `packs`.
    ///
    /// # Errors
    /// An unknown pack, with the nearest known name; or too many rules to compile together.
    pub fn compile(packs: &Packs, names: &[String]) -> Result<Arc<RuleSet>, RulesError> {
        packs.rule_set(names)
    }

    /// As [`RuleSet::compile`], for the command that the packs were chosen for: without the rules that do not apply to
    /// it, and without standard output where that is data.
    ///
    /// # Errors
    /// As [`RuleSet::compile`].
    pub fn compile_for(packs: &Packs, chosen: &ChosenPacks) -> Result<Arc<RuleSet>, RulesError> {
        let compiled = packs.rule_set(&chosen.names)?;
        let words = chosen.words();
        let streams = compiled.rules().zip(&compiled.streams).map(|((pack, rule), streams)| {
            if !rule.applies_to(&words) {
                return Streams::NONE;
            }
            // A rule that requires a line of the data, or names the stream, is meant for it.
            let reads_data = rule.expectation == Expectation::Match || rule.stream == StreamChoice::Stdout;
            let stdout = streams.stdout && (reads_data || !chosen.is_data(&pack.name));
            Streams { stdout, ..*streams }
        });
        let streams: Vec<Streams> = streams.collect();
        if streams == compiled.streams && chosen.interpreters.is_empty() {
            return Ok(compiled);
        }
        let interpreters = chosen.interpreters.clone();
        Ok(Arc::new(RuleSet { streams, interpreters, ..RuleSet::clone(&compiled) }))
    }

    /// The empty set: nothing is matched, and no run gets a hit.
    pub fn none() -> Arc<RuleSet> {
        Arc::new(RuleSet {
            digest: digest_of(&[]),
            pack_digests: BTreeMap::new(),
            packs: Vec::new(),
            places: Vec::new(),
            uses: Vec::new(),
            streams: Vec::new(),
            interpreters: Interpreters::new(),
            automata: None,
            unless: Arc::default(),
        })
    }

    /// `shared`: the automata of large packs, which the set uses and adds to.
    pub(crate) fn from_packs(packs: Vec<Arc<Pack>>, shared: &mut SharedAutomata) -> Result<RuleSet, RulesError> {
        let mut places = Vec::new();
        for (pack, held) in packs.iter().enumerate() {
            places.extend((0..held.rules.len()).map(|rule| (pack, rule)));
        }
        let rules: Vec<&Rule> = places.iter().map(|(pack, rule)| &packs[*pack].rules[*rule]).collect();
        let counting = rules.iter().enumerate().map(|(number, rule)| (PatternUse::Counts(number), &rule.pattern));
        let clearing = rules
            .iter()
            .enumerate()
            .filter_map(|(number, rule)| rule.cleared_by.as_ref().map(|pattern| (PatternUse::Clears(number), pattern)));
        let pack_of = |meaning: &PatternUse| match meaning {
            PatternUse::Counts(number) | PatternUse::Clears(number) => packs[places[*number].0].name.as_str(),
        };
        let (uses, patterns): (Vec<_>, Vec<_>) =
            counting.chain(clearing).map(|(meaning, pattern)| (meaning, (pack_of(&meaning), pattern))).unzip();
        let automata = match patterns.is_empty() {
            true => None,
            false => Some(Arc::new(Automata::compile(&patterns, shared).map_err(|why| RulesError::TooLarge {
                packs: packs.iter().map(|pack| pack.name.as_str()).collect::<Vec<_>>().join(", "),
                why,
            })?)),
        };
        let streams = rules.iter().map(|rule| Streams::of(rule.stream)).collect();
        let digest = |pack: &Arc<Pack>| (pack.name.clone(), digest_of(std::slice::from_ref(pack)));
        let pack_digests = packs.iter().map(digest).collect();
        let digest = digest_of(&packs);
        Ok(RuleSet {
            digest,
            pack_digests,
            packs,
            places,
            uses,
            streams,
            interpreters: Interpreters::new(),
            automata,
            unless: Arc::default(),
        })
    }

    /// What the runner read in the files of the command that the packs were chosen for.
    pub fn interpreters(&self) -> &Interpreters {
        &self.interpreters
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

    /// The number of the rule with this id in the pack with this name.
    pub(crate) fn number_of(&self, pack: &str, rule: &str) -> Option<usize> {
        self.rules().position(|(of, is)| of.name == pack && is.id == rule)
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

    pub(crate) fn automata(&self) -> Option<&Automata> {
        self.automata.as_deref()
    }

    /// The streams whose lines count for the rule with this number.
    pub(crate) fn streams_of(&self, number: usize) -> Streams {
        self.streams.get(number).copied().unwrap_or(Streams::NONE)
    }

    /// What a match of the pattern with this number means.
    pub(crate) fn pattern_use(&self, number: usize) -> Option<PatternUse> {
        self.uses.get(number).copied()
    }

    /// Calls `excluded` with each rule whose `unless` matches the text.
    pub(crate) fn each_unless_on(&self, text: &LineText<'_>, mut excluded: impl FnMut(usize)) {
        let with_unless = || {
            let rules = self.rules().enumerate();
            rules.filter_map(|(number, (_, rule))| rule.unless.as_ref().map(|unless| (number, unless)))
        };
        let compiled = self.unless.get_or_init(|| {
            let (numbers, patterns): (Vec<_>, Vec<_>) =
                with_unless().map(|(number, unless)| (number, Arc::clone(unless))).unzip();
            Some((Automaton::compile(&patterns).ok()?, numbers))
        });
        match compiled {
            Some((automaton, numbers)) => {
                let mut scratch = automaton.scratch();
                let found = automaton.search(&mut scratch, text, &mut u64::MAX.clone());
                found
                    .into_iter()
                    .flat_map(|found| found.iter())
                    .for_each(|number| excluded(numbers[number.as_usize()]));
            }
            // Too many to compile together: each by itself.
            None => with_unless().filter(|(_, unless)| unless.is_match(text)).for_each(|(number, _)| excluded(number)),
        }
    }
}

fn digest_of(packs: &[Arc<Pack>]) -> String {
    let mut hash = Sha256::new();
    for pack in packs {
        let entries = pack.data_stdout.iter().flatten().map(|program| program.text() + "\n");
        let entries: String = entries.collect();
        if !entries.is_empty() {
            hash.update(entries.len().to_le_bytes());
            hash.update(entries);
        }
    }
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
        let text_of =
            |pattern: &Option<Arc<Pattern>>| pattern.as_ref().map_or(String::new(), |it| it.text().to_owned());
        let unless = text_of(&rule.unless);
        let severity = match rule.severity {
            domain::run::Severity::Fail => "fail",
            domain::run::Severity::Warn => "warn",
        };
        let at_least = rule.at_least.to_string();
        for part in [&pack.name, &rule.id, expectation, rule.pattern.text(), &unless, stream, severity, &at_least] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        // Keys of later releases have an effect only where they are set, so digests of older packs stay as they are.
        let then = rule.then.as_ref().map_or(String::new(), |then| format!("{} {}", then.within, then.pattern.text()));
        let at_most = rule.at_most.map_or(String::new(), |most| most.to_string());
        let later = [
            ("unless_here", text_of(&rule.unless_here)),
            ("cleared_by", text_of(&rule.cleared_by)),
            ("then", then),
            ("at_most", at_most),
            ("if_word", rule.if_word.join(" ")),
            ("unless_word", rule.unless_word.join(" ")),
        ];
        for (key, value) in later.iter().filter(|(_, value)| !value.is_empty()) {
            for part in [*key, value.as_str()] {
                hash.update(part.len().to_le_bytes());
                hash.update(part);
            }
        }
    }
    let mut digest = String::with_capacity(16);
    for byte in &hash.finalize()[..8] {
        // Writing to a String cannot fail.
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}
