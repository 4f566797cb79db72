//! `keys rotate`: changes the key that signs orders on AWS, in steps that can be repeated. The new key is made beside
//! the old one; it is used when every runner accepts it.

use aws::{Aws, KeyRotation, OrderKey};
use clap::{Args, Subcommand};
use domain::ports::{Heartbeat, PortError};
use jiff::Timestamp;
use serde_json::json;

use crate::client::{AwsArguments, block_on};
use crate::configuration::Configuration;
use crate::failure::{FAILED, Failure, Outcome, SUCCESS};
use crate::on_aws;
use crate::print::{Printer, format_instant};
use crate::text_table::{Column, Table};

#[derive(Debug, Args)]
pub(crate) struct KeysArguments {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Change the key that signs orders on AWS: make the new key, list the runners that do not know it yet, and use
    /// it when all know it
    Rotate(RotateArguments),
}

#[derive(Debug, Args)]
struct RotateArguments {
    /// Use the new key although some runners do not know it; they refuse all orders until they do
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    aws: AwsArguments,
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "SEXTON_CONFIG")]
    config: Option<std::path::PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The columns of the runners that do not know the new key.
const COLUMNS: &[Column] = &[
    Column::whole("runner"),
    Column::text("host"),
    Column::text("groups"),
    Column::text("last heartbeat"),
    Column::text("known keys"),
];

pub(crate) fn run(arguments: KeysArguments) -> Outcome {
    let KeysCommand::Rotate(arguments) = arguments.command;
    let configuration = Configuration::load(arguments.config.as_deref())?;
    let Some(options) = arguments.aws.options(&configuration) else {
        let message = "only an installation on AWS has a signing key; write --aws, or [aws] in the configuration";
        return Err(Failure::usage(message));
    };
    block_on(async {
        let aws = on_aws::connect(&options).await?;
        let failed = |error: PortError| Failure::failed(error.to_string());
        let kms_key = aws.kms_key().await.map_err(failed)?;
        let rotation = KeyRotation::new(&options, &aws.names, kms_key);
        print(&rotate(&aws, &rotation, arguments.force).await.map_err(failed)?, arguments.json)
    })
}

/// The state of a change after one call.
struct Rotated {
    old: Option<OrderKey>,
    new: OrderKey,
    /// Whether this call made the new key.
    made: bool,
    switched: bool,
    /// Runners that do not know the new key.
    without: Vec<Heartbeat>,
}

async fn rotate(aws: &Aws, rotation: &KeyRotation, force: bool) -> Result<Rotated, PortError> {
    let old = rotation.current().await?;
    let (new, made) = match rotation.next().await? {
        Some(next) => (next, false),
        None => (rotation.make_next().await?, true),
    };
    let mut heartbeats = aws.ports.settings.heartbeats().await?;
    heartbeats.retain(|heartbeat| !knows(heartbeat, &new.id));
    let mut rotated = Rotated { old, new, made, switched: false, without: heartbeats };
    // An earlier call may have ended after the switch and before the deletion.
    let is_used = rotated.old.as_ref() == Some(&rotated.new);
    if is_used || rotated.without.is_empty() || force {
        if !is_used {
            rotation.switch().await?;
        }
        rotation.discard_next().await?;
        rotated.switched = true;
    }
    Ok(rotated)
}

/// Whether a runner accepts orders of this key. A runner of an older release does not report its keys.
fn knows(heartbeat: &Heartbeat, id: &str) -> bool {
    heartbeat.order_keys.as_ref().is_some_and(|keys| keys.is_empty() || keys.iter().any(|key| key == id))
}

fn print(rotated: &Rotated, as_json: bool) -> Outcome {
    let mut out = Printer::new();
    let Rotated { old, new, switched, without, .. } = rotated;
    if as_json {
        let key = |key: &OrderKey| json!({ "id": key.id, "public": key.public });
        out.print_json(&json!({
            "old": old.as_ref().map(key), "new": key(new), "switched": switched, "without_new_key": without,
        }))?;
    } else {
        print_lines(rotated, &mut out)?;
    }
    out.finish()?;
    Ok(if *switched { SUCCESS } else { FAILED })
}

fn print_lines(rotated: &Rotated, out: &mut Printer) -> Result<(), Failure> {
    let Rotated { old, new, made, switched, without } = rotated;
    let is_made = if *made { "was made" } else { "exists" };
    out.print_line(&format!("new key {} {is_made}; `order_keys` of the policy of each runner needs:", new.id))?;
    out.print_line(&format!("    \"{}\"", new.public))?;
    if !without.is_empty() {
        let count = without.len();
        let runners = if count == 1 { "runner does" } else { "runners do" };
        out.print_line(&format!("{count} {runners} not know the new key:"))?;
        let mut table = Table::new(COLUMNS);
        for heartbeat in without {
            table.add_row(vec![
                heartbeat.runner.clone(),
                heartbeat.host.clone(),
                heartbeat.groups.join(", "),
                format_instant(heartbeat.at),
                known_keys(heartbeat),
            ]);
        }
        out.print_table(&table)?;
    }
    let old_id = old.as_ref().filter(|old| old.id != new.id).map(|old| old.id.as_str());
    match (switched, old_id) {
        (true, old_id) => {
            out.print_line(&format!("key {} signs all orders from {} on", new.id, within_five_minutes()))?;
            if let Some(old) = old_id {
                out.print_line(&format!(
                    "remove key {old} from `order_keys` when no order that it signed is left: after 4 days at the latest"
                ))?;
            }
        }
        (false, Some(old)) => out.print_line(&format!(
            "key {old} still signs all orders; add the new key to the policy of these runners, restart them, and repeat \
             this command"
        ))?,
        (false, None) => out.print_line(
            "no key signs orders yet; add the new key to the policy of these runners, restart them, and repeat this \
             command",
        )?,
    }
    Ok(())
}

/// The Lambdas read the key again within this time (`aws::SigningKey`).
fn within_five_minutes() -> String {
    let at = Timestamp::now().checked_add(jiff::SignedDuration::from_mins(5)).unwrap_or(Timestamp::MAX);
    format_instant(at)
}

fn known_keys(heartbeat: &Heartbeat) -> String {
    match &heartbeat.order_keys {
        Some(keys) => keys.join(", "),
        None => format!("unknown: version {} does not report them", heartbeat.version),
    }
}
