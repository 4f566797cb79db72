//! Every call to AWS fails once, in every way, at every step of a run, through the real clients. The run still starts
//! once and ends once, its alert is sent, and no message stays in a queue.
//!
//! The story runs once without faults, which numbers its calls, and then once for each call to fail, each time in its
//! own account.

mod story;

use std::panic::catch_unwind;
use std::sync::Arc;
use std::time::Duration;

use aws::Options;
use testbed::{AwsCall, AwsFault, AwsFaults};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::emulator::Installation;
use story::Story;

/// Concurrent stories. Most of them wait for the lease of a message.
const STORIES_AT_ONCE: usize = 16;

/// Timeout of a call whose answer is late. Far longer than the emulator needs.
const LATE_CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls that change nothing, so it makes no difference whether a failed one was executed.
const READS: [&str; 7] = ["GetItem", "BatchGetItem", "Query", "Scan", "GetQueueUrl", "ListQueues", "GetParameter"];

fn is_write(call: &AwsCall) -> bool {
    !READS.contains(&call.action.as_str())
}

/// Runs one story in its own account, in which one call fails a number of times. Returns its calls.
async fn run_story(fails: Option<(usize, usize, AwsFault)>) -> Option<Vec<AwsCall>> {
    let installation = Installation::start(&["db"]).await?;
    let proxy = AwsFaults::start(installation.address()).await;
    let mut options = Options { endpoint: Some(proxy.endpoint()), ..installation.options.clone() };
    if matches!(fails, Some((_, _, AwsFault::AnswerLate))) {
        options.call_timeout = LATE_CALL_TIMEOUT;
    }
    let mut story = Story::start(&installation.aws, &aws::connect(&options).await.unwrap()).await;
    let before = proxy.calls().len();
    if let Some((call, times, fault)) = fails {
        proxy.strike(before + call, times, fault);
    }
    story.run_to_end().await;
    let (calls, struck) = (proxy.calls(), proxy.struck());
    let answers_lost = matches!(fails, Some((_, _, AwsFault::AnswerLost | AwsFault::AnswerLate)));
    let may_double = answers_lost && struck.iter().any(|call| calls[*call].action == "Publish");
    story.assert_one_outcome(may_double).await;
    assert_eq!(struck.len(), fails.map_or(0, |(_, times, _)| times), "calls that failed: {struck:?}");
    Some(calls[before..].to_vec())
}

/// Returns the first call of each step: a read after the same read is another page or part of it.
fn first_calls_of_steps(calls: &[AwsCall]) -> Vec<usize> {
    let is_same = |a: &AwsCall, b: &AwsCall| (&a.action, a.table()) == (&b.action, b.table());
    let continues_previous =
        |place: usize| place > 0 && !is_write(&calls[place]) && is_same(&calls[place], &calls[place - 1]);
    (0..calls.len()).filter(|place| !continues_previous(*place)).collect()
}

/// Runs the story for the first call of each step that `is_relevant`; the call fails `times` times.
async fn every_call_fails(fault: AwsFault, times: usize, is_relevant: impl Fn(&AwsCall) -> bool) {
    let Some(calls) = run_story(None).await else { return };
    let numbers: Vec<usize> =
        first_calls_of_steps(&calls).into_iter().filter(|number| is_relevant(&calls[*number])).collect();
    assert!(!numbers.is_empty(), "{calls:?}");
    println!("{} calls, {} fail: {fault:?}", calls.len(), numbers.len());
    let permits = Arc::new(Semaphore::new(STORIES_AT_ONCE));
    let (mut stories, runtime) = (JoinSet::new(), Handle::current());
    for number in numbers {
        let (permit, runtime) = (permits.clone().acquire_owned().await.unwrap(), runtime.clone());
        let what = format!("call {number}, {} {}, {fault:?}", calls[number].service, calls[number].action);
        stories.spawn_blocking(move || {
            let _permit = permit;
            let result = catch_unwind(|| runtime.block_on(run_story(Some((number, times, fault)))));
            result.map_err(|_| what).err()
        });
    }
    let failed: Vec<String> = stories.join_all().await.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_calls_are_retried() {
    every_call_fails(AwsFault::Refused, 1, |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_throttled_twice_are_retried() {
    every_call_fails(AwsFault::Throttled, 2, |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_on_cut_connections_are_retried() {
    every_call_fails(AwsFault::Cut, 1, is_write).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executed_call_without_an_answer_is_not_executed_twice() {
    every_call_fails(AwsFault::AnswerLost, 1, is_write).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executed_call_with_a_late_answer_is_not_executed_twice() {
    every_call_fails(AwsFault::AnswerLate, 1, is_write).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undone_part_of_a_batch_is_sent_again() {
    every_call_fails(AwsFault::Partial, 1, |call| call.entries() > 0).await;
}
