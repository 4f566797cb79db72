//! Gives a reader the inputs below `fuzz/corpus` and mutations of them. Called by the tests of every reader of files or
//! messages; it knows no format.
//!
//! `SEXTON_FUZZ_SECONDS=N` runs for N seconds instead of a fixed number of cases, each time with other mutations.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant, SystemTime};

use crate::installation::repository;

/// Mutations in an ordinary test run.
const CASES: u64 = 500;
/// Longest mutation; inputs of the corpus may be longer.
const INPUT_BYTES_MAX: usize = 16 * 1024;
/// Changes in one mutation.
const CHANGES_MAX: u64 = 6;
const SECONDS: &str = "SEXTON_FUZZ_SECONDS";

/// Numbers and bytes that break careless readers.
const AWKWARD: [&str; 16] = [
    "0",
    "-1",
    "4294967296",
    "18446744073709551615",
    "9223372036854775808",
    "1e999",
    "\0",
    "\n",
    "\r\n",
    "\u{feff}",
    "\u{202e}",
    "\u{10ffff}",
    "9999-12-31T23:59:59Z",
    "-009999-01-01T00:00:00Z",
    "'\"\\",
    "{[(",
];

/// Gives `check` every input of `fuzz/corpus/TARGET`, then mutations of them. When `check` panics, the input is printed
/// and the test fails.
pub fn try_inputs(target: &str, check: impl Fn(&[u8])) {
    let corpus = corpus(target);
    for (name, input) in &corpus {
        try_input(name, input, &check);
    }
    let seconds: Option<u64> = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok());
    let started = Instant::now();
    let mut dice = Dice(match seconds {
        Some(_) => SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64),
        None => 20_261_123,
    });
    let mut executions = 0;
    let continues = |executions| match seconds {
        Some(seconds) => started.elapsed() < Duration::from_secs(seconds),
        None => executions < CASES,
    };
    while continues(executions) {
        let input = mutation(&corpus, &mut dice);
        try_input("a mutation", &input, &check);
        executions += 1;
    }
    println!("{target}: {} inputs of the corpus, {executions} mutations, {:.1?}", corpus.len(), started.elapsed());
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = repository().join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut corpus: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.display().to_string(), fs::read(&path).expect("an input")))
        .collect();
    assert!(!corpus.is_empty(), "{} is empty", folder.display());
    corpus.sort();
    corpus
}

fn try_input(name: &str, input: &[u8], check: &impl Fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(input))) {
        eprintln!("{name} fails; keep it below fuzz/corpus: b\"{}\"", input.escape_ascii());
        resume_unwind(panic);
    }
}

fn mutation(corpus: &[(String, Vec<u8>)], dice: &mut Dice) -> Vec<u8> {
    let mut input = dice.one_of(corpus).1.clone();
    for _ in 0..=dice.below(CHANGES_MAX) {
        let other = &dice.one_of(corpus).1;
        change(&mut input, other, dice);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn change(input: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let at = dice.below(input.len() as u64 + 1) as usize;
    match dice.below(8) {
        0 => drop(input.drain(at..(at + dice.length()).min(input.len()))),
        1 => drop(input.splice(at..at, dice.one_of(&AWKWARD).bytes())),
        2 if at < input.len() => input[at] ^= 1 << dice.below(8),
        3 if at < input.len() => input[at] = dice.below(256) as u8,
        // A piece of this input or of another one is inserted, or replaces bytes.
        4 => drop(input.splice(at..at, piece(&input.clone(), dice))),
        5 => drop(input.splice(at..at, piece(other, dice))),
        6 => {
            let piece = piece(other, dice);
            let end = (at + piece.len()).min(input.len());
            drop(input.splice(at..end, piece));
        }
        _ => input.truncate(at),
    }
}

fn piece(of: &[u8], dice: &mut Dice) -> Vec<u8> {
    let begin = dice.below(of.len() as u64 + 1) as usize;
    of[begin..(begin + dice.length()).min(of.len())].to_vec()
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }

    /// Mostly short, rarely long.
    fn length(&mut self) -> usize {
        let most = [4, 16, 64, 512][self.below(4) as usize];
        self.below(most) as usize + 1
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}
