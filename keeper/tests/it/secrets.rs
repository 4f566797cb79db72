//! Secrets in a job's output are masked before they reach the spool.

use std::collections::BTreeMap;

use domain::event::Ended;
use domain::line::Stream;
use testbed::wait_for;

use crate::attempt::{Attempt, shell};

#[test]
fn lines_and_json_leaves_are_masked_and_short_values_are_not() {
    let check = |value: &str, script: &str, expected: &[&str]| {
        let env = BTreeMap::from([("SECRET".to_owned(), value.to_owned())]);
        let mut attempt = Attempt::start_with_secrets(shell(script), env);
        let exit = attempt.wait_for_end();
        assert_eq!(attempt.texts(Stream::Stdout), expected, "{script}");
        assert_eq!(exit.output.stdout_lines, expected.len() as u64, "{script}");
    };
    let key = "-----BEGIN KEY-----\nabc\nMIIEvQIBADAN\n-----END KEY-----";
    check(key, "echo \"$SECRET\"; echo MIIEvQIBADAN; echo abc", &["***", "***", "***", "***", "***", "abc"]);
    let json = r#"{"user":"admin1","password":"correct horse","port":5}"#;
    check(json, "echo admin1 has 'correct horse' on 5; echo \"$SECRET\"", &["*** has *** on 5", "***"]);
    check("12345", "echo 12345", &["12345"]);
    check("s3cr3t!", "printf 'no end: s3cr3t!'", &["no end: ***"]);
    check("s3cr3t!", "printf 'a beginning: s3cr3'", &["a beginning: s3cr3"]);
}

#[test]
fn held_lines_are_written_while_the_job_is_idle() {
    let env = BTreeMap::from([("SECRET".to_owned(), "{\n  \"key\": \"value-of-it\"\n}".to_owned())]);
    let mut attempt = Attempt::start_with_secrets(shell("echo {; exec sleep 600"), env);
    wait_for("the line", || (attempt.texts(Stream::Stdout) == ["{"]).then_some(()));
    attempt.request_stop();
    assert_eq!(attempt.wait_for_end().ended, Ended::Stopped);
}
