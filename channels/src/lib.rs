//! Sends alerts to the channels of the configuration: webhook, Slack, mail (SMTP) and a command, one file each.
//!
//! | type | purpose |
//! |---|---|
//! | [`read_options`] | reads `[channel.NAME]` of `sexton.toml`; every fault carries its line |
//! | [`Channels`] | all channels by name: [`Channels::send`] sends, [`Channels::probe`] only connects |
//!
//! `sexton` gives them to the alerts service as its notifier. A channel sends an alert once and never retries: the
//! service decides that from the class of the error.

#![warn(missing_docs)]

mod alert_text;
mod command;
mod http;
mod secret_reference;
mod slack;
mod smtp;
mod webhook;

use std::collections::BTreeMap;
use std::path::Path;

use domain::alert::Alert;
use domain::document::Section;
use domain::ports::PortResult;

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

enum Sender {
    Webhook(Box<webhook::Webhook>),
    Slack(slack::Slack),
    Smtp(smtp::Smtp),
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
                ChannelOptions::Smtp(options) => smtp::Smtp::new(options).map(Sender::Smtp),
                ChannelOptions::Command(options) => Ok(Sender::Command(command::CommandChannel::new(options))),
            };
            match sender {
                Ok(sender) => drop(senders.insert(name, sender)),
                Err(why) => faults.push(format!("channel `{name}`: {why}")),
            }
        }
        if faults.is_empty() { Ok(Channels { senders }) } else { Err(faults) }
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
