//! The sink `file` on a real file system.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use domain::line::Stream;
use sinks::status::SinkEvent;

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
    assert!(matches!(event, SinkEvent::Recovered { .. }), "{event:?}");
    engine.shutdown().await;
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("there").mode() & 0o7777
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Starts a sink on `path`, prints one line and returns the first event.
async fn first_event(path: &str) -> SinkEvent {
    let (engine, mut events) = start(&format!("[sink.a]\ntype = \"file\"\npath = \"{path}\"\n{RETRY}"));
    let run = Run::new(1);
    run.print(Stream::Stdout, b"kept");
    run.finish();
    engine.add(run.feed());
    let event = events.recv().await.expect("an event");
    assert_eq!(engine.status().state, sinks::status::SinkState::Misconfigured);
    engine.shutdown().await;
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_place_of_a_file_is_never_followed() {
    let folder = tempfile::tempdir().expect("folder");
    let target = folder.path().join("target");
    fs::write(&target, "untouched\n").expect("target");
    for (name, leads_to) in [("job1.log", target.clone()), ("dangling.log", folder.path().join("nothing"))] {
        let link = folder.path().join(name);
        symlink(leads_to, &link).expect("link");
        let event = first_event(&link.display().to_string()).await;
        assert!(format!("{event:?}").contains("is a symbolic link"), "{event:?}");
    }
    assert_eq!(fs::read_to_string(&target).expect("target"), "untouched\n");
    assert!(!folder.path().join("nothing").exists());
    // A link to a directory is followed.
    symlink(folder.path(), folder.path().join("alias")).expect("link");
    let run = Run::new(1);
    run.print(Stream::Stdout, b"line");
    run.finish();
    deliver(&format!("[sink.a]\ntype = \"file\"\npath = \"{}/alias/new.log\"\n", folder.path().display()), &run).await;
    assert!(fs::read_to_string(folder.path().join("new.log")).expect("the file").contains("line"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_others_can_write_is_an_error_for_root_and_a_warning_for_others() {
    let folder = tempfile::tempdir().expect("folder");
    let check = async |directory: &Path, part: &str| {
        let path = directory.join("job1.log").display().to_string();
        let toml = format!("[sink.a]\ntype = \"file\"\npath = \"{path}\"\n");
        if is_root() {
            let event = first_event(&path).await;
            assert!(format!("{event:?}").contains(part), "{part}: {event:?}");
            assert!(!Path::new(&path).exists(), "{path}");
        } else {
            let checked = sinks::check::check(&crate::memory::config(&toml), "g").await.expect("a warning");
            assert!(checked.contains("warning") && checked.contains(part), "{checked}");
            let run = Run::new(1);
            run.print(Stream::Stdout, b"line");
            run.finish();
            deliver(&toml, &run).await;
        }
    };
    for (name, mode, part) in
        [("all", 0o777, "every user can write"), ("sticky", 0o1777, "every user"), ("group", 0o770, "its group")]
    {
        let directory = folder.path().join(name);
        fs::create_dir(&directory).expect("folder");
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).expect("own");
        check(&directory, part).await;
        // Above a directory, only what another user could have put there is refused: a link, a foreign directory.
        let real = folder.path().join(format!("real-{name}"));
        fs::create_dir(&real).expect("folder");
        symlink(&real, directory.join("link")).expect("link");
        match mode & 0o1000 {
            0 => check(&directory.join("link"), "is a symbolic link").await,
            _ => write(&directory.join("link/sub")).await,
        }
        write(&directory.join("inner")).await;
        if is_root() {
            check_untouched(&directory.join("link"), &real, mode).await;
            chown(directory.join("inner"), Some(65_534), None).expect("root");
            check(&directory.join("inner/own"), "belongs to user 65534").await;
        }
    }
    if is_root() {
        let directory = folder.path().join("foreign");
        fs::create_dir_all(directory.join("inner")).expect("folder");
        chown(&directory, Some(65_534), None).expect("root");
        check(&directory, "belongs to user 65534").await;
        write(&directory.join("inner")).await;
        symlink(folder.path(), directory.join("link")).expect("link");
        check(&directory.join("link"), "is a symbolic link").await;
    }
}

/// Root creates no directory through a link that another user can replace.
async fn check_untouched(link: &Path, real: &Path, mode: u32) {
    if mode & 0o1000 == 0 {
        first_event(&link.join("new/job1.log").display().to_string()).await;
        assert_eq!(fs::read_dir(real).expect("folder").count(), 0);
    }
}

async fn write(directory: &Path) {
    let run = Run::new(1);
    run.print(Stream::Stdout, b"line");
    run.finish();
    let path = directory.join("new.log");
    deliver(&format!("[sink.a]\ntype = \"file\"\npath = \"{}\"\n", path.display()), &run).await;
    assert!(fs::read_to_string(path).expect("the file").contains("line"));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_get_mode_and_owner_and_existing_ones_keep_theirs() {
    let folder = tempfile::tempdir().expect("folder");
    let shown = folder.path().display();
    let write = async |toml: &str| {
        let run = Run::new(1);
        run.print(Stream::Stdout, b"line");
        run.finish();
        deliver(toml, &run).await;
    };
    write(&format!("[sink.a]\ntype = \"file\"\npath = \"{shown}/a/{{job}}.log\"\n")).await;
    assert_eq!((mode(&folder.path().join("a")), mode(&folder.path().join("a/job1.log"))), (0o700, 0o600));
    write(&format!("[sink.a]\ntype = \"file\"\nmode = \"644\"\npath = \"{shown}/b/{{job}}.log\"\n")).await;
    assert_eq!((mode(&folder.path().join("b")), mode(&folder.path().join("b/job1.log"))), (0o755, 0o644));
    write(&format!("[sink.a]\ntype = \"file\"\npath = \"{shown}/b/{{job}}.log\"\n")).await;
    assert_eq!(mode(&folder.path().join("b/job1.log")), 0o644);
    write("[sink.a]\ntype = \"file\"\npath = \"/dev/null\"\n").await;
    if is_root() {
        for (owner, expected) in [("daemon", (1, None)), ("1234:4321", (1234, Some(4321))), ("daemon:0", (1, Some(0)))]
        {
            let name = owner.replace(':', "-");
            write(&format!("[sink.a]\ntype = \"file\"\nowner = \"{owner}\"\npath = \"{shown}/{name}/x.log\"\n")).await;
            let written = fs::metadata(folder.path().join(&name).join("x.log")).expect("the file");
            assert_eq!((written.uid(), expected.1.map(|_| written.gid())), expected, "{owner}");
            // The owner can reach its file, and cannot replace it.
            let directory = fs::metadata(folder.path().join(&name)).expect("the directory");
            assert_eq!((directory.uid(), directory.mode() & 0o777), (0, 0o755));
        }
    }
}
