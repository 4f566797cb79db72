//! Checks of the readers for any input: a rule pack becomes faults or usable rules, and every report is judged. A
//! failed check panics. `any_text.rs` supplies the inputs.

use domain::event::{Body, Event};
use domain::line::{Block, Position};
use domain::order::Order;
use rules::{Limits, Matcher, Packs, RuleSet, judge_report};

/// Panics when a reader fails on the input.
type Check = fn(&[u8]);

/// Each check with the name of its corpus.
pub(crate) const TARGETS: [(&str, Check); 2] =
    [("rules", |input| pack(&String::from_utf8_lossy(input))), ("messages", report)];

/// The pack also matches its own text as the output of a job.
fn pack(text: &str) {
    let mut packs = Packs::default();
    if packs.add("pack.toml", text).is_err() {
        return;
    }
    packs.check_examples().to_string();
    let names: Vec<String> = packs.names().map(str::to_owned).collect();
    let Ok(rules) = RuleSet::compile(&packs, &names) else { return };
    let mut matcher = Matcher::new(rules);
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(b'\n');
    matcher.feed(&Block { first_seq: 1, bytes: bytes.into(), end: Position::START });
    let state = matcher.state();
    assert_eq!(
        Matcher::resume(matcher.rules().clone(), state).hits(),
        matcher.hits(),
        "the stored state has the same hits"
    );
}

fn report(input: &[u8]) {
    let order = include_bytes!("../../../fuzz/corpus/messages/order.json");
    let order: Order = serde_json::from_slice(order).expect("an order");
    if let Ok(Event { body: Body::Finished(report), .. }) = serde_json::from_slice(input) {
        judge_report(&report, &Limits::of(&order.job), &RuleSet::none());
    }
}
