//! Independent clients: logger(1), openssl(1) and Python programs. Called by the other modules.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Sends one message with logger(1), which adds the time and the host.
pub(crate) fn logger(address: SocketAddr, arguments: &[&str]) {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    run(Command::new("logger").args(["--server", &ip, "--port", &port]).args(arguments), b"");
}

/// Sends bytes through TLS with openssl(1), which verifies the server against the test CA.
pub(crate) fn openssl(address: SocketAddr, bytes: &[u8]) {
    let certificates = testbed::certificates().expect("the server has started with them");
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-no_ign_eof", "-verify_return_error", "-verify_hostname", "localhost"]);
    command.arg("-CAfile").arg(certificates.ca).args(["-connect", &address.to_string()]);
    run(&mut command, bytes);
}

/// Runs a Python program that finds host, port and the rest of `arguments` in `sys.argv`.
pub(crate) fn python(program: &str, address: SocketAddr, arguments: &[&str]) {
    run_python(&testbed::python().expect("the test has asked for it"), program, address, arguments);
}

/// The same with the Python that has boto3, AWS's own client.
pub(crate) fn aws_python(program: &str, address: SocketAddr, arguments: &[&str]) {
    run_python(&testbed::repository().join(".testbed/aws/bin/python"), program, address, arguments);
}

fn run_python(python: &Path, program: &str, address: SocketAddr, arguments: &[&str]) {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    run(Command::new(python).args(["-c", program, &ip, &port]).args(arguments), b"");
}

fn run(command: &mut Command, input: &[u8]) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child.stdin.take().expect("a pipe").write_all(input).expect("the client reads its input");
    let output = child.wait_with_output().expect("the client ends");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
