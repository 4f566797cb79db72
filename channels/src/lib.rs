//! Sends alerts to the channels of the configuration: webhook, Slack, mail (SMTP) and a command, one file each.
//!
//! | type | purpose |
//! |---|---|
//! | [`read_options`] | reads `[channel.NAME]` of `sexton.toml`; every fault carries its line |
//! | [`Channels`] | all channels by name: [`Channels::send`] sends, [`Channels::probe`] only connects |
//! | [`OutputMailer`] | mails the output of runs (MAILTO): [`Channels::output_mailer`] |
//!
//! `sexton` gives them to the alerts service as its notifier. A channel sends an alert once and never retries: the
//! service decides that from the class of the error.

#![warn(missing_docs)]

mod alert_text;
mod command;
mod http;
mod output_mail;
mod secret_reference;
mod slack;
mod smtp;
mod webhook;

pub use command::CommandLimits;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use domain::alert::Alert;
use domain::document::Section;
use domain::ports::PortResult;
pub use output_mail::OutputMailer;

/// A channel as configured by `[channel.NAME]`.
#[derive(Debug)]
pub struct Channel {
    /// `NAME`
    pub name: String,
    /// Its other keys.
    pub options: ChannelOptions,
}

/// The options of a channel, by its `type`.
#[derive(Debug)]
pub enum ChannelOptions {
    /// `webhook`
    Webhook(webhook::Options),
    /// `slack`
    Slack(slack::Options),
    /// `smtp`
    Smtp(smtp::Options),
    /// `command`
    Command(command::Options),
}

/// Reads one channel's section. `folder` is the folder of the file, for relative paths. Faults are collected in the
/// section's document.
pub fn read_options(mut section: Section, folder: &Path) -> Option<ChannelOptions> {
    #[derive(Clone, Copy)]
    enum Kind {
        Webhook,
        Slack,
        Smtp,
        Command,
    }
    let kinds = [("webhook", Kind::Webhook), ("slack", Kind::Slack), ("smtp", Kind::Smtp), ("command", Kind::Command)];
    if !section.has_unread("type") {
        section.fault(
            section.line(),
            "",
            "`type` is missing; write type = \"webhook\", \"slack\", \"smtp\" or \"command\"",
        );
        return None;
    }
    let options = match section.choice("type", &kinds)? {
        Kind::Webhook => webhook::Options::read(&mut section).map(ChannelOptions::Webhook),
        Kind::Slack => slack::Options::read(&mut section).map(ChannelOptions::Slack),
        Kind::Smtp => smtp::Options::read(&mut section, folder).map(ChannelOptions::Smtp),
        Kind::Command => command::Options::read(&mut section).map(ChannelOptions::Command),
    };
    section.reject_unknown_keys();
    options
}

/// Bytes of a reason where the receiver has no known limit. Chosen: about 1,000 jobs, and below the usual limit of a
/// request, 100 KB.
const REASON_BYTES_MAX: usize = 64 << 10;

/// As [`REASON_BYTES_MAX`], for the log. Chosen: journald splits longer lines at 48 KiB.
const LOGGED_BYTES_MAX: usize = 16 << 10;

enum Sender {
    Webhook(Box<webhook::Webhook>),
    Slack(slack::Slack),
    Smtp(Arc<smtp::Smtp>),
    Command(command::CommandChannel),
}

/// All configured channels, by name.
pub struct Channels {
    senders: BTreeMap<String, Sender>,
}

impl Channels {
    /// # Errors
    /// Creates the senders. Nothing is connected yet.
    ///
    /// # Errors
    /// Returns one message per channel that cannot be used.
    pub fn new(channels: Vec<Channel>) -> Result<Channels, Vec<String>> {
        let mut senders = BTreeMap::new();
        let mut faults = Vec::new();
        for Channel { name, options } in channels {
            let sender = match options {
                ChannelOptions::Webhook(options) => {
                    webhook::Webhook::new(options).map(|sender| Sender::Webhook(Box::new(sender)))
                }
                ChannelOptions::Slack(options) => slack::Slack::new(options).map(Sender::Slack),
                ChannelOptions::Smtp(options) => smtp::Smtp::new(options).map(|smtp| Sender::Smtp(Arc::new(smtp))),
                ChannelOptions::Command(options) => Ok(Sender::Command(command::CommandChannel::new(options))),
            };
            match sender {
                Ok(sender) => drop(senders.insert(name, sender)),
                Err(why) => faults.push(format!("channel `{name}`: {why}")),
            }
        }
        if faults.is_empty() { Ok(Channels { senders }) } else { Err(faults) }
    }

