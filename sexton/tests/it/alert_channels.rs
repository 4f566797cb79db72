//! Alerts of a running `up`: channels that hang, jobs that fail together, names that no pack or channel has.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use testbed::{DEADLINE, wait_until};

use crate::driver::{Folder, Up, sexton};
use crate::evidence::{alerts, page, pager};

/// An HTTP server that accepts every request, and answers only while an answer is set.
struct Hook {
    address: SocketAddr,
    /// Status code and reason.
    answer: Arc<Mutex<Option<&'static str>>>,
    /// The bodies so far, answered or not.
    bodies: Arc<Mutex<Vec<Value>>>,
}

const ACCEPTED: &str = "204 No Content";

impl Hook {
    fn start(answer: Option<&'static str>) -> Hook {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("address");
        let (answer, bodies) = (Arc::new(Mutex::new(answer)), Arc::<Mutex<Vec<Value>>>::default());
        let hook = Hook { address, answer: answer.clone(), bodies: bodies.clone() };
        std::thread::spawn(move || {
            let mut unanswered = Vec::new();
            for mut stream in listener.incoming().flatten() {
                let Some(body) = read_body(&mut stream) else { continue };
                bodies.lock().expect("not poisoned").push(body);
                match *answer.lock().expect("not poisoned") {
                    Some(answer) => {
                        let head = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                        drop(stream.write_all(head.as_bytes()));
                    }
                    None => unanswered.push(stream),
                }
            }
        });
        hook
    }

    fn answer(&self, answer: &'static str) {
        *self.answer.lock().expect("not poisoned") = Some(answer);
    }

    /// The table of this webhook in a configuration.
    fn channel(&self, name: &str) -> String {
        format!("[channel.{name}]\ntype = \"webhook\"\nurl = \"http://{}/\"\ntimeout = \"1h\"\n", self.address)
    }

    fn jobs(&self) -> Vec<String> {
        self.bodies.lock().expect("not poisoned").iter().map(|body| body["job"].as_str().unwrap_or("").into()).collect()
    }
}

fn read_body(stream: &mut TcpStream) -> Option<Value> {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length: usize = head.split("content-length: ").nth(1)?.lines().next()?.trim().parse().ok()?;
            if body.len() >= length {
                return serde_json::from_slice(&request[head.len() + 4..]).ok();
            }
        }
        match stream.read(&mut chunk).ok()? {
            0 => return None,
            read => request.extend(&chunk[..read]),
        }
    }
}

fn jobs_of(alerts: &[Value]) -> Vec<&str> {
    alerts.iter().map(|alert| alert["job"].as_str().unwrap_or("")).collect()
}

#[test]
fn a_channel_that_hangs_delays_no_other_and_gets_its_alerts_after_a_restart() {
    let folder = Folder::new();
    let hook = Hook::start(None);
    let (configuration, alert_file) = pager(&folder);
    let text = std::fs::read_to_string(&configuration).expect("read");
    folder.write("sexton.toml", &(text + &hook.channel("hook")));
    let tab = folder.write("crontab", "# sexton: name=a\n@manually exit 1\n# sexton: name=b\n@manually exit 1\n");
    let state = folder.path("state");
    let arguments = ["--crontab", &*tab, "--config", &*configuration];
    let up = Up::start(&state, &arguments);
    up.run(&["run", "default/a", "--wait"]).expect(1);
    wait_until(DEADLINE, || hook.jobs() == ["a"] && jobs_of(&alerts(&alert_file)) == ["a"]);
    up.run(&["run", "default/b", "--wait"]).expect(1);
    wait_until(DEADLINE, || jobs_of(&alerts(&alert_file)) == ["a", "b"]);
    assert_eq!(hook.jobs(), ["a"], "the channel still hangs");
    assert_eq!(up.stop(), Some(0));

    hook.answer(ACCEPTED);
    let up = Up::start(&state, &arguments);
    wait_until(DEADLINE, || hook.jobs().len() == 3);
    let mut again = hook.jobs()[1..].to_vec();
    again.sort();
    assert_eq!(again, ["a", "b"]);
    wait_until(DEADLINE, || up.records(&["runs"]).len() == 2);
    assert_eq!(jobs_of(&alerts(&alert_file)), ["a", "b"], "no channel gets an alert twice");
}

/// The stored alert about the job; null while there is none.
fn stored_alert(state: &Path, job: &str) -> Value {
    let page = page(state, "/api/alerts");
    let body = page.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let listed: Value = serde_json::from_str(body).unwrap_or_default();
    let listed = listed["alerts"].as_array().cloned().unwrap_or_default();
    listed.into_iter().find(|alert| alert["job"] == job).unwrap_or_default()
}

