//! Finds what `testbed/setup/install` has put below `.testbed`. Called by every `start`; it never installs anything.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, thread};

/// Paths of the test CA and of its certificates (PEM; keys without a passphrase).
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The CA that clients and servers trust.
    pub ca: PathBuf,
    /// Server certificate for `localhost` and `127.0.0.1`.
    pub server: PathBuf,
    /// Key of `server`.
    pub server_key: PathBuf,
    /// Client certificate with the common name `test-client`.
    pub client: PathBuf,
    /// Key of `client`.
    pub client_key: PathBuf,
}

/// The test certificates; `None` where the setup had no openssl.
pub fn certificates() -> Option<Certificates> {
    let folder = installed("certificates", "certificates")?;
    Some(Certificates {
        ca: folder.join("ca.pem"),
        server: folder.join("srv.pem"),
        server_key: folder.join("srv.key"),
        client: folder.join("client.pem"),
        client_key: folder.join("client.key"),
    })
}

/// The Python that has `aiosmtpd`, `graypy` and `pygelf`.
pub fn python() -> Option<PathBuf> {
    installed("aiosmtpd", "python/bin/python")
}

/// The linter of CloudFormation templates.
pub fn cfn_lint() -> Option<PathBuf> {
    installed("cfn-lint", "lint/bin/cfn-lint")
}

/// A folder with the files for cron of Debian packages: PACKAGE/etc/cron.d and PACKAGE/etc/crontab.
pub fn debian_cron_files() -> Option<PathBuf> {
    installed("cron-files", "debian/cron-files")
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// The path below `.testbed`, if the setup could install `server`. If not, leaves the test out as [`leave_out`] does.
pub(crate) fn installed(server: &str, path_below: &str) -> Option<PathBuf> {
    let folder = repository().join(".testbed");
    let path = folder.join(path_below);
    let Some(reason) = reason_left_out(&folder, server, &path) else { return Some(path) };
    leave_out(server, &reason);
    None
}

/// Prints that the test cannot run on this machine, and lists it as left out; panics with `CI=true`.
pub(crate) fn leave_out(needed: &str, reason: &str) {
    let note = format!("{} needs {needed}: {reason}", test_name());
    println!("left out: {note}");
    let list = repository().join(".testbed/left-out-tests");
    if let Ok(mut list) = OpenOptions::new().append(true).create(true).open(list) {
        // One write, since other test processes append too.
        list.write_all(format!("{note}\n").as_bytes()).ok();
    }
    assert!(env::var_os("CI").is_none_or(|value| value != "true"), "CI=true, nothing may be left out: {note}");
}

/// Why the setup could not install the server; `None` when it could.
fn reason_left_out(folder: &Path, server: &str, path: &Path) -> Option<String> {
    let list = fs::read_to_string(folder.join("left-out")).unwrap_or_default();
    let noted = list.lines().filter_map(|line| line.split_once('\t')).find(|(name, _)| *name == server);
    match noted {
        Some((_, reason)) => Some(reason.to_owned()),
        None if path.exists() => None,
        None => Some("not found below .testbed; run testbed/setup/install".to_owned()),
    }
}

/// The name of the running test, as nextest prints it.
fn test_name() -> String {
    match (env::var("NEXTEST_BINARY_ID"), env::var("NEXTEST_TEST_NAME")) {
        (Ok(binary), Ok(test)) => format!("{binary} {test}"),
        _ => thread::current().name().unwrap_or("a test").to_owned(),
    }
}
