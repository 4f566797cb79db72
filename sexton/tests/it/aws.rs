//! `sexton runner` and the client commands against an installation in ministack. This process does the work of the
//! Lambdas.

use std::process::Command;

use jiff::Timestamp;
use rules::Packs;
use serde_json::Value;
use services::{collector, overdue};
use testbed::{DEADLINE, Ministack, wait_until};

use crate::docs::{Block, blocks, file_name};
use crate::driver::{CommandOutput, Folder, Up, command, signal};

const ACCOUNT: &str = "123456789012";
const REGION: &str = "eu-west-1";

struct Installation {
    aws: aws::Aws,
    server: Ministack,
    folder: Folder,
    runtime: tokio::runtime::Runtime,
}

impl Installation {
    /// Installs with the group `db`; none if ministack is not available.
    fn new() -> Option<Installation> {
        let server = Ministack::start()?;
        let options = aws::Options {
            region: Some(REGION.to_owned()),
            endpoint: Some(server.endpoint()),
            access_key: Some(aws::AccessKey { id: ACCOUNT.to_owned(), secret: "secret".to_owned() }),
            ..aws::Options::default()
        };
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let aws = runtime.block_on(async {
            let aws = aws::connect(&options).await.expect("connected");
            aws::install(&aws, &["db"]).await.expect("installed");
            aws
        });
        Some(Installation { aws, server, folder: Folder::new(), runtime })
    }

    /// A command that finds the installation through the environment variables of AWS.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        for (name, value) in [
            ("AWS_ACCESS_KEY_ID", ACCOUNT),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", REGION),
            ("AWS_ENDPOINT_URL", &self.server.endpoint()),
        ] {
            command.env(name, value);
        }
        command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        command
    }

    fn run(&self, arguments: &[&str]) -> CommandOutput {
        let mut command = self.command(arguments);
        let output = command.arg("--aws").output().expect("the binary starts");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        CommandOutput { code: output.status.code(), out: output.stdout, err }
    }

    #[track_caller]
    fn records(&self, arguments: &[&str]) -> Vec<Value> {
        let mut all = arguments.to_vec();
        all.push("--json");
        self.run(&all).expect(0).records()
    }

    /// A runner of `db` with a CloudWatch sink.
    fn runner(&self) -> Up {
        let mut command = self.command(&["runner", "--group", "db", "--config", &self.configuration()]);
        command.arg("--aws");
        Up::serve(&self.folder.path("state"), command)
    }

    fn configuration(&self) -> String {
        let sinks = "[sink.cloud]\ntype = \"cloudwatch_logs\"\ngroup = \"/cron/{group}\"\ncreate_group = true\n";
        self.folder.write("sinks.toml", sinks);
        self.folder.write("sexton.toml", "sinks = \"sinks.toml\"\n[aws]\nprefix = \"sexton\"\n")
    }

    /// A runner started with the command of the unit in packaging/.
    fn runner_of_the_unit(&self) -> Up {
        let unit = testbed::repository().join("packaging/sexton-runner.service");
        let unit = std::fs::read_to_string(unit).expect("the unit");
        let start =
            unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/sexton ")).expect("a command");
        let start = start.strip_suffix(" --state /var/lib/sexton").expect("its state directory");
        let start = start.replace("/etc/sexton/", &self.folder.text("etc/"));
        Up::serve(&self.folder.path("state"), self.command(&start.split(' ').collect::<Vec<_>>()))
    }

    /// Runs a command of a document in the folder of its files.
    #[track_caller]
    fn run_line(&self, arguments: &str) {
        let mut arguments = arguments.replace("/etc/sexton/", "etc/");
        if arguments.contains("RUN_ID") {
            let run_id = self.records(&["runs"])[0]["run_id"].as_str().expect("its name").to_owned();
            self.wait_for(&run_id, |run| run["state"] == "finished");
            arguments = arguments.replace("RUN_ID", &run_id);
        }
        let mut command = self.command(&arguments.split_whitespace().collect::<Vec<_>>());
        let folder = self.folder.path("");
        let output = command.current_dir(&folder).env("XDG_STATE_HOME", &folder).output().expect("the binary starts");
        assert!(output.status.success(), "sexton {arguments}: {output:?}");
    }

    /// Collects all reports, like the collector's Lambda.
    fn collect(&self) {
        let (ports, packs) = (&self.aws.ports, Packs::builtin());
        self.runtime.block_on(async {
            let reports = collector::receive(ports, std::time::Duration::ZERO).await.expect("received");
            collector::collect(ports, &packs, reports, Timestamp::now()).await.expect("collected");
        });
    }

    #[track_caller]
    fn wait_for(&self, run_id: &str, what: impl Fn(&Value) -> bool) -> Value {
        let mut run = Value::Null;
        wait_until(DEADLINE, || {
            self.collect();
            run = self.records(&["show", run_id]).remove(0);
            what(&run)
        });
        run
    }
}

