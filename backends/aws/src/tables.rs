//! The tables as data: keys, indexes, expiry and stream. Tests make them from here, and a test compares the template with
//! them; nothing else knows their shape.

use crate::names::Names;

/// One table. Every key is a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    /// Hash key.
    pub partition: &'static str,
    /// Range key.
    pub sort: Option<&'static str>,
    pub indexes: Vec<Index>,
    /// The attribute (seconds since 1970) after which DynamoDB forgets an item, within days.
    pub expires: Option<&'static str>,
    /// Whether its changes are streamed (keys only).
    pub stream: bool,
}

/// A global secondary index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    pub name: &'static str,
    pub partition: &'static str,
    pub sort: &'static str,
    /// Everything is copied into it, or the keys alone.
    pub projection: Projection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    All,
    KeysOnly,
}

impl Projection {
    /// As DynamoDB and CloudFormation write it.
    pub const fn name(self) -> &'static str {
        match self {
            Projection::All => "ALL",
            Projection::KeysOnly => "KEYS_ONLY",
        }
    }
}

/// Seconds since 1970.
pub const EXPIRES: &str = "expires";

/// Runs of a job by their names. Its partition key is [`JOB_KEY`].
pub const RUNS_BY_JOB: &str = "by_job";
/// `GROUP/NAME`.
pub const JOB_KEY: &str = "job_key";

/// Transitions that are to be told, by when. Sparse: a settled one has no [`PENDING`].
pub const ALERTS_PENDING: &str = "pending";
pub const PENDING: &str = "pending";
pub const READY: &str = "ready";

/// Transitions by when they came.
pub const ALERTS_BY_TIME: &str = "by_time";
pub const LISTED: &str = "listed";
pub const CAME: &str = "came";

/// All tables of an installation.
pub fn tables(names: &Names) -> Vec<Table> {
    let plain = |name: String, partition, sort| Table {
        name,
        partition,
        sort: Some(sort),
        indexes: Vec::new(),
        expires: None,
        stream: false,
    };
    vec![
        Table { stream: true, ..plain(names.jobs(), "group", "name") },
        // `MINUTE#SHARD`, then instant, job and timing.
        Table { expires: Some(EXPIRES), ..plain(names.due(), "slot", "entry") },
        // `GROUP#TEN_MINUTES`, then the run's name.
        Table {
            indexes: vec![Index {
                name: RUNS_BY_JOB,
                partition: JOB_KEY,
                sort: "run_id",
                projection: Projection::KeysOnly,
            }],
            expires: Some(EXPIRES),
            ..plain(names.runs(), "bucket", "run_id")
        },
        // A runner stands in the first of its groups.
        plain(names.runners(), "group", "runner"),
        // `state:GROUP/NAME`, or `told:` and the transition's id.
        Table {
            indexes: vec![
                Index { name: ALERTS_PENDING, partition: PENDING, sort: READY, projection: Projection::All },
                Index { name: ALERTS_BY_TIME, partition: LISTED, sort: CAME, projection: Projection::All },
            ],
            expires: Some(EXPIRES),
            sort: None,
            ..plain(names.alerts(), "id", "")
        },
        Table { expires: Some(EXPIRES), ..plain(names.settings(), "kind", "name") },
    ]
}
