//! `up` and the client commands where neither CA certificates nor HOME, a passwd entry, /etc or a writable root exist.

use std::path::Path;

use testbed::MinimalMachine;

use crate::driver::{CommandOutput, Folder, Up};

/// The machine, and a running `up` on it.
fn start(folder: &Folder, arguments: &[&str]) -> Option<(MinimalMachine, Up)> {
    let machine = MinimalMachine::new(&folder.path(""), Path::new(env!("CARGO_BIN_EXE_sexton")))?;
    let up = Up::serve(&folder.path("state"), machine.command(&[&["up"], arguments].concat()));
    Some((machine, up))
}

fn run(machine: &MinimalMachine, arguments: &[&str]) -> CommandOutput {
    let output = machine.command(arguments).output().expect("a command");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    CommandOutput { code: output.status.code(), out: output.stdout, err }
}

#[test]
fn up_and_every_client_command_work_on_a_minimal_machine() {
    let folder = Folder::new();
    let tab = folder.write("crontab", "# sexton: name=greet\n@manually echo hello; id -u\n");
    let Some((machine, up)) = start(&folder, &["--crontab", &tab]) else { return };
    let state = folder.text("state");
    let client = |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--state", &state]);
        let output = run(&machine, &all).expect(0);
        // `run --wait` reports progress.
        let unexpected: Vec<&str> = output.err.lines().filter(|line| !line.starts_with("default/greet ")).collect();
        assert!(unexpected.is_empty(), "{arguments:?}: {unexpected:?}");
        output.text()
    };
    assert!(client(&["run", "default/greet", "--wait"]).contains("succeeded"));
    let run_id = client(&["runs", "--json"]);
    let run_id = serde_json::from_str::<serde_json::Value>(run_id.trim()).expect("a run")["run_id"].clone();
    let run_id = run_id.as_str().expect("run_id");
    assert_eq!(client(&["logs", run_id]), "hello\n54321\n");
    for arguments in [
        &["jobs"][..],
        &["show", run_id],
        &["sinks"],
        &["ledger"],
        &["job", "pause", "default/greet"],
        &["job", "resume", "default/greet"],
        &["maintenance", "on", "--group", "default"],
        &["maintenance", "off", "--group", "default"],
        &["check"],
    ] {
        client(arguments);
    }
    for arguments in [&["lint", &tab][..], &["next", "0 3 * * *"], &["rules", "list"]] {
        run(&machine, arguments).expect(0);
    }
    run(&machine, &["apply", &tab, "--state", &state]).expect(0);
    let output = run(&machine, &["exec", "--name", "once", "--state", &state, "--", "id", "-u"]).expect(0);
    assert_eq!(output.err, "");
    drop(up);
}

#[test]
fn without_ca_certificates_only_the_uses_of_tls_fail_and_name_the_remedy() {
    const REMEDY: &str = "install the package ca-certificates";
    let folder = Folder::new();
    let hook = testbed::free_port();
    let sinks = format!(
        "[sink.tls]\ntype = \"syslog\"\naddress = \"tcp+tls://{hook}\"\n[sink.web]\ntype = \"gelf\"\n\
         address = \"https://{hook}/gelf\"\n[sink.plain]\ntype = \"file\"\npath = \"{}\"\n",
        folder.text("state/plain.log")
    );
    let sinks = folder.write("sinks.toml", &sinks);
    let config = format!(
        "[channel.hook]\ntype = \"webhook\"\nurl = \"https://{hook}/\"\n[channel.mail]\ntype = \"smtp\"\n\
         address = \"{hook}\"\nfrom = \"a@example.org\"\nto = [\"b@example.org\"]\n"
    );
    let config = folder.write("sexton.toml", &config);
    let tab = folder.write("crontab", "# sexton: name=greet\n@manually echo hello\n");
    let Some((machine, up)) = start(&folder, &["--config", &config, "--sinks", &sinks, "--crontab", &tab]) else {
        return;
    };
    let state = folder.text("state");
    run(&machine, &["run", "default/greet", "--wait", "--state", &state]).expect(0);
    let checked = run(&machine, &["check", "--config", &config, "--sinks", &sinks, "--state", &state]).expect(1).text();
    for bad in ["BAD  sink tls", "BAD  sink web", "BAD  channel hook", "BAD  channel mail"] {
        let line = checked.lines().find(|line| line.starts_with(bad));
        assert!(line.is_some_and(|line| line.contains(REMEDY)), "{bad}: {checked}");
    }
    assert!(checked.contains("ok   sink plain"), "{checked}");
    let refused = run(&machine, &["jobs", "--server", &format!("https://{hook}")]).expect(1);
    assert!(refused.err.contains(REMEDY) && refused.err.lines().count() == 1, "{}", refused.err);
    drop(up);
}
