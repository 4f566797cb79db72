//! Whether the machine allows only few more processes: then a call of `exec` leaves them to its command.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// Limits below this count as low. Chosen: Sexton needs up to ten processes and threads beside the command.
const LOW_LIMIT: u64 = 32;

/// Where control groups are mounted.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Whether the limit of this user's processes, or that of the control group, is low.
pub(super) fn is_low() -> bool {
    let user = getrlimit(Resource::Nproc).current;
    user.into_iter().chain(control_group_limit()).any(|limit| limit < LOW_LIMIT)
}

/// The limit of the control group of this process (cgroup v2); none where there is none.
fn control_group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = fs::read_to_string(Path::new(CONTROL_GROUPS).join(path).join("pids.max")).ok()?;
    limit.trim().parse().ok()
}
