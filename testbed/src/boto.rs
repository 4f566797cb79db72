//! Calls any action of any AWS service as any caller, through boto3, AWS's client for Python. Tests use it to set up
//! and to check, so that they do not depend on the client under test.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::emulators::AwsServer;
use crate::installation::installed;

const SCRIPT: &str = include_str!("boto.py");

/// The credentials of a call.
#[derive(Clone, Debug)]
pub struct Caller {
    pub key: String,
    pub secret: String,
    pub token: Option<String>,
}

impl Caller {
    /// The root user of an account (12 digits).
    pub fn root(account: &str) -> Caller {
        Caller { key: account.to_owned(), secret: "secret".to_owned(), token: None }
    }
}

/// The error of a call: from AWS, or from the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: String,
    pub message: String,
}

/// A running client of one server. Killed when it is dropped.
#[derive(Debug)]
pub struct Boto {
    child: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Boto {
    /// Starts a client; `None` when it is not available here.
    #[track_caller]
    pub fn start(server: &AwsServer) -> Option<Boto> {
        let python = installed("ministack", "aws/bin/python")?;
        let mut child = Command::new(python)
            .args(["-c", SCRIPT, &server.endpoint()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python can be started");
        let pipes = (child.stdin.take().expect("a pipe"), BufReader::new(child.stdout.take().expect("a pipe")));
        Some(Boto { child, pipes: Mutex::new(pipes) })
    }

    /// Calls an action by boto3's names (`sqs`, `send_message`), with AWS's names of parameters.
    ///
    /// # Errors
    /// AWS's code and message.
    #[track_caller]
    pub fn call(&self, caller: &Caller, service: &str, action: &str, parameters: Value) -> Result<Value, Refusal> {
        let Caller { key, secret, token } = caller;
        let answer = self.ask(&json!({
            "service": service, "action": action, "parameters": parameters, "key": key, "secret": secret, "token": token
        }));
        match answer.get("error") {
            None => Ok(answer["answer"].clone()),
            Some(error) => {
                let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
                Err(Refusal { code: text("code"), message: text("message") })
            }
        }
    }

    /// A CloudFormation template as JSON, with the short forms of functions expanded.
    #[track_caller]
    pub fn template(&self, text: &str) -> Value {
        self.ask(&json!({ "yaml": text }))["answer"].clone()
    }

    /// Whether `policies` permit an action on a resource, by ministack's evaluator. `keys` are condition keys that it
    /// does not derive from a request (`dynamodb:LeadingKeys`).
    #[track_caller]
    pub fn permits(&self, policies: &[Value], action: &str, resource: &str, keys: Value) -> bool {
        let question = json!({ "policies": policies, "action": action, "resource": resource, "keys": keys });
        self.ask(&question)["answer"] == "Allow"
    }

    #[track_caller]
    fn ask(&self, question: &Value) -> Value {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(pipes.0, "{question}").expect("the client reads");
        let mut line = String::new();
        pipes.1.read_line(&mut line).expect("the client answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("unexpected answer {line:?} to {question}: {error}"))
    }
}

impl Drop for Boto {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
