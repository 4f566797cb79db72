//! The keeper and its fork server as separate processes, for the tests: `keeper-harness DIR`.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(word) if word == keeper::fork_server::ARGUMENT => keeper::fork_server::serve(keeper::main),
        Some(directory) => keeper::main(&PathBuf::from(directory)),
        None => ExitCode::from(2),
    }
}