#[test]
fn jobs_runs_and_logs_work_on_aws_as_on_one_machine() {
    let Some(installation) = Installation::new() else { return };
    let jobs = installation.folder.write(
        "jobs.toml",
        "[[job]]\ngroup = \"db\"\nname = \"hello\"\nschedule = \"@manually\"\n\
         command = \"echo one; echo two >&2; printf three\"\n",
    );
    installation.run(&["apply", &jobs]).expect(0);
    assert_eq!(installation.records(&["jobs"])[0]["name"], "hello");
    assert_eq!(installation.records(&["status"])[0]["jobs"]["all"], 1);
    let runner = installation.runner();
    let run_id = installation.run(&["run", "db/hello"]).expect(0).text().trim().to_owned();
    let run = installation.wait_for(&run_id, |run| run["state"] == "finished");
    assert_eq!(
        (&run["outcome"], &run["stdout_lines"]),
        (&"succeeded".into(), &2.into()),
        "{run}\n{}",
        runner.printed()
    );
    assert!(run["runner"].as_str().is_some_and(|name| name.contains('-')), "{run}");
    assert_eq!(installation.records(&["runs", "db/hello"]).len(), 1);
    assert!(installation.run(&["ledger"]).expect(0).text().contains("succeeded"));
    // Its lines are read back from CloudWatch Logs, from anywhere.
    let configuration = installation.configuration();
    let mut logs = Vec::new();
    wait_until(DEADLINE, || {
        let elsewhere = installation.folder.text("elsewhere");
        logs = installation.run(&["logs", &run_id, "--config", &configuration, "--state", &elsewhere]).out;
        logs.len() >= "one\ntwo\nthree\n".len()
    });
    let mut lines: Vec<&str> = std::str::from_utf8(&logs).expect("text").lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "three", "two"]);
    for (name, message) in [("USR1", "signal USR1 is ignored"), ("HUP", "sinks file reloaded")] {
        signal(runner.pid(), name);
        wait_until(DEADLINE, || runner.printed().contains(message));
    }
    // The runner serves its own sinks, and names --aws for the rest.
    assert_eq!(runner.records(&["sinks"])[0]["name"], "cloud");
    let output = runner.run(&["jobs"]).expect(2).err;
    assert!(output.contains("--aws"), "{output}");
    assert_eq!(runner.stop(), Some(0));
}

#[test]
fn a_second_runner_with_the_same_name_is_refused_and_names_the_other_host() {
    let Some(installation) = Installation::new() else { return };
    let named = "[runner]\nname = \"web-3\"\n[aws]\nprefix = \"sexton\"\n";
    let configuration = installation.folder.write("named.toml", named);
    let command = || installation.command(&["runner", "--group", "db", "--config", &configuration, "--aws"]);
    let state = installation.folder.path("state");
    let runner = Up::serve(&state, command());
    let mut second = command();
    second.args(["--listen", &testbed::free_port().to_string(), "--state"]).arg(installation.folder.path("other"));
    let mut second = testbed::ReadyProcess::spawn(&mut second).expect("the binary starts");
    wait_until(DEADLINE, || second.has_ended());
    assert_eq!(second.stop(), Some(1));
    let host = crate::driver::shell_output("uname -n");
    let expected = format!("the runner name `web-3` is in use by a runner on host {}, whose last", host.trim());
    wait_until(DEADLINE, || second.printed().contains(&expected));
    assert_eq!(runner.stop(), Some(0));
    // The same runner is accepted at once.
    assert_eq!(Up::serve(&state, command()).stop(), Some(0));
}

