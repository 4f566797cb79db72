//! The sink `file` on a real file system.

use std::fs;

use domain::line::Stream;

use crate::memory::{RETRY, Run, capture_time, deliver, start, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn lines_reach_the_file_that_the_template_names() {
    let folder = tempfile::tempdir().expect("folder");
    let run = Run::new(1);
    run.set_time(capture_time());
    run.print(Stream::Stdout, b"one \xff");
    run.print(Stream::Stderr, b"");
    run.finish();
    deliver(
        &format!("[sink.a]\ntype = \"file\"\npath = \"{}/{{group}}/{{job}}-{{date}}.log\"\n", folder.path().display()),
        &run,
    )
    .await;
    let written = fs::read(folder.path().join(run.header.nominal.strftime("db/job1-%Y-%m-%d.log").to_string()))
        .expect("the file");
    let at = format!("{:.9}", run.time());
    let lines: Vec<&[u8]> = written.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 5);
    assert!(String::from_utf8_lossy(lines[0]).contains(" F:run.started run started: dump.sh"));
    assert_eq!(lines[1], [at.as_bytes(), b" stdout F one \xff"].concat());
    assert_eq!(lines[2], [at.as_bytes(), b" stderr F "].concat());
    assert!(String::from_utf8_lossy(lines[3]).contains(" F:run.finished run succeeded after 1s500ms"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_file_is_reopened() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("job1.log");
    let (engine, _events) = start(&format!(
        "[sink.a]\ntype = \"file\"\nformat = \"json\"\npath = \"{}/{{job}}.log\"\n",
        folder.path().display()
    ));
    let run = Run::new(1);
    run.print(Stream::Stdout, b"before");
    engine.add(run.feed());
    assert!(engine.flush(testbed::DEADLINE).await);
    fs::rename(&path, folder.path().join("job1.log.1")).expect("rotated");
    run.print(Stream::Stdout, b"after");
    engine.wake(&run.header.run_id);
    assert!(engine.flush(testbed::DEADLINE).await);
    let old = fs::read_to_string(folder.path().join("job1.log.1")).expect("old");
    let new = fs::read_to_string(&path).expect("new");
    assert!(old.contains("\"message\":\"before\"") && !old.contains("after"), "{old}");
    assert!(new.contains("\"message\":\"after\"") && !new.contains("before"), "{new}");
    for line in old.lines().chain(new.lines()) {
        serde_json::from_str::<serde_json::Value>(line).expect(line);
    }
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_obstacle_is_reported_and_a_torn_line_is_completed() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("logs");
    fs::write(&path, b"in the way").expect("file");
    let (engine, mut events) =
        start(&format!("[sink.a]\ntype = \"file\"\npath = \"{}/logs/{{job}}.log\"\n{RETRY}", folder.path().display()));
    let run = Run::new(1);
    run.print(Stream::Stdout, b"kept");
    run.finish();
    engine.add(run.feed());
    let event = events.recv().await.expect("an event");
    assert!(format!("{event:?}").contains("cannot create the directory"), "{event:?}");
    assert_eq!(engine.status().state, sinks::status::SinkState::Misconfigured);
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("directory");
    fs::write(path.join("job1.log"), b"torn").expect("file");
    wait_until(|| run.is_delivered()).await;
    let written = fs::read_to_string(path.join("job1.log")).expect("the file");
    assert_eq!(written.lines().next(), Some("torn"));
    assert_eq!(written.lines().count(), 4);
    let event = events.recv().await.expect("an event");
    assert!(matches!(event, sinks::status::SinkEvent::Recovered { .. }), "{event:?}");
    engine.shutdown().await;
}
