//! Runs the real `sexton`: as the runner of group `db`, and as the client of an operator.
//!
//! Cargo builds only the binaries of a test's own package; `./test` also builds `sexton`. If that binary is missing or
//! old, these tests fail with a message: a build during the tests would replace a binary that others use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{Caller, DEADLINE, ReadyProcess, repository};

use crate::installation::{ACCOUNT, Installation, STACK};

/// Sources of `sexton`.
const SOURCES: [&str; 11] = [
    "sexton/src",
    "domain/src",
    "rules/src",
    "sinks/src",
    "keeper/src",
    "runner/src",
    "services/src",
    "backends/aws/src",
    "backends/embedded/src",
    "channels/src",
    "console/src",
];

/// The sink of docs/aws.md; the group's stack creates the log group.
const SINKS: &str = "[sink.aws]\ntype = \"cloudwatch_logs\"\ngroup = \"/cron/{group}\"\nstream = \"{job}/{date}\"\n";

/// `sexton` with a configuration and the credentials of its user.
pub(crate) struct Sexton<'a> {
    installation: &'a Installation,
    caller: Caller,
    folder: TempDir,
}

impl<'a> Sexton<'a> {
    /// A server of group `db` outside EC2: its user may only assume the group's role.
    #[track_caller]
    pub(crate) fn of_group(installation: &'a Installation) -> Sexton<'a> {
        let arn = format!("arn:aws:iam::{ACCOUNT}:role/{}", installation.resource("db", "RunnerRole"));
        let caller = user(installation, "server", "sts:AssumeRole", &arn);
        Sexton::of(installation, caller, &format!("role_arn = \"{arn}\"\n"))
    }

    /// An operator's machine with the permissions of docs/aws.md: the stack's `ClientPolicy`, and
    /// `logs:FilterLogEvents`.
    #[track_caller]
    pub(crate) fn of_operator(installation: &'a Installation) -> Sexton<'a> {
        let logs = format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:/cron/*");
        let caller = user(installation, "person", "logs:FilterLogEvents", &logs);
        let operator = Sexton::of(installation, caller, "");
        operator.attach("ClientPolicy");
        operator
    }

    /// Attaches a policy of the installation's stack to the user of an operator's machine.
    #[track_caller]
    pub(crate) fn attach(&self, policy: &str) {
        let policy = self.installation.resource(STACK, policy);
        self.installation.call("iam", "attach_user_policy", json!({ "UserName": "person", "PolicyArn": policy }));
    }

    /// As [`Sexton::of_operator`], with the stack's `OperatorPolicy`, too.
    #[track_caller]
    pub(crate) fn of_administrator(installation: &'a Installation) -> Sexton<'a> {
        let operator = Sexton::of_operator(installation);
        operator.attach("OperatorPolicy");
        operator
    }

    fn of(installation: &'a Installation, caller: Caller, aws: &str) -> Sexton<'a> {
        let folder = TempDir::new().expect("a temporary folder");
        let sexton = Sexton { installation, caller, folder };
        sexton.write("sinks.toml", SINKS);
        let text = format!("sinks = \"sinks.toml\"\n[aws]\nprefix = \"{STACK}\"\nregion = \"us-east-1\"\n{aws}");
        sexton.write("sexton.toml", &text);
        sexton
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("written");
        self.path(name).display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).args(["--config", &self.path("sexton.toml").display().to_string()]);
        for name in [
            "SEXTON_SERVER",
            "SEXTON_TOKEN",
            "SEXTON_AWS",
            "SEXTON_CONFIG",
            "RUST_LOG",
            "AWS_PROFILE",
            "AWS_SESSION_TOKEN",
        ] {
            command.env_remove(name);
        }
        let Caller { key, secret, .. } = &self.caller;
        command
            .env("TZ", "UTC")
            .env("XDG_STATE_HOME", self.folder.path())
            .env("AWS_ACCESS_KEY_ID", key)
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ENDPOINT_URL", self.installation.server.endpoint())
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed, and returns its output.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("the binary starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "sexton {arguments:?}: {}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    /// Runs a command, and returns its exit code and all that it printed.
    #[track_caller]
    pub(crate) fn try_run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(arguments).output().expect("the binary starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), format!("{out}{err}"))
    }

    /// Allows the user of a server further actions.
    #[track_caller]
    pub(crate) fn allow(&self, actions: &[&str], resource: &str) {
        self.allow_user("server", actions, resource);
    }

    /// Allows the user of an operator's machine further actions.
    #[track_caller]
    pub(crate) fn allow_person(&self, actions: &[&str], resource: &str) {
        self.allow_user("person", actions, resource);
    }

    #[track_caller]
    fn allow_user(&self, user: &str, actions: &[&str], resource: &str) {
        let allowed = json!({ "Effect": "Allow", "Action": actions, "Resource": resource });
        let policy = json!({ "Version": "2012-10-17", "Statement": [allowed] }).to_string();
        let request = json!({ "UserName": user, "PolicyName": "more", "PolicyDocument": policy });
        self.installation.call("iam", "put_user_policy", request);
    }

    /// Runs a command with `--json`, and returns each line as JSON.
    #[track_caller]
    pub(crate) fn records(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.run(&[arguments, &["--json"]].concat());
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Starts `sexton runner`, and waits until it is ready.
    #[track_caller]
    pub(crate) fn runner(&self) -> ReadyProcess {
        let listen = testbed::free_port().to_string();
        let mut command = self.command(&["runner", "--group", "db", "--listen", &listen]);
        let runner = ReadyProcess::spawn(&mut command).expect("the binary starts");
        assert!(runner.is_ready_within(DEADLINE), "not ready; it printed: {}", runner.printed());
        runner
    }
}

/// Creates a user with permission for one action.
#[track_caller]
fn user(installation: &Installation, name: &str, action: &str, resource: &str) -> Caller {
    installation.call("iam", "create_user", json!({ "UserName": name }));
    let allowed = json!({ "Effect": "Allow", "Action": action, "Resource": resource });
    let policy = json!({ "Version": "2012-10-17", "Statement": [allowed] }).to_string();
    let request = json!({ "UserName": name, "PolicyName": name, "PolicyDocument": policy });
    installation.call("iam", "put_user_policy", request);
    let made = installation.call("iam", "create_access_key", json!({ "UserName": name }));
    let text = |name: &str| made["AccessKey"][name].as_str().expect(name).to_owned();
    Caller { key: text("AccessKeyId"), secret: text("SecretAccessKey"), token: None }
}

/// Returns the binary beside the Lambdas; fails if a source is newer.
#[track_caller]
fn binary() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_scheduler")).with_file_name("sexton");
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let built = changed(&path);
    let newer = SOURCES
        .iter()
        .find_map(|folder| files_below(&repository().join(folder)).into_iter().find(|source| changed(source) > built));
    if let Some(newer) = newer {
        panic!("{} is newer than {}; run `./test -p lambdas`, which builds both", newer.display(), path.display());
    }
    path
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}
