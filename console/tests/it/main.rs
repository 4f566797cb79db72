//! The API over a real socket and a real store.

mod any_text;
mod many_clients;
mod server;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use server::Server;

fn a_job(name: &str) -> Value {
    json!({ "group": "db", "name": name, "schedule": "0 2 * * *", "zone": "Europe/Paris", "command": "true" })
}

#[tokio::test]
async fn only_health_needs_no_token() {
    let server = Server::start().await;
    for token in [None, Some("wrong"), Some("")] {
        for path in ["/api/jobs", "/api/runs", "/api/ledger", "/api/sinks", "/api/alerts", "/metrics"] {
            let (status, body) = server.send_as(token, Method::GET, path, None).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
            assert!(body["error"].as_str().is_some_and(|message| message.contains("token")), "{body}");
        }
        assert_eq!(server.send_as(token, Method::GET, "/api/health", None).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn every_fault_is_json_with_a_status_of_its_class() {
    let server = Server::start().await;
    let cases = [
        (Method::GET, "/api/nothing", None, StatusCode::NOT_FOUND),
        (Method::GET, "/nothing", None, StatusCode::NOT_FOUND),
        (Method::PATCH, "/api/jobs", None, StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/api/jobs/db/none", None, StatusCode::NOT_FOUND),
        (Method::POST, "/api/jobs/db/none/run", None, StatusCode::NOT_FOUND),
        (Method::GET, "/api/runs/nonsense", None, StatusCode::BAD_REQUEST),
        (Method::GET, "/api/runs/20261123T075000Z-3f9a1c0e7b2d", None, StatusCode::NOT_FOUND),
        (Method::POST, "/api/runs/20261123T075000Z-3f9a1c0e7b2d/stop", None, StatusCode::NOT_FOUND),
        (Method::GET, "/api/runs?outcome=fine", None, StatusCode::BAD_REQUEST),
        (Method::GET, "/api/runs?limits=3", None, StatusCode::BAD_REQUEST),
        (Method::GET, "/api/runs?job=x", None, StatusCode::BAD_REQUEST),
        (Method::POST, "/api/apply", Some(json!({ "jobs": [] })), StatusCode::UNPROCESSABLE_ENTITY),
        (Method::PUT, "/api/jobs/db/other", Some(a_job("dump")), StatusCode::BAD_REQUEST),
        (
            Method::PUT,
            "/api/jobs/db/dump",
            Some(json!({ "group": "db", "name": "dump", "schedule": "61 * * * *", "command": "true" })),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
    ];
    for (method, path, body, expected) in cases {
        let (status, answer) = server.send(method.clone(), path, body).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|message| !message.is_empty()), "{method} {path}: {answer}");
    }
}

/// Programs read these members; the console of a later build and an older client understand each other.
#[tokio::test]
async fn answers_keep_their_json() {
    let server = Server::start().await;
    server.send_ok(Method::PUT, "/api/jobs/db/dump", Some(a_job("dump"))).await;
    let run = server.send_ok(Method::POST, "/api/jobs/db/dump/run", None).await;
    let of_run = format!("/api/runs/{}", run["run_id"].as_str().expect("a name"));
    let apply = json!({ "jobs": [a_job("dump"), a_job("other")], "source": "jobs.toml", "dry_run": true });
    let maintenance = json!({ "on": true, "group": "db", "until": "2026-11-24T00:00:00Z", "why": "move" });
    for (name, method, path, body) in [
        ("jobs", Method::GET, "/api/jobs", None),
        ("job", Method::GET, "/api/jobs/db/dump", None),
        ("runs", Method::GET, "/api/runs", None),
        ("run", Method::GET, of_run.as_str(), None),
        ("ledger", Method::GET, "/api/ledger", None),
        ("sinks", Method::GET, "/api/sinks", None),
        ("alerts", Method::GET, "/api/alerts", None),
        ("apply", Method::POST, "/api/apply", Some(apply)),
        ("maintenance", Method::POST, "/api/maintenance", Some(maintenance)),
    ] {
        testbed::golden(env!("CARGO_MANIFEST_DIR"), name, &server.send_ok(method, path, body).await);
    }
}

#[tokio::test]
async fn a_job_is_stored_paused_resumed_run_and_removed() {
    let server = Server::start().await;
    server.send_ok(Method::PUT, "/api/jobs/db/dump", Some(a_job("dump"))).await;
    let shown = server.send_ok(Method::GET, "/api/jobs/db/dump", None).await;
    // The server's clock is fixed at 2026-11-23T12:00:00Z.
    assert_eq!((&shown["zone"], &shown["next"]), (&json!("Europe/Paris"), &json!("2026-11-24T01:00:00Z")));

    let paused = server.send_ok(Method::POST, "/api/jobs/db/dump/pause", Some(json!({ "why": "disk" }))).await;
    assert_eq!((&paused["paused"]["why"], &paused["paused"]["by"]), (&json!("disk"), &json!("owner")));
    let jobs = server.send_ok(Method::GET, "/api/jobs?group=db", None).await;
    assert_eq!((jobs["jobs"].as_array().map(Vec::len), &jobs["jobs"][0]["next"]), (Some(1), &Value::Null));
    server.send_ok(Method::POST, "/api/jobs/db/dump/resume", None).await;

    let run = server.send_ok(Method::POST, "/api/jobs/db/dump/run", None).await;
    assert_eq!((&run["trigger"], &run["state"]), (&json!("manual"), &json!("scheduled")));
    let run_id = run["run_id"].as_str().expect("a name").to_owned();
    let runs = server.send_ok(Method::GET, "/api/runs?group=db&job=dump&open=true", None).await;
    assert_eq!(runs["runs"][0]["run_id"], run["run_id"]);
    let (status, _) = server.send(Method::GET, &format!("/api/runs/{run_id}/logs"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let stopped = server.send_ok(Method::POST, &format!("/api/runs/{run_id}/stop"), None).await;
    assert_eq!(stopped["outcome"], "stopped");
    let (status, _) = server.send(Method::POST, &format!("/api/runs/{run_id}/stop"), None).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let ledger = server.send_ok(Method::GET, "/api/ledger", None).await;
    assert_eq!(ledger, json!({ "scheduled": 1, "outcomes": { "stopped": 1 }, "open": 0, "adds_up": true }));

    server.send_ok(Method::DELETE, "/api/jobs/db/dump", None).await;
    assert_eq!(server.send(Method::GET, "/api/jobs/db/dump", None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_file_is_applied_with_its_difference_and_a_dry_run_changes_nothing() {
    let server = Server::start().await;
    let apply = |jobs: Vec<Value>, prune: bool, dry_run: bool| json!({ "jobs": jobs, "source": "/etc/jobs.toml", "prune": prune, "dry_run": dry_run });
    let first = apply(vec![a_job("a"), a_job("b")], false, false);
    assert_eq!(server.send_ok(Method::POST, "/api/apply", Some(first)).await["added"], json!(["db/a", "db/b"]));
    let pruning = |dry_run| apply(vec![a_job("b"), a_job("c")], true, dry_run);
    let expected = json!({
        "added": ["db/c"], "changed": [], "removed": ["db/a"], "left": [], "taken_over": [], "unchanged": 1, "dry_run": true,
    });
    assert_eq!(server.send_ok(Method::POST, "/api/apply", Some(pruning(true))).await, expected);
    let names = |jobs: Value| -> Vec<Value> {
        jobs["jobs"].as_array().expect("jobs").iter().map(|job| job["name"].clone()).collect()
    };
    assert_eq!(names(server.send_ok(Method::GET, "/api/jobs", None).await), ["a", "b"]);
    server.send_ok(Method::POST, "/api/apply", Some(pruning(false))).await;
    assert_eq!(names(server.send_ok(Method::GET, "/api/jobs", None).await), ["b", "c"]);
}

#[tokio::test]
async fn applying_a_file_reports_the_progress_to_a_client_that_accepts_lines() {
    let server = Server::start().await;
    let jobs: Vec<Value> = (0..1200).map(|number| a_job(&format!("job-{number}"))).collect();
    let lines = server.apply_by_lines(json!({ "jobs": jobs, "source": "file" })).await;
    let (last, progress) = lines.split_last().expect("lines");
    assert!(progress.iter().any(|line| line["processed"] == 500 && line["jobs"] == 1200), "{progress:?}");
    assert_eq!(last["difference"]["added"].as_array().map(Vec::len), Some(1200), "{last}");
    let mut bad = a_job("bad");
    bad["schedule"] = json!("61 * * * *");
    let lines = server.apply_by_lines(json!({ "jobs": [bad], "source": "file" })).await;
    assert_eq!((lines.len(), &lines[0]["status"]), (1, &json!(422)), "{lines:?}");
    assert!(lines[0]["error"].as_str().is_some_and(|error| error.contains("db/bad")), "{lines:?}");
}

#[tokio::test]
async fn the_api_checks_a_job_as_a_file_is_checked() {
    let server = Server::start().await;
    let with = |key: &str, value: Value| {
        let mut job = a_job("dump");
        job[key] = value;
        job
    };
    for (job, part) in [
        (with("env", json!({ "A=B": "x" })), "not a variable name"),
        (with("env", json!({ "A": "x".repeat(131_072) })), "longer than 131072 bytes"),
        (with("env", json!({ "A": "x\u{0}" })), "NUL byte"),
        (with("command", json!("")), "`command` is empty"),
        (with("timeout", json!("0s")), "`timeout` is zero"),
    ] {
        let apply = json!({ "jobs": [a_job("other"), job], "source": "file" });
        for (method, path, body) in
            [(Method::PUT, "/api/jobs/db/dump", job.clone()), (Method::POST, "/api/apply", apply)]
        {
            let (status, answer) = server.send(method, path, Some(body)).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {answer}");
            assert!(answer["error"].as_str().is_some_and(|message| message.contains(part)), "{answer}");
        }
    }
    assert_eq!(server.send_ok(Method::GET, "/api/jobs", None).await, json!({ "jobs": [] }));
}

#[tokio::test]
async fn maintenance_starts_and_ends() {
    let server = Server::start().await;
    let on = json!({ "on": true, "group": "db", "why": "upgrade", "catch_up": "once" });
    let answer = server.send_ok(Method::POST, "/api/maintenance", Some(on)).await;
    assert_eq!((&answer["windows"][0]["why"], &answer["windows"][0]["catch_up"]), (&json!("upgrade"), &json!("once")));
    let off = json!({ "on": false, "group": "db" });
    let answer = server.send_ok(Method::POST, "/api/maintenance", Some(off)).await;
    assert_eq!((&answer["ended"], &answer["windows"]), (&json!(1), &json!([])));
}

#[tokio::test]
async fn logs_are_exact_bytes_and_a_fault_midway_breaks_the_answer() {
    let server = Server::start().await;
    server.send_ok(Method::PUT, "/api/jobs/db/dump", Some(a_job("dump"))).await;
    let run = server.send_ok(Method::POST, "/api/jobs/db/dump/run", None).await;
    let path = format!("/api/runs/{}/logs", run["run_id"].as_str().expect("a name"));
    server.print(vec![Ok(b"\x00\xffone\n".to_vec()), Ok(b"two".to_vec())]);
    assert_eq!(server.read_bytes(&path).await.expect("whole"), b"\x00\xffone\ntwo");
    server.print(vec![Ok(b"one\n".to_vec()), Err("the disk was removed".to_owned())]);
    assert!(server.read_bytes(&path).await.is_err(), "a reader must see that the answer is not whole");
    for query in ["?stream=stdout&timestamps=true&follow=true", "?stream=stderr"] {
        server.print(vec![Ok(query.as_bytes().to_vec())]);
        assert_eq!(server.read_bytes(&format!("{path}{query}")).await.expect("whole"), query.as_bytes());
    }
    assert_eq!(server.send(Method::GET, &format!("{path}?stream=stdin"), None).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_report_of_another_scheduler_is_accepted_each_time_it_is_sent() {
    let server = Server::start().await;
    let event = json!({
        "version": 1, "run_id": "20261123T075000Z-3f9a1c0e7b2d", "group": "x", "job": "y", "attempt": 1,
        "nominal": "2026-11-23T07:50:00Z", "trigger": "exec", "runner": "r", "host": "h", "at": "2026-11-23T07:50:00Z",
        "event": "started", "pid": 1, "command": "true",
    });
    for _ in 0..2 {
        let answer = server.send_ok(Method::POST, "/api/reports", Some(json!({ "events": [event] }))).await;
        assert_eq!(answer, json!({ "accepted": 1 }));
    }
    let mut evil = event;
    evil["run_id"] = json!("../../etc/passwd");
    assert_eq!(
        server.send(Method::POST, "/api/reports", Some(json!({ "events": [evil] }))).await.0,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn metrics_are_in_the_text_format_of_prometheus() {
    let server = Server::start().await;
    server.send_ok(Method::PUT, "/api/jobs/db/a", Some(a_job("a"))).await;
    server.send_ok(Method::POST, "/api/jobs/db/a/run", None).await;
    let page = String::from_utf8(server.read_bytes("/metrics").await.expect("answered")).expect("text");
    for line in [
        "# TYPE sexton_runs gauge",
        "sexton_runs{outcome=\"failed\"} 0",
        "sexton_runs_open 1",
        "sexton_sink_working{sink=\"central\",type=\"syslog\"} 0",
        "sexton_sink_lag_lines{sink=\"central\",type=\"syslog\"} 7",
        "sexton_sink_lag_seconds{sink=\"central\",type=\"syslog\"} 1.5",
        "sexton_sink_dropped_lines_total{sink=\"central\",type=\"syslog\"} 3",
        "sexton_sink_refused_records_total{sink=\"central\",type=\"syslog\"} 2",
        "sexton_alerts_pending 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
    let shape =
        |line: &str| line.starts_with("# ") || line.split(' ').next_back().is_some_and(|n| n.parse::<f64>().is_ok());
    assert!(page.lines().all(shape), "{page}");
}
