//! The error of all services: one case for each reaction of a caller.

use domain::job::JobKey;
use domain::ports::PortError;
use domain::run::RunId;

/// Why a service failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port failed. The next call of a duty retries; a command returns the error to its user.
    #[error(transparent)]
    Port(#[from] PortError),
    /// No job of this key is stored.
    #[error("no job {0}; `sexton jobs` lists all jobs")]
    NoSuchJob(JobKey),
    /// No run of this id is stored.
    #[error("no run {0}; `sexton runs` lists the runs that are kept")]
    NoSuchRun(RunId),
    /// The stored definition of a job is invalid: the job never fires.
    #[error("job {key}: {message}")]
    BadJob {
        /// The job.
        key: JobKey,
        /// The fault, as the parser of job files reports it.
        message: String,
    },
    /// The job or run does not allow the operation in its current state.
    #[error("{0}")]
    Refused(String),
    /// Other processes changed the same record in each of 8 writes.
    #[error("{0} was changed concurrently; try again")]
    Conflict(String),
}

/// The result of every service.
pub type Result<T> = std::result::Result<T, Error>;

/// Most conditional writes of one change, each against the version then stored. Chosen, not measured.
pub(crate) const CONFLICTS_MAX: u32 = 8;
