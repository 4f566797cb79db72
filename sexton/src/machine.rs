//! Facts about this machine: its name, cores, memory and the program of the keeper; and a runner's options built from
//! them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws::AwsSecrets;
use domain::secret::Secrets;
use jiff::Timestamp;
use keeper::spawn::KeeperCommand;
use runner::options::{Mode as RunnerMode, Retention};
use runner::{LocalSecrets, OnShutdown, Options};

use crate::configuration::{Configuration, Mode, load_policy};
use crate::failure::Failure;
use crate::own_process;
use crate::process_one;

/// The longest shutdown as process 1: jobs get 9 s of it. Docker kills a container 10 s after TERM.
const SHUTDOWN_MAX: Duration = Duration::from_millis(9_700);

pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The options of a runner with its run directories below `folder`, without rules and sinks.
///
/// # Errors
/// Fails if the path of this program is unknown (the keeper is the same program), or if the policy has faults.
pub(crate) fn runner_options(configuration: &Configuration, folder: PathBuf) -> Result<Options, Failure> {
    let section = &configuration.runner;
    let program = std::env::current_exe().map_err(|why| {
        Failure::failed(format!("cannot find the program of this process, which is also the keeper: {why}"))
    })?;
    let keeper = KeeperCommand(vec![program.into(), "keeper".into()]);
    let host = host_name();
    let mut options = Options::new(folder, section.name.as_deref().unwrap_or(&host), &host, keeper);
    options.groups.clone_from(&section.groups);
    options.pass_env.clone_from(&section.pass_env);
    options.inherited = own_process::inherited();
    options.open_files_max = own_process::open_files_max();
    options.secrets = secrets(configuration.aws.clone().unwrap_or_default());
    if let Some(path) = &section.policy {
        options.policy = Arc::new(load_policy(path)?);
    }
    options.mode = match section.mode {
        Mode::Serial => RunnerMode::Serial,
        Mode::Free => RunnerMode::Free,
        Mode::Resources => RunnerMode::Resources { cpu: cores(), memory_bytes: memory_bytes() },
    };
    let is_process_one = process_one::is_process_one();
    let on_shutdown = if is_process_one { OnShutdown::Stop } else { OnShutdown::Leave };
    options.on_shutdown = section.on_shutdown.unwrap_or(on_shutdown);
    options.shutdown_max = is_process_one.then_some(SHUTDOWN_MAX);
    let default = Retention::default();
    options.retention = Retention {
        age: section.retention.unwrap_or(default.age),
        bytes: section.spool_max.unwrap_or(default.bytes),
        ..default
    };
    Ok(options)
}

/// Resolves the secret references of jobs: on this machine, and on AWS if a job refers to it.
pub(crate) fn secrets(aws: aws::Options) -> Arc<dyn Secrets> {
    Arc::new(LocalSecrets { remote: Some(Arc::new(AwsSecrets::new(aws))) })
}

fn cores() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64)
}

fn memory_bytes() -> u64 {
    let system = rustix::system::sysinfo();
    system.totalram.saturating_mul(u64::from(system.mem_unit))
}

/// Allocations of at least this size are returned to the system when freed. Spool blocks have 64 KiB; only buffers for
/// lines of up to 1 MB are larger, and would otherwise remain in the heap of every thread.
const MMAP_THRESHOLD_BYTES: libc::c_int = 256 << 10;

/// Keeps the memory of a server constant for any output of jobs (mallopt(3); only glibc needs it).
pub(crate) fn set_mmap_threshold() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "mallopt has no safe form")]
    // SAFETY: sets one number of the allocator, before any other thread is started.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
    }
}

/// Six random bytes for the id of a run that no schedule started.
///
/// # Errors
/// When the kernel returns none.
pub(crate) fn random_bytes() -> Result<[u8; 6], getrandom::Error> {
    let mut bytes = [0; 6];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// The same, with the clock's nanoseconds in place of random bytes when there are none. For runs in a store: it refuses
/// an id that exists.
pub(crate) fn random_or_clock_bytes() -> [u8; 6] {
    random_bytes().unwrap_or_else(|why| {
        tracing::warn!(%why, "random bytes unavailable; using the clock");
        let mut bytes = [0; 6];
        bytes.copy_from_slice(&Timestamp::now().as_nanosecond().to_le_bytes()[..6]);
        bytes
    })
}
