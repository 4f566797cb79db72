//! A network, an `/etc/hosts` or an environment that belongs to one test: the test binary starts itself once more. A
//! network needs root, or a machine that allows user namespaces.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::installation::leave_out;

/// The file that is `/etc/hosts` inside.
const HOSTS: &str = "SEXTON_TEST_HOSTS";

/// Runs before the test: `lo` is up, and the test's own lines follow.
const ENTER: &str = r#"set -e; ip link set lo up; mount --bind "$SEXTON_TEST_HOSTS" /etc/hosts; eval "$SEXTON_TEST_SETUP"
exec "$@""#;

/// Commands that make the network 10.9.9.0/24 and 2001:db8::/64, whose other machines are all switched off: nothing
/// answers for 10.9.9.7, and packets to 2001:db8::7 vanish.
pub const SILENT_NETWORK: &str = "ip link add v0 type veth peer name v1; ip addr add 10.9.9.1/24 dev v0
    ip link set v0 up; ip link set v1 up; ip -6 addr add 2001:db8::1/64 dev v0 nodad
    ip -6 neigh add 2001:db8::7 lladdr 02:00:00:00:00:01 dev v0 nud permanent";

/// Runs `test` in an own network, set up by the shell commands of `setup`, with the path of the file that is
/// `/etc/hosts` there. Runs nothing where the machine has no namespaces. Call it first in a `#[test]`: outside, it
/// starts the calling test again and returns when that has passed.
///
/// # Panics
/// When the test fails inside.
pub fn in_own_network(setup: &str, test: impl FnOnce(&Path)) {
    if let Some(hosts) = std::env::var_os(HOSTS) {
        return test(&PathBuf::from(hosts));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n").expect("the folder is writable");
    let mut namespaces = vec!["-n", "-m", "--propagation", "private"];
    if !crate::mail::is_root() {
        namespaces.push("--map-root-user");
    }
    let probe = Command::new("unshare").args(&namespaces).args(["ip", "link", "set", "lo", "up"]).output();
    if !probe.as_ref().is_ok_and(|output| output.status.success()) {
        return leave_out("an own network", &format!("unshare or ip failed: {probe:?}"));
    }
    let inside = Command::new("unshare")
        .args(&namespaces)
        .args(["sh", "-c", ENTER, "sh"])
        .arg(std::env::current_exe().expect("the test binary"))
        .args(["--exact", &running_test(), "--nocapture"])
        .env(HOSTS, &hosts)
        .env("SEXTON_TEST_SETUP", setup)
        .output()
        .expect("unshare starts");
    let printed = [inside.stdout, inside.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    assert!(inside.status.success() && printed.contains("1 passed"), "in its own network: {printed}");
}

/// Runs `test` in a process with these variables: the test binary starts itself once more. Call it first in a
/// `#[test]`, as [`in_own_network`].
///
/// # Panics
/// When the test fails inside.
pub fn with_variables(variables: &[(&str, &str)], test: impl FnOnce()) {
    const INSIDE: &str = "SEXTON_TEST_VARIABLES";
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let output = Command::new(std::env::current_exe().expect("the test binary"))
        .args(["--exact", &running_test(), "--nocapture"])
        .env(INSIDE, "1")
        .envs(variables.iter().copied())
        .output()
        .expect("it starts");
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    assert!(output.status.success() && printed.contains("1 passed"), "with {variables:?}: {printed}");
}

/// The path of the calling test, as `--exact` takes it.
fn running_test() -> String {
    let current = || std::thread::current().name().unwrap_or_default().to_owned();
    std::env::var("NEXTEST_TEST_NAME").unwrap_or_else(|_| current())
}
