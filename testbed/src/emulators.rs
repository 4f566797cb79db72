//! Emulators of AWS: ministack separates accounts; moto enforces the order and the age of log events. Called by the
//! tests of everything that calls AWS. By default they check no signatures, and few limits of the services.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::installation::{certificates, installed};
use crate::listeners::{Addresses, free_port};
use crate::process::{Process, Program};
use crate::wait::DEADLINE;

/// The file in its folder to which moto writes its requests.
const RECORDING: &str = "requests";

/// An emulator of AWS's services; starts without resources.
#[derive(Debug)]
pub struct AwsServer {
    process: Process,
    address: SocketAddr,
}

/// ministack. Each access key id of 12 digits is a separate account.
#[derive(Debug)]
pub struct Ministack(AwsServer);

/// moto's server. All callers share one account.
#[derive(Debug)]
pub struct Moto(AwsServer);

impl Ministack {
    /// Starts ministack; `None` when it is not available here.
    #[track_caller]
    pub fn start() -> Option<Ministack> {
        Ministack::start_with(&[])
    }

    /// The same, but every call needs permission from IAM: policies of roles with resources and conditions, trust and
    /// signatures are enforced, and Lambdas run as their own roles. An account's id as access key is its root user, who
    /// has every permission.
    #[track_caller]
    pub fn start_enforcing() -> Option<Ministack> {
        Ministack::start_with(&["AUTH=true"])
    }

    #[track_caller]
    fn start_with(variables: &[&str]) -> Option<Ministack> {
        let path = installed("ministack", "aws/bin/ministack")?;
        // By default it listens on every address.
        let arguments = |address: SocketAddr| {
            let mut all = vec![
                "BIND_HOST=127.0.0.1".to_owned(),
                "MINISTACK_HOST=127.0.0.1".to_owned(),
                format!("GATEWAY_PORT={}", address.port()),
                "LOG_LEVEL=WARNING".to_owned(),
            ];
            all.extend(variables.iter().map(|variable| (*variable).to_owned()));
            all.push(path.display().to_string());
            all
        };
        AwsServer::start(arguments).map(Ministack)
    }
}

impl Moto {
    /// Starts moto's server; `None` when it is not available here.
    #[track_caller]
    pub fn start() -> Option<Moto> {
        Moto::start_with(&[])
    }

    /// The same behind TLS, with the test CA's server certificate (for `localhost` and `127.0.0.1`).
    #[track_caller]
    pub fn start_tls() -> Option<Moto> {
        let certificates = certificates()?;
        let path = |path: PathBuf| path.display().to_string();
        Moto::start_with(&["-c".to_owned(), path(certificates.server), "-k".to_owned(), path(certificates.server_key)])
    }

    #[track_caller]
    fn start_with(options: &[String]) -> Option<Moto> {
        let path = installed("moto", "aws/bin/moto_server")?;
        let arguments = |address: SocketAddr| {
            let port = address.port().to_string();
            let recorder = format!("MOTO_RECORDER_FILEPATH={RECORDING}");
            let program = ["MOTO_ENABLE_RECORDING=1", &recorder, &*path.display().to_string()].map(str::to_owned);
            let listen = ["-H", "127.0.0.1", "-p", &port].map(str::to_owned);
            [&program[..], &listen, options].concat()
        };
        AwsServer::start(arguments).map(Moto)
    }

    /// Every request so far, as moto records it: `method`, `url`, `headers`, and `body` (base64).
    pub fn requests(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.process.folder().join(RECORDING)).unwrap_or_default();
        let complete = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        complete.filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Deref for Ministack {
    type Target = AwsServer;

    fn deref(&self) -> &AwsServer {
        &self.0
    }
}

impl Deref for Moto {
    type Target = AwsServer;

    fn deref(&self) -> &AwsServer {
        &self.0
    }
}

impl AwsServer {
    /// `arguments` are those of `env`: variables, then the program with its arguments.
    #[track_caller]
    fn start(arguments: impl Fn(SocketAddr) -> Vec<String>) -> Option<AwsServer> {
        let process = Process::start(|folder: &Path| {
            let address = free_port();
            // ministack leaves a file in TMPDIR.
            let mut all = ["HOME", "TMPDIR"].map(|name| format!("{name}={}", folder.display())).to_vec();
            all.extend(arguments(address));
            let addresses = Addresses { tcp: Some(address), ..Addresses::default() };
            Program { path: PathBuf::from("/usr/bin/env"), arguments: all, addresses }
        });
        let address = process.addresses().tcp?;
        Some(AwsServer { process, address })
    }

    /// Where it receives requests of every service.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL without a trailing slash.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The output of the server so far; moto prints a line for each request, with the status of its answer.
    pub fn diagnostics(&self) -> String {
        self.process.diagnostics()
    }

    /// Calls an action of CloudWatch Logs as `account` (12 digits). Returns the status and the body of the answer.
    #[track_caller]
    pub fn call_logs(&self, account: &str, action: &str, body: &Value) -> (u16, Value) {
        let text = body.to_string();
        // HTTP/1.0, so that the answer ends with the connection. The emulator reads the service from the credential.
        let request = format!(
            "POST / HTTP/1.0\r\nHost: {}\r\nContent-Type: application/x-amz-json-1.1\r\nX-Amz-Target: Logs_20140328.{action}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential={account}/20260101/us-east-1/logs/aws4_request, \
             SignedHeaders=host, Signature=00\r\nContent-Length: {}\r\n\r\n{text}",
            self.address,
            text.len()
        );
        let mut answer = Vec::new();
        let result = TcpStream::connect(self.address).and_then(|mut stream| {
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.write_all(request.as_bytes())?;
            stream.read_to_end(&mut answer)
        });
        let answer = String::from_utf8_lossy(&answer);
        let report = || format!("{action}: {result:?}; answer: {answer}; output: {}", self.process.diagnostics());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{}", report()));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("{}", report())), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Each log group of the account, from DescribeLogGroups.
    #[track_caller]
    pub fn log_groups(&self, account: &str) -> Vec<Value> {
        let (status, answer) = self.call_logs(account, "DescribeLogGroups", &json!({}));
        assert_eq!(status, 200, "{answer}");
        answer["logGroups"].as_array().cloned().unwrap_or_default()
    }

    /// Every event of a stream by time, from GetLogEvents; empty when the stream does not exist.
    #[track_caller]
    pub fn log_events(&self, account: &str, group: &str, stream: &str) -> Vec<Value> {
        let mut query = json!({ "logGroupName": group, "logStreamName": stream, "startFromHead": true });
        let mut events = Vec::new();
        loop {
            let (status, answer) = self.call_logs(account, "GetLogEvents", &query);
            if status == 400 && answer["__type"].as_str().is_some_and(|kind| kind.contains("ResourceNotFound")) {
                return events;
            }
            assert_eq!(status, 200, "{answer}");
            events.extend(answer["events"].as_array().into_iter().flatten().cloned());
            // At the end of a stream the token does not change.
            if query["nextToken"] == answer["nextForwardToken"] {
                return events;
            }
            query["nextToken"] = answer["nextForwardToken"].clone();
        }
    }
}
