//! Commands whose `exec` was killed: their keepers went on alone, and what they left below `exec/` is finished by the next
//! runner or `exec` that uses the same state directory.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use domain::event::Event;

use crate::attend::{attend, refuse};
use crate::directory::RunDirectory;
use crate::local::locked;
use crate::records::{Refusal, RefusalKind};
use crate::recover::take_up;
use crate::runner::occupy;
use crate::shared::Shared;

/// Takes over every abandoned command that has ended. Idempotent; one that still runs, or that cannot be taken over, is
/// looked at again the next time.
pub async fn adopt_abandoned(shared: &Arc<Shared>, exec_folder: &Path) {
    let Ok(entries) = fs::read_dir(exec_folder) else { return };
    for entry in entries.flatten() {
        // Whoever holds the lock attends to it.
        let Ok(_in_use) = occupy(&entry.path()) else { continue };
        if let Err(error) = adopt(shared, &entry.path()).await {
            tracing::error!(%error, path = %entry.path().display(), "an abandoned command cannot be taken over");
        }
    }
}

async fn adopt(shared: &Arc<Shared>, state: &Path) -> io::Result<()> {
    for run in fs::read_dir(state.join("runs"))? {
        let run = run?;
        // A living keeper writes to where the directory is.
        if RunDirectory::at(run.path()).is_kept()? {
            return Ok(());
        }
        let here = shared.runs_folder.join(run.file_name());
        fs::rename(run.path(), &here)?;
        if let Some(run) = take_up(shared, RunDirectory::at(here))? {
            // Whoever wanted the command is gone; to start it now, elsewhere, is not what was asked for.
            let says = "`sexton exec` was killed before it could start the command".to_owned();
            let refused = refuse(shared, &run, Refusal { why: RefusalKind::Impossible, says });
            locked(&shared.admission).resume(refused.job().needs);
            shared.attending.spawn(attend(shared.clone(), refused));
        }
    }
    let reports = fs::read_dir(state.join("outbox")).into_iter().flatten().flatten();
    for file in reports.filter(|file| file.path().extension().is_some_and(|kind| kind == "json")) {
        for line in fs::read_to_string(file.path())?.lines() {
            if let (Some(outbox), Ok(event)) = (&shared.outbox, serde_json::from_str::<Event>(line)) {
                outbox.put(event).await;
            }
        }
        fs::remove_file(file.path())?;
    }
    fs::remove_dir_all(state)
}
