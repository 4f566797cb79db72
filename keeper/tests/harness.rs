//! The keeper as a separate process, for the tests: `keeper-harness DIR`.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(directory) => keeper::main(&PathBuf::from(directory)),
        None => ExitCode::from(2),
    }
}