#[test]
fn a_stopped_runner_leaves_its_jobs_to_the_next_one() {
    let Some(installation) = Installation::new() else { return };
    let go_on = installation.folder.text("go-on");
    let command = format!("until test -e {go_on}; do sleep 0.1; done; echo done");
    let jobs = format!("[[job]]\ngroup = \"db\"\nname = \"long\"\nschedule = \"@manually\"\ncommand = \"{command}\"\n");
    let jobs = installation.folder.write("jobs.toml", &jobs);
    installation.run(&["apply", &jobs]).expect(0);
    let runner = installation.runner();
    let run_id = installation.run(&["run", "db/long"]).expect(0).text().trim().to_owned();
    let running = installation.wait_for(&run_id, |run| run["state"] == "running");
    assert_eq!(runner.stop_and_keep_jobs(), Some(0));
    installation.folder.write("go-on", "");
    let runner = installation.runner();
    let run = installation.wait_for(&run_id, |run| run["state"] == "finished");
    assert_eq!((&run["outcome"], &run["runner"]), (&"succeeded".into(), &running["runner"]), "{run}");
    let ports = &installation.aws.ports;
    let open = installation.runtime.block_on(overdue::list_open_runs(ports)).expect("the open runs");
    installation.runtime.block_on(overdue::tick(ports, &open, Timestamp::now())).expect("checked");
    assert_eq!(runner.stop(), Some(0));
}

#[test]
fn check_connects_to_every_table_queue_and_topic_and_prints_remedies() {
    let Some(installation) = Installation::new() else { return };
    let state = installation.folder.text("state");
    let text = "[[job]]\ngroup = \"web\"\nname = \"a\"\nschedule = \"@daily\"\ncommand = \"true\"\n";
    let jobs = installation.folder.write("jobs.toml", text);
    installation.run(&["apply", &jobs]).expect(0);
    let configuration = installation.folder.write("sexton.toml", "[runner]\ngroups = [\"db\"]\n");
    let output = installation.run(&["check", "--config", &configuration, "--state", &state]).expect(1).text();
    for line in [
        "ok   table sexton-jobs: ",
        "ok   table sexton-settings: ",
        "ok   queue sexton-orders-db: ",
        "ok   queue sexton-reports-dead: ",
        "ok   topic sexton-operations: ",
        "BAD  queue sexton-orders-web: ",
    ] {
        assert!(output.lines().any(|found| found.starts_with(line)), "no `{line}`:\n{output}");
    }
    assert!(output.contains("deploy the template, add the group, or correct `prefix` and `region`"), "{output}");
    let output = installation.run(&["check", "--group", "db", "--state", &state]).expect(0).text();
    assert!(output.contains("ok   table sexton-runs: a runner of group db may claim runs here"), "{output}");
}

/// Runs the `sexton` commands of docs/aws.md in order, with its files. The tests of the lambdas run its AWS commands.
#[test]
fn every_sexton_command_of_the_document_on_aws_works() {
    let Some(installation) = Installation::new() else { return };
    let folder = &installation.folder;
    let job =
        "[[job]]\ngroup = \"db\"\nname = \"nightly-dump\"\nschedule = \"30 2 * * *\"\ncommand = \"echo dumped\"\n";
    folder.write("jobs.toml", job);
    std::fs::create_dir(folder.path("etc")).expect("made");
    let (mut runner, mut commands) = (None, 0);
    let text = std::fs::read_to_string(testbed::repository().join("docs/aws.md")).expect("docs/aws.md");
    for Block { kind, text, .. } in blocks(&text) {
        match file_name(&text) {
            Some("/etc/sexton/sinks.toml") => {
                // The stack, which is not deployed here, would create the log group.
                let text = format!("{text}create_group = true\n");
                folder.write("etc/sinks.toml", &text);
                folder.write("sinks.toml", &text);
            }
            Some(name) => drop(folder.write(&name.replace("/etc/sexton/", "etc/"), &text)),
            None => {}
        }
        for line in text.lines().filter(|_| kind == "console") {
            if line.starts_with("systemctl enable") {
                runner = Some(installation.runner_of_the_unit());
            } else if let Some(arguments) = line.strip_prefix("sexton ") {
                commands += 1;
                installation.run_line(arguments);
            }
        }
    }
    assert!(commands >= 5, "docs/aws.md has commands");
    assert_eq!(runner.map(Up::stop), Some(Some(0)));
}

#[test]
fn a_command_refused_by_aws_prints_one_reason() {
    let Some(installation) = Installation::new() else { return };
    let output = installation.command(&["jobs", "--aws=other"]).output().expect("the binary starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
}

#[test]
fn a_runner_without_a_group_or_with_one_that_no_queue_can_have_is_refused() {
    for (arguments, message) in [
        (&["runner"][..], "no group is named"),
        (&["runner", "--group", "a b"], "group `a b` cannot be part of the name of an SQS queue"),
        (&["runner", "--group", "a", "--aws=no prefix"], "the prefix `no prefix` cannot begin"),
    ] {
        let output = crate::driver::sexton(arguments).expect(2);
        assert!(output.err.contains(message), "{}", output.err);
    }
}
