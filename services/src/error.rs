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
    /// The store can never take this record, although it takes others. One sentence.
    #[error("{0}")]
    Unstorable(String),
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

/// Failed runs after which a duty ends. Chosen: a fault of one run is rare, so several are a fault of the store.
const FAILURES_MAX: u32 = 5;

/// The failures of a duty that continues with its next run.
#[derive(Default)]
pub(crate) struct Failures {
    first: Option<Error>,
    count: u32,
}

impl Failures {
    /// Notes the failure of one run.
    ///
    /// # Errors
    /// Returns the error when the store itself seems to fail.
    pub(crate) fn add(&mut self, error: Error) -> Result<()> {
        match &error {
            // Of this run alone.
            Error::Unstorable(_) | Error::Port(PortError::Permanent(_)) => return Ok(()),
            _ => self.count += 1,
        }
        if self.count >= FAILURES_MAX {
            return Err(error);
        }
        self.first.get_or_insert(error);
        Ok(())
    }

    /// # Errors
    /// Returns the first failure that a later call can repair.
    pub(crate) fn result(self) -> Result<()> {
        self.first.map_or(Ok(()), Err)
    }
}

/// Most conditional writes of one change, each against the version then stored. Chosen, not measured.
pub(crate) const CONFLICTS_MAX: u32 = 8;
