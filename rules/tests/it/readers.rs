//! Whatever a rule pack says, it is read to faults or to rules that can be used; whatever a report says, it is judged. Each
//! check panics where that is not so. Given inputs by `any_text.rs`.

use domain::event::{Body, Event};
use domain::line::{Block, Position};
use domain::order::Order;
use rules::{Limits, Matcher, Packs, RuleSet, judge_report};

/// Panics where an input is not dealt with.
type Check = fn(&[u8]);

/// Each with the name of its corpus.
pub const TARGETS: [(&str, Check); 2] =
    [("rules", |input| pack(&String::from_utf8_lossy(input))), ("messages", report)];

/// The pack reads its own text as a job's output, too.
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
    assert_eq!(Matcher::resume(matcher.rules().clone(), state).hits(), matcher.hits(), "what is kept is what was seen");
}

fn report(input: &[u8]) {
    let order = include_bytes!("../../../fuzz/corpus/messages/order.json");
    let order: Order = serde_json::from_slice(order).expect("an order");
    if let Ok(Event { body: Body::Finished(report), .. }) = serde_json::from_slice(input) {
        judge_report(&report, &Limits::of(&order.job), &RuleSet::none());
    }
}
