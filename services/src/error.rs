//! What a service could not do, by what its caller does about it.

use domain::job::JobKey;
use domain::ports::PortError;
use domain::run::RunId;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Tried again by the next call of a duty; told to whoever gave a command.
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("there is no job {0}; `sexton jobs` lists those there are")]
    NoSuchJob(JobKey),
    #[error("there is no run {0}; `sexton runs` lists those that are kept")]
    NoSuchRun(RunId),
    /// A job that can never fire as it stands.
    #[error("job {key}: {message}")]
    BadJob { key: JobKey, message: String },
    /// What is asked for cannot be done to a thing in this state.
    #[error("{0}")]
    Refused(String),
    /// Somebody else kept changing the same record.
    #[error("{0} is being changed by somebody else; try again")]
    Conflict(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// How often a conditional write is tried again with what is stored by then, before the caller is told.
pub(crate) const CONFLICTS_MAX: u32 = 8;
