//! The sample run of all tests, also of those below `tests`. Tests change the fields that they are about.

use domain::run::{Outcome, RunId, Trigger};

use crate::feed::{FinishedRecord, OutputEndedRecord, RunHeader};

pub(crate) fn header() -> RunHeader {
    RunHeader {
        run_id: RunId("20261123T075000Z-3f9a1c0e7b2d".into()),
        group: "db".into(),
        job: "nightly-dump".into(),
        attempt: 1,
        host: "host1".into(),
        runner: "runner1".into(),
        pid: Some(4242),
        nominal: "2026-11-23T07:50:00Z".parse().expect("instant"),
        trigger: Trigger::Schedule,
        command: "dump.sh \"all\"".into(),
        started_at: "2026-11-23T07:50:00.25Z".parse().expect("instant"),
    }
}

pub(crate) fn finished() -> FinishedRecord {
    FinishedRecord {
        outcome: Outcome::Failed,
        reason: "exit code 3".into(),
        exit_code: Some(3),
        signal: None,
        duration_ms: 1500,
        stdout_lines: 2,
        stderr_lines: 1,
        stdout_bytes: 20,
        stderr_bytes: 10,
        last_seq: 3,
        dropped_lines: 0,
        finished_at: "2026-11-23T07:50:01.75Z".parse().expect("instant"),
        output_open: false,
    }
}

pub(crate) fn output_ended() -> OutputEndedRecord {
    OutputEndedRecord {
        reason: String::new(),
        late_lines: 2,
        stdout_lines: 4,
        stderr_lines: 1,
        stdout_bytes: 40,
        stderr_bytes: 10,
        last_seq: 5,
        dropped_lines: 0,
        ended_at: "2026-11-23T07:50:07.5Z".parse().expect("instant"),
    }
}
