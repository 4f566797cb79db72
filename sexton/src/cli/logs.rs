//! `logs`: what a run printed, byte for byte. Through the server; where none answers, from the state directory itself.

use clap::Args;

use crate::cli::runs::valid_run_id;
use crate::client::{Client, Question, ServerArguments, block_on};
use crate::failure::{DONE, Outcome};
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    run_id: String,
    /// Go on until the run is over
    #[arg(long)]
    follow: bool,
    /// Only this stream; default both, as they came
    #[arg(long, value_parser = ["stdout", "stderr"])]
    stream: Option<String>,
    /// Before each line, when it was captured
    #[arg(long)]
    timestamps: bool,
    #[command(flatten)]
    server: ServerArguments,
}

pub fn run(arguments: Arguments) -> Outcome {
    let run_id = valid_run_id(&arguments.run_id)?;
    block_on(async {
        let client = Client::find(&arguments.server)?;
        let question = Question::get(&["runs", run_id, "logs"])
            .with("stream", arguments.stream.as_ref())
            .with("timestamps", arguments.timestamps.then_some(true))
            .with("follow", arguments.follow.then_some(true));
        let mut body = client.stream(question).await?;
        let mut out = Output::new();
        while let Some(chunk) = body.chunk().await.map_err(|error| client.unreachable(&error))? {
            out.bytes(&chunk)?;
            if arguments.follow {
                out.flush()?;
            }
        }
        out.finish()?;
        Ok(DONE)
    })
}
