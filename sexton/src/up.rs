pub mod listen;
pub mod sample;
pub mod watch;
#[derive(Debug, clap::Args)]
pub struct Arguments {}
pub fn run(_: Arguments) -> crate::failure::Outcome { Ok(0) }
