//! `logs`: prints the output of a run, byte for byte. Reads it through the API, otherwise from the state directory.

use axum::http::HeaderMap;
use clap::Args;
use console::{LogQuery, REMOVED_LINES};
use domain::line::Stream;
use domain::run::{Run, RunId};

use crate::cli::job_lookup::{NamedJob, latest_started_run};
use crate::cli::runs::state_name;
use crate::cli::runs_on_disk::{self, Filter};
use crate::client::{ApiRequest, BodyChunks, Client, ServerArguments, block_on};
use crate::failure::{Failure, Outcome, SUCCESS, print_error_line};
use crate::print::{Printer, format_optional_instant};
use crate::up::run_output::{RunOutput, copy_output, missing_lines_text};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Run id as printed by `sexton runs`, or a job as GROUP/NAME: its latest run that has started
    #[arg(value_name = "RUN_ID|GROUP/NAME")]
    of: String,
    /// Print new lines until the run ends
    #[arg(short, long)]
    follow: bool,
    /// Only this stream [default: both, in the order of capture]
    #[arg(long, value_parser = ["stdout", "stderr"])]
    stream: Option<String>,
    /// Prefix each line with capture time and stream
    #[arg(long)]
    timestamps: bool,
    #[command(flatten)]
    server: ServerArguments,
}

pub(crate) fn run(arguments: Arguments) -> Outcome {
    block_on(async {
        let run_id = match RunId::is_valid(&arguments.of) {
            true => RunId(arguments.of.clone()),
            false => find_latest(&arguments).await?,
        };
        match open_stream(&arguments, run_id.as_str()).await {
            Ok((client, answer)) => print_stream(&arguments, run_id.as_str(), &client, answer).await,
            // No server answers, or it is a runner, which serves no output. With --server, the disk is not read.
            Err(failure) if arguments.server.server.is_none() => print_from_disk(&arguments, run_id.as_str(), failure),
            Err(failure) => Err(failure),
        }
    })
}

/// The latest run of a job that has started. Names it on standard error, because the output does not.
async fn find_latest(arguments: &Arguments) -> Result<RunId, Failure> {
    let job = NamedJob::parse(&arguments.of)?;
    let found = async {
        let client = Client::find(&arguments.server).await?;
        let key = NamedJob::parse(&arguments.of)?.find(&client).await?;
        latest_started_run(&client, &key).await
    };
    let run = match found.await {
        Err(failure @ Failure::Failed(_)) => latest_on_disk(arguments, job, failure)?,
        found => found?,
    };
    let key = run.key();
    let started = format_optional_instant(run.started_at);
    let state = run.outcome.map_or_else(|| state_name(&run), domain::run::Outcome::name);
    print_error_line(&format!("sexton: run {} of {key}, started {started}: {state}", run.run_id));
    Ok(run.run_id)
}

/// The latest run of a job of `sexton exec` that has started, where no server answers.
fn latest_on_disk(arguments: &Arguments, job: NamedJob, no_server: Failure) -> Result<Run, Failure> {
    let (group, job) = match job {
        NamedJob::Key(key) => (Some(key.group), key.name),
        NamedJob::Name(name) => (None, name),
    };
    let filter = Filter { group, job: Some(job), ..Filter::default() };
    let runs = runs_on_disk::list(&arguments.server, &filter, 1, no_server)?;
    runs.into_iter().next().ok_or_else(|| Failure::usage(format!("no run of {} is kept here", arguments.of)))
}

type OutputStream = (HeaderMap, BodyChunks);

async fn open_stream(arguments: &Arguments, run_id: &str) -> Result<(Client, OutputStream), Failure> {
    let client = Client::find(&arguments.server).await?;
    let segments = ["runs", run_id, "logs"];
    let request = ApiRequest::get(&segments)
        .with("stream", arguments.stream.as_ref())
        .with("timestamps", arguments.timestamps.then_some(true))
        .with("follow", arguments.follow.then_some(true));
    let answer = client.stream(request).await?;
    Ok((client, answer))
}

async fn print_stream(arguments: &Arguments, run_id: &str, client: &Client, (head, mut body): OutputStream) -> Outcome {
    let removed = head.get(REMOVED_LINES).and_then(|lines| lines.to_str().ok());
    if let Some(lines) = removed.filter(|lines| *lines != "0") {
        let what = if lines == "1" { "the first line" } else { &format!("the first {lines} lines") };
        print_error_line(&format!("sexton: retention deleted {what} of {run_id}"));
    }
    let mut out = Printer::new();
    while let Some(piece) = body.next().await {
        out.print_bytes(&piece.map_err(|error| client.unreachable(&error))?)?;
        if arguments.follow {
            out.flush()?;
        }
    }
    out.finish()?;
    Ok(SUCCESS)
}

fn print_from_disk(arguments: &Arguments, run_id: &str, no_server: Failure) -> Outcome {
    let state = arguments.server.state(&arguments.server.configuration()?)?;
    let read_error = |why| Failure::failed(format!("cannot read the output of {run_id}: {why}"));
    let found = RunOutput::new(&state.runner_folder()).find(&RunId(run_id.to_owned())).map_err(read_error)?;
    let Some(directory) = found else { return Err(no_server) };
    let stream = arguments.stream.as_deref().map(|name| if name == "stderr" { Stream::Stderr } else { Stream::Stdout });
    let query = LogQuery { stream, timestamps: arguments.timestamps, follow: arguments.follow };
    let mut out = Printer::new();
    let mut printed = Ok(());
    let give = |bytes: Vec<u8>| {
        printed = out.print_bytes(&bytes).and_then(|()| out.flush());
        printed.is_ok()
    };
    let missing = |removed| {
        let text = arguments.timestamps.then(|| missing_lines_text(removed));
        if text.is_none() {
            print_error_line(&format!("sexton: output of {run_id}: {removed}"));
        }
        text
    };
    copy_output(&directory, query, give, missing, || false).map_err(read_error)?;
    printed?;
    Ok(SUCCESS)
}