/// The number of lines of Sexton's own log with all these parts.
fn logged(up: &Up, parts: &[&str]) -> usize {
    up.printed().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

#[test]
fn each_channel_is_retried_alone_and_a_refusal_is_final_also_after_a_kill() {
    let folder = Folder::new();
    let (refusing, failing) = (Hook::start(Some("404 Not Found")), Hook::start(Some("503 Service Unavailable")));
    let (configuration, alert_file) = pager(&folder);
    let text = std::fs::read_to_string(&configuration).expect("read");
    folder.write("sexton.toml", &(text + &refusing.channel("refusing") + &failing.channel("failing")));
    let tab = folder.write("crontab", "# sexton: name=a\n@manually exit 1\n# sexton: name=b\n@manually exit 1\n");
    let state = folder.path("state");
    let arguments = ["--crontab", &*tab, "--config", &*configuration];
    let up = Up::start(&state, &arguments);
    up.run(&["run", "default/a", "--wait"]).expect(1);
    // Each answer is stored while another channel has not accepted the alert.
    wait_until(DEADLINE, || {
        let alert = stored_alert(&state, "a");
        let progress = &alert["progress"];
        let refused = progress["refusing"]["error"].as_str().is_some_and(|error| error.contains("404"));
        let retried = progress["failing"]["tries"].as_u64() >= Some(1) && progress["failing"]["retry_at"].is_string();
        refused && retried && alert["told"] == json!(["pager"])
    });
    assert_eq!(stored_alert(&state, "a")["progress"]["refusing"]["retry_at"], Value::Null);
    assert_eq!(logged(&up, &["alert channel failed; retrying", "failing", "503"]), 1, "{}", up.printed());
    assert_eq!(logged(&up, &["alert given up", "refusing", "404"]), 1, "{}", up.printed());
    assert_eq!(logged(&up, &["alert"]), 2, "{}", up.printed());
    up.kill();

    let up = Up::start(&state, &arguments);
    up.run(&["run", "default/b", "--wait"]).expect(1);
    wait_until(DEADLINE, || failing.jobs().contains(&"b".to_owned()));
    failing.answer(ACCEPTED);
    wait_until(DEADLINE, || logged(&up, &["alert channel works again", "failing"]) == 1);
    wait_until(DEADLINE, || stored_alert(&state, "a")["fate"] == "told");
    wait_until(DEADLINE, || stored_alert(&state, "b")["told"].to_string().contains("pager"));
    assert_eq!(logged(&up, &["alert channel failed; retrying"]), 1, "{}", up.printed());
    assert_eq!(refusing.jobs(), ["a", "b"], "an alert that was refused is not sent again");
    assert_eq!(jobs_of(&alerts(&alert_file)), ["a", "b"], "an accepted alert is not sent again");
}

#[test]
fn jobs_that_fail_together_are_one_message_that_names_each() {
    const JOBS: usize = 40;
    let folder = Folder::new();
    let (configuration, alert_file) = pager(&folder);
    let go = folder.text("go");
    let entry =
        |number| format!("# sexton: name=job-{number:02}\n@manually until [ -e {go} ]; do sleep 0.1; done; exit 1\n");
    let tab = folder.write("crontab", &(0..JOBS).map(entry).collect::<String>());
    let up = Up::start(&folder.path("state"), &["--crontab", &tab, "--config", &configuration]);
    for number in 0..JOBS {
        up.run(&["run", &format!("default/job-{number:02}")]).expect(0);
    }
    let running = || up.records(&["runs"]).iter().filter(|run| run["state"] == "running").count();
    wait_until(DEADLINE, || running() == JOBS);
    std::fs::write(&go, "").expect("written");
    let count = |alert: &Value| if alert["kind"] == "digest" { alert["count"].as_u64().unwrap_or(0) } else { 1 };
    wait_until(DEADLINE, || alerts(&alert_file).iter().map(count).sum::<u64>() >= JOBS as u64);
    let sent = alerts(&alert_file);
    // A busy machine may need longer than the window for the ends of all runs.
    assert!(sent.len() <= 6 && sent.iter().any(|alert| alert["kind"] == "digest"), "{sent:?}");
    let text: String =
        sent.iter().map(|alert| format!("{}/{} {}\n", alert["group"], alert["job"], alert["reason"])).collect();
    for number in 0..JOBS {
        assert_eq!(text.matches(&format!("job-{number:02}")).count(), 1, "job-{number:02}: {text}");
    }
}

const OWN_PACK: &str = "name = \"own\"\n[[rule]]\nid = \"own.wrong\"\npattern = 'gone wrong'\n";

/// A pack of its own, one that replaces a built-in one, and files with names that do not exist.
struct Names {
    folder: Folder,
    configuration: String,
    alert_file: PathBuf,
    rules: String,
    tab: String,
    toml: String,
}

const REPLACED: &str =
    "rules/python.toml: note: the pack `python` of this file replaces the built-in pack of that name";

impl Names {
    fn new() -> Names {
        let folder = Folder::new();
        let (configuration, alert_file) = pager(&folder);
        std::fs::create_dir(folder.path("rules")).expect("made");
        folder.write("rules/own.toml", OWN_PACK);
        folder.write("rules/python.toml", &OWN_PACK.replace("own", "python").replace("gone wrong", "py wrong"));
        let tab = "# sexton-defaults: alert.channels=pagr\n\
                   # sexton: name=typo rules=pyhton,default alert.channels=pagr\n@manually echo 'Segmentation fault'\n\
                   # sexton: name=auto\n@manually echo 'gone wrong'\n\
                   # sexton: name=own rules=own\n@manually echo 'gone wrong'\n";
        let toml = "[[job]]\nname = \"t\"\nschedule = \"@manually\"\ncommand = \"true\"\nrules = [\"pyhton\"]\n\
                    [job.alert]\nchannels = [\"pagr\"]\n";
        let (tab, toml) = (folder.write("crontab", tab), folder.write("jobs.toml", toml));
        Names { rules: folder.text("rules"), folder, configuration, alert_file, tab, toml }
    }

    fn start(&self) -> Up {
        let arguments = ["--crontab", &self.tab, "--rules", &self.rules, "--config", &self.configuration];
        Up::start(&self.folder.path("state"), &arguments)
    }

    /// Waits for an alert about the job, alone or in a digest.
    fn wait_for_alert(&self, job: &str, kind: &str, part: &str) {
        let named = format!("default/{job}");
        let is_it = |alert: &Value| {
            assert!(alert["since"].is_string() && alert["host"].is_string(), "{alert}");
            let reason = alert["reason"].as_str().unwrap_or("");
            match alert["kind"] == "digest" {
                true => reason.contains(kind) && reason.contains(&named),
                false => alert["job"] == job && alert["kind"] == kind && reason.contains(part),
            }
        };
        wait_until(DEADLINE, || alerts(&self.alert_file).iter().any(is_it));
    }
}

#[test]
fn lint_finds_packs_and_channels_that_do_not_exist() {
    let Names { folder: _folder, configuration, rules, tab, toml, .. } = &Names::new();
    let linted = sexton(&["lint", tab, toml]).expect(2);
    for fault in [
        "crontab:2: `rules`: no rule pack `pyhton`; did you mean `python`?",
        "crontab:6: `rules`: no rule pack `own`; known are ansible-terraform, ",
        "jobs.toml:5: `rules`: no rule pack `pyhton`; did you mean `python`?",
    ] {
        assert_eq!(linted.err.matches(fault).count(), 1, "{fault}: {}", linted.err);
    }
    assert!(!linted.err.contains("pagr"), "channels are unknown without a configuration: {}", linted.err);
    let linted = sexton(&["lint", tab, toml, "--rules", rules, "--config", configuration]).expect(2);
    assert!(!linted.err.contains("pack `own`"), "{}", linted.err);
    for line in ["crontab:1:", "crontab:2:", "jobs.toml:7:"] {
        let fault = format!("{line} `alert.channels`: no alert channel `pagr`; did you mean `pager`?");
        assert_eq!(linted.err.matches(&fault).count(), 1, "{fault}: {}", linted.err);
    }
    assert!(linted.text().contains(REPLACED), "{}", linted.text());
}

#[test]
fn packs_and_channels_that_do_not_exist_are_faults_and_silence_no_job() {
    let names = Names::new();
    let up = names.start();
    assert!(up.printed().contains(REPLACED), "{}", up.printed());
    names.wait_for_alert("typo", "bad_job", "did you mean");
    // It runs with the packs that exist, and its alert reaches the channels that exist.
    for (job, rule) in [("typo", ""), ("auto", "own.wrong"), ("own", "own.wrong")] {
        let run = up.run(&["run", &format!("default/{job}"), "--wait", "--json"]).expect(1).records().remove(0);
        assert_eq!(run["outcome"], "false_success", "{run}");
        assert!(run["reason"].as_str().is_some_and(|reason| reason.contains(rule)), "{run}");
        names.wait_for_alert(job, "false_success", "");
    }

    let applied = up.run(&["apply", &names.toml]).expect(2);
    let faults = [
        "job default/t: no rule pack `pyhton`; did you mean `python`?",
        "job default/t: no alert channel `pagr`; did you mean `pager`?",
    ];
    for fault in faults {
        assert!(applied.err.lines().any(|line| line.contains(fault)), "{fault}: {}", applied.err);
    }
    let set = up.run(&["job", "set", "default/t", &names.toml]).expect(2);
    assert!(faults.iter().all(|fault| set.err.contains(fault)), "{}", set.err);
    up.run(&["job", "show", "default/t"]).expect(2);

    // A pack that disappears while `up` runs.
    std::fs::remove_file(names.folder.path("rules/own.toml")).expect("removed");
    names.wait_for_alert("own", "bad_job", "no rule pack `own`");
    let run = up.run(&["run", "default/own", "--wait", "--json"]).expect(0).records().remove(0);
    assert_eq!((&run["outcome"], &run["rules"]), (&json!("succeeded"), &json!([])), "{run}");
}
