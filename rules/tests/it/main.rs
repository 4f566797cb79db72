//! Tests of the public items of the crate: packs, real interpreters, random input, verdicts.

mod any_text;
mod data_output;
mod interpreters;
mod judging;
mod loading;
mod matching;
mod provoked;
mod readers;
mod slow_patterns;
mod stored;
mod trying;

use std::sync::Arc;

use domain::line::{Block, Position, Stream, Tag, stamp, write_head};
use rules::{Packs, RuleSet};

/// All built-in packs and, in a pack `own`, these rules.
fn packs_with(own: &str) -> Packs {
    let mut packs = Packs::builtin();
    packs.add("own.toml", &format!("name = \"own\"\n{own}")).unwrap_or_else(|faults| panic!("{faults}"));
    packs
}

/// The rules of one pack text.
fn rules_of(own: &str) -> Arc<RuleSet> {
    RuleSet::compile(&packs_with(own), &["own".to_owned()]).expect("compiles")
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A block of whole lines, as a keeper writes them.
fn block(first_seq: u64, lines: &[(Stream, &[u8])]) -> Block {
    let tagged: Vec<_> = lines.iter().map(|(stream, text)| (*stream, Tag::WHOLE, *text)).collect();
    tagged_block(first_seq, &tagged)
}

fn tagged_block(first_seq: u64, lines: &[(Stream, Tag, &[u8])]) -> Block {
    let stamp = stamp("2026-11-23T07:50:00.123456789Z".parse().expect("instant"));
    let mut bytes = Vec::new();
    for (stream, tag, text) in lines {
        write_head(&stamp, *stream, *tag, &mut bytes);
        bytes.extend_from_slice(text);
        bytes.push(b'\n');
    }
    Block { first_seq, bytes: bytes.into(), end: Position::START }
}
