//! Where a call of `exec` stores its run: in the state directory, otherwise in a directory of this user for temporary
//! files. Without any, the command runs alone.

use domain::order::Order;
use keeper::records::Refusal;
use runner::exec::Call;

use crate::failure::print_error_line;
use crate::state::StateDirectory;

/// Folders for temporary files, in the order of choice: the first survives a restart of the machine, the last needs no
/// disk.
pub(crate) const FALLBACKS: [&str; 3] = ["/var/tmp", "/tmp", "/dev/shm"];

/// Stores the order in the first directory that can be used.
///
/// # Errors
/// Returns why the first choice cannot be used, when none can.
pub(super) fn prepare(
    chosen: &Result<StateDirectory, String>,
    order: &Order,
    refused: Option<&Refusal>,
) -> Result<(Call, StateDirectory), String> {
    let why = match chosen {
        Ok(state) => match prepare_in(state, order, refused) {
            Ok(call) => return Ok((call, state.clone())),
            Err(why) => why,
        },
        Err(why) => why.clone(),
    };
    let user = rustix::process::geteuid().as_raw();
    for folder in FALLBACKS {
        let state = StateDirectory::new(format!("{folder}/sexton-{user}"));
        if let Ok(call) = prepare_in(&state, order, refused) {
            if let Ok(chosen) = chosen {
                call.note_first_choice(&chosen.dir);
            }
            let dir = state.dir.display();
            print_error_line(&format!("sexton: {why}; this run is recorded in {dir}, for `sexton logs --state {dir}`"));
            return Ok((call, state));
        }
    }
    Err(why)
}

fn prepare_in(state: &StateDirectory, order: &Order, refused: Option<&Refusal>) -> Result<Call, String> {
    state.create().map_err(|error| error.to_string())?;
    Call::prepare(&state.runner_folder(), order.clone(), refused.cloned())
        .map_err(|error| format!("cannot use the state directory {}: {error}", state.dir.display()))
}
