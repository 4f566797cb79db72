//! Keys, indexes, expiry and streams of all tables, as data. Tests create the tables from here, and one test compares
//! them with the template.

use crate::names::Names;

/// One table. All keys are strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Full name, with the prefix.
    pub name: String,
    /// Hash key.
    pub partition: &'static str,
    /// Range key.
    pub sort: Option<&'static str>,
    /// Global secondary indexes.
    pub indexes: Vec<Index>,
    /// Attribute with the second (since 1970) after which DynamoDB deletes an item, within days.
    pub expires: Option<&'static str>,
    /// Whether changes are streamed (keys only).
    pub stream: bool,
}

/// A global secondary index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    /// Name of the index, without a prefix.
    pub name: &'static str,
    /// Hash key.
    pub partition: &'static str,
    /// Range key.
    pub sort: &'static str,
    /// Attributes that DynamoDB copies into the index.
    pub projection: Projection,
}

/// Attributes that DynamoDB copies into an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// All attributes.
    All,
    /// The keys of table and index.
    KeysOnly,
}

impl Projection {
    /// The name in DynamoDB and CloudFormation.
    pub const fn name(self) -> &'static str {
        match self {
            Projection::All => "ALL",
            Projection::KeysOnly => "KEYS_ONLY",
        }
    }
}

/// Attribute with the second (since 1970) at which an item expires.
pub(crate) const EXPIRES: &str = "expires";

/// Index of the runs of a job by run id. Its partition key is [`JOB_KEY`].
pub(crate) const RUNS_BY_JOB: &str = "by_job";
/// Attribute with the job of a run: `GROUP/NAME`.
pub(crate) const JOB_KEY: &str = "job_key";

/// Sparse index of transitions whose alert is not sent yet, by the time of the next attempt. Settled transitions have
/// no [`PENDING`].
pub(crate) const ALERTS_PENDING: &str = "pending";
pub(crate) const PENDING: &str = "pending";
pub(crate) const READY: &str = "ready";

/// Index of transitions by time.
pub(crate) const ALERTS_BY_TIME: &str = "by_time";
pub(crate) const LISTED: &str = "listed";
pub(crate) const CAME: &str = "came";

/// Returns all tables of an installation.
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
        // `GROUP#TEN_MINUTES`, then the run id.
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
        // A runner is stored under the first of its groups.
        plain(names.runners(), "group", "runner"),
        // The id of a state is `state:GROUP/NAME`; that of a transition has another prefix.
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
