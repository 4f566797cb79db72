use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn log_stream() -> Arc<LogStream> {
    Arc::new(LogStream { group: "/cron/db".into(), stream: "dump/\"1\"".into() })
}

fn add(batch: &mut Batch, ms: i64, message: &str, frame: usize) {
    let start = batch.begin_event(&mut Vec::new());
    open_event(ms, &mut crate::stamp::Digits::default(), &mut batch.body);
    crate::json::escape(message.as_bytes(), &mut batch.body);
    close_event(&mut batch.body);
    batch.finish_event(start, ms, message.len(), RecordId::Line { seq: frame as u64 });
}

fn frame(sealed: &SealedBatch, event: usize) -> usize {
    let RecordId::Line { seq } = sealed.entries[event].record else { panic!("{event} is no line") };
    seq as usize
}

#[test]
fn a_call_matches_the_golden_bytes() {
    let mut batch = Batch::new(log_stream(), 1);
    add(&mut batch, 1_795_420_200_124, "two", 0);
    add(&mut batch, 1_795_420_200_123, "one \"quoted\"", 1);
    add(&mut batch, 1_795_420_200_124, "three", 2);
    assert_eq!(batch.counted_bytes(), 3 + 12 + 5 + 3 * 26);
    let sealed = batch.seal();
    assert_eq!(
        String::from_utf8_lossy(&sealed.body),
        concat!(
            r#"{"logGroupName":"/cron/db","logStreamName":"dump/\"1\"","logEvents":["#,
            r#"{"timestamp":1795420200123,"message":"one \"quoted\""},"#,
            r#"{"timestamp":1795420200124,"message":"two"},"#,
            r#"{"timestamp":1795420200124,"message":"three"}]}"#
        )
    );
    assert_eq!([0, 1, 2].map(|event| frame(&sealed, event)), [1, 0, 2]);
    assert_eq!(
        String::from_utf8_lossy(&sealed.part(1..2)),
        concat!(
            r#"{"logGroupName":"/cron/db","logStreamName":"dump/\"1\"","logEvents":["#,
            r#"{"timestamp":1795420200124,"message":"two"}]}"#
        )
    );
}

#[test]
fn the_largest_message_fills_a_call() {
    let limits = Limits { events: BATCH_EVENTS_MAX, bytes: BATCH_BYTES_MAX };
    let mut batch = Batch::new(log_stream(), 1);
    assert!(batch.fits(limits, 0, MESSAGE_BYTES_MAX));
    add(&mut batch, 0, &"x".repeat(MESSAGE_BYTES_MAX - 27), 0);
    assert!(batch.fits(limits, 0, 1) && !batch.fits(limits, 0, 2));
}

proptest! {
    #[test]
    fn no_call_exceeds_a_limit(events in proptest::collection::vec((0i64..200_000_000, 1usize..400), 1..400)) {
        let limits = Limits { events: 50, bytes: 4000 };
        let mut batch = Batch::new(log_stream(), 1);
        let mut sealed = Vec::new();
        for (frame, (ms, length)) in events.iter().enumerate() {
            if !batch.fits(limits, *ms, *length) {
                sealed.push(std::mem::replace(&mut batch, Batch::new(log_stream(), 1)).seal());
            }
            add(&mut batch, *ms, &"x".repeat(*length), frame);
        }
        sealed.push(batch.seal());
        let mut frames = Vec::new();
        for call in &sealed {
            let body: Value = serde_json::from_slice(&call.body).expect("JSON");
            let read: Vec<(i64, usize)> = body["logEvents"].as_array().expect("events").iter()
                .map(|event| (event["timestamp"].as_i64().expect("ms"), event["message"].as_str().expect("text").len()))
                .collect();
            prop_assert_eq!(read.len(), call.len());
            prop_assert!(read.len() <= limits.events);
            prop_assert!(read.iter().map(|(_, bytes)| bytes + EVENT_OVERHEAD_BYTES).sum::<usize>() <= limits.bytes);
            prop_assert!(read.is_sorted_by_key(|(ms, _)| *ms));
            prop_assert!(read[read.len() - 1].0 - read[0].0 < SPAN_MS_MAX);
            for (index, event) in read.iter().enumerate() {
                let number = frame(call, index);
                prop_assert_eq!(*event, events[number]);
                // Events of the same time keep the order of their arrival.
                prop_assert!(index == 0 || read[index - 1].0 < event.0 || frame(call, index - 1) < number);
                frames.push(number);
            }
        }
        frames.sort_unstable();
        prop_assert_eq!(frames, (0..events.len()).collect::<Vec<_>>());
    }
}
