//! Readers return an answer for any text, and every accepted value can be used.

use proptest::prelude::*;
use testbed::try_inputs;

use crate::readers;

/// Texts made of pieces that the readers know, so that they pass the first check.
fn pieces(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => proptest::sample::select(pieces).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        2 => (0_u32..70).prop_map(|number| number.to_string()),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

const SCHEDULE: &[&str] = &[
    "*",
    " ",
    " ",
    " ",
    " ",
    "/",
    "-",
    ",",
    "~",
    "H",
    "H(",
    ")",
    "L",
    "W",
    "#",
    "?",
    "mon",
    "dec",
    "@",
    "@daily",
    "@every ",
    "@at ",
    "cron(",
    "rate(",
    "at(",
    "2026-03-08T02:30:00",
    "Z",
    "90s",
    "minutes",
    "é",
    "0",
    "1",
    "5",
    "29",
];

const CRONTAB: &[&str] = &[
    "\n",
    "\n",
    "\r\n",
    "* * * * * ",
    "0 5 * * * ",
    "*/90 2 13 * 5 ",
    "@daily ",
    "@every 90s ",
    "CRON_TZ=",
    "Europe/Paris",
    "X=",
    "\"",
    "'",
    "=",
    "%",
    "\\",
    "\\%",
    "# sexton: ",
    "# sexton-defaults: ",
    "name=",
    "timeout=2h ",
    "env.A=1 ",
    "retries.max=2 ",
    "group=",
    "a",
    "/opt/x",
    "root ",
    "-n ",
    "-",
    "\0",
    " ",
    "\t",
    "é",
    "\u{feff}",
];

const TOML: &[&str] = &[
    "[[job]]\n",
    "name = \"a\"\n",
    "name = \"b\"\n",
    "schedule = \"@daily\"\n",
    "schedule = \"",
    "H H * * *",
    "\"\n",
    "command = \"x\"\n",
    "argv = [\"x\"]\n",
    "argv = [",
    "]\n",
    "env = {",
    "}\n",
    "retries = { max = 1 }\n",
    "[job]\n",
    "[job.retries]\n",
    "timeout = \"1h\"\n",
    "zone = \"Europe/Paris\"\n",
    "=",
    "\"",
    "\n",
    "1",
    "-1",
    "1e999",
    "true",
    "\\u0000",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_a_schedule_or_not(text in pieces(SCHEDULE), other in any::<String>()) {
        readers::schedule(&text);
        readers::schedule(&other);
    }

    #[test]
    fn any_text_is_a_crontab_with_faults_or_without(text in pieces(CRONTAB), other in any::<String>()) {
        readers::crontab(&text);
        readers::crontab(&other);
    }

    #[test]
    fn any_text_is_a_jobs_file_with_faults_or_without(text in pieces(TOML), other in any::<String>()) {
        readers::jobs_file(&text);
        readers::jobs_file(&other);
    }
}

#[test]
fn no_input_of_the_corpus_and_no_mutation_of_one_makes_a_reader_panic() {
    for (target, check) in readers::TARGETS {
        try_inputs(target, check);
    }
}
