//! boto3, AWS's client for Python, at the service of a test: any action of any service, as anybody. So that a test's own
//! hands are not the client under test.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::emulators::AwsServer;
use crate::installation::installed;

const SCRIPT: &str = include_str!("boto.py");

/// Who calls.
#[derive(Clone, Debug)]
pub struct Caller {
    pub key: String,
    pub secret: String,
    pub token: Option<String>,
}

impl Caller {
    /// Whom an account (12 digits) belongs to.
    pub fn root(account: &str) -> Caller {
        Caller { key: account.to_owned(), secret: "secret".to_owned(), token: None }
    }
}

/// What AWS refused, or what stood in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: String,
    pub message: String,
}

/// A running client of one server. It ends with the value.
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

    /// A CloudFormation template as JSON, short forms of functions written out.
    #[track_caller]
    pub fn template(&self, text: &str) -> Value {
        self.ask(&json!({ "yaml": text }))["answer"].clone()
    }

    /// Whether ministack's evaluator lets `policies` permit an action on a resource, with condition keys that it does not
    /// derive from a request by itself (`dynamodb:LeadingKeys`).
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
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{question} was answered with {line:?}: {error}"))
    }
}

impl Drop for Boto {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