    /// Gives the commands these settings instead of Sexton's own.
    #[must_use]
    pub fn with_command_limits(mut self, limits: CommandLimits) -> Channels {
        for sender in self.senders.values_mut() {
            if let Sender::Command(command) = sender {
                command.limits = limits;
            }
        }
        self
    }

    /// The names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.senders.keys().map(String::as_str)
    }

    /// Sends one alert through one channel.
    ///
    /// # Errors
    /// Returns `Retry` when the same alert can succeed later, `Permanent` when it never will.
    pub async fn send(&self, channel: &str, alert: &Alert) -> PortResult<()> {
        match self.senders.get(channel) {
            Some(Sender::Webhook(sender)) => sender.send(alert).await,
            Some(Sender::Slack(sender)) => sender.send(alert).await,
            Some(Sender::Smtp(sender)) => sender.send(alert).await,
            Some(Sender::Command(sender)) => sender.send(alert).await,
            None => Err(domain::ports::PortError::Permanent(unknown_channel(channel, self.names()))),
        }
    }

    /// Bytes of a reason that the channel shows without cutting it.
    pub fn reason_bytes_max(&self, channel: &str) -> usize {
        match self.senders.get(channel) {
            Some(Sender::Slack(_)) => slack::DIGEST_BYTES_MAX,
            Some(_) => REASON_BYTES_MAX,
            None => LOGGED_BYTES_MAX,
        }
    }

    /// How the output of runs is mailed: through the SMTP channel `named`, else through the only one, else through the
    /// sendmail of this machine.
    ///
    /// # Errors
    /// Returns one sentence when `named` is no SMTP channel.
    pub fn output_mailer(&self, named: Option<&str>) -> Result<OutputMailer, String> {
        let smtp = |(name, sender): (&String, &Sender)| match sender {
            Sender::Smtp(smtp) => Some((name.clone(), smtp.clone())),
            _ => None,
        };
        let mut all: Vec<(String, Arc<smtp::Smtp>)> = self.senders.iter().filter_map(smtp).collect();
        if let Some(named) = named {
            let found = all.into_iter().find(|(name, _)| name == named).map(|(_, smtp)| smtp);
            return found.map(OutputMailer::over_smtp).ok_or_else(|| {
                format!(
                    "`channel` of [mail] names no smtp channel: `{named}`; write [channel.{named}] with type = \"smtp\""
                )
            });
        }
        Ok(match all.len() {
            1 => OutputMailer::over_smtp(all.remove(0).1),
            0 => OutputMailer::over_sendmail(
                "there is neither an smtp channel nor a sendmail on this machine; write [channel.NAME] with type = \"smtp\"",
            ),
            _ => OutputMailer::over_sendmail(
                "there are several smtp channels and no sendmail; write channel = \"NAME\" in [mail]",
            ),
        })
    }

    /// Connects to the channel's receiver without sending an alert, and describes what was found.
    ///
    /// # Errors
    /// Returns errors like [`Channels::send`].
    pub async fn probe(&self, channel: &str) -> PortResult<&'static str> {
        match self.senders.get(channel) {
            Some(Sender::Webhook(sender)) => sender.probe().await,
            Some(Sender::Slack(sender)) => sender.probe().await,
            Some(Sender::Smtp(sender)) => sender.probe().await,
            Some(Sender::Command(sender)) => sender.probe(),
            None => Err(domain::ports::PortError::Permanent(unknown_channel(channel, self.names()))),
        }
    }
}

/// The error for a channel that is not configured; jobs name channels freely.
fn unknown_channel<'a>(channel: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    match known.as_slice() {
        [] => format!("no channel `{channel}`: no channel is configured"),
        known => format!("no channel `{channel}`; configured: {}", known.join(", ")),
    }
}

/// Reads `url`: an address or a reference to one, because the address of a webhook is a secret.
fn read_url(section: &mut Section) -> Option<String> {
    if !section.has_unread("url") {
        section.fault(section.line(), "", "`url` is missing; write url = \"https://...\" or \"env:NAME\"");
    }
    secret_reference::read_secret(section, "url")
}
