//! Where alerts are sent: one file a kind of channel. The wiring gives them to the alerts service as its notifier.
//!
//! A channel sends one alert once. Whether it is sent again is decided by the service, from the error's class.

mod alert_text;
mod command;
mod http;
mod reference;
mod slack;
mod smtp;
mod webhook;

use std::collections::BTreeMap;
use std::path::Path;

use domain::alert::Alert;
use domain::document::Section;
use domain::ports::PortResult;

pub use alert_text::headline;

/// `[channel.NAME]`
#[derive(Debug)]
pub struct Channel {
    pub name: String,
    pub options: ChannelOptions,
}

/// `[channel.NAME]` by its `type`.
#[derive(Debug)]
pub enum ChannelOptions {
    Webhook(webhook::Options),
    Slack(slack::Options),
    Smtp(smtp::Options),
    Command(command::Options),
}

/// Reads one channel's section. Faults are left in its document.
pub fn read_options(mut section: Section, folder: &Path) -> Option<ChannelOptions> {
    #[derive(Clone, Copy)]
    enum Kind {
        Webhook,
        Slack,
        Smtp,
        Command,
    }
    let kinds = [("webhook", Kind::Webhook), ("slack", Kind::Slack), ("smtp", Kind::Smtp), ("command", Kind::Command)];
    if !section.has("type") {
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
    section.finish();
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
    /// One sentence for each channel that cannot be used.
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

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.senders.keys().map(String::as_str)
    }

    /// # Errors
    /// `Retry` when the same message may get through later, `Permanent` when it never will.
    pub async fn send(&self, channel: &str, alert: &Alert) -> PortResult<()> {
        match self.senders.get(channel) {
            Some(Sender::Webhook(sender)) => sender.send(alert).await,
            Some(Sender::Slack(sender)) => sender.send(alert).await,
            Some(Sender::Smtp(sender)) => sender.send(alert).await,
            Some(Sender::Command(sender)) => sender.send(alert).await,
            None => Err(domain::ports::PortError::Permanent(unknown_channel(channel, self.names()))),
        }
    }

    /// Reaches the channel's receiver without sending anything, where its protocol allows that.
    ///
    /// # Errors
    /// As [`Channels::send`].
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

/// A job may name a channel that no configuration has.
fn unknown_channel<'a>(channel: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    match known.as_slice() {
        [] => format!("no channel `{channel}`: none is configured"),
        known => format!("no channel `{channel}`; configured are {}", known.join(", ")),
    }
}

/// `url`: an address, or a reference to one, since the address of a webhook is a secret.
fn read_url(section: &mut Section) -> Option<String> {
    if !section.has("url") {
        section.fault(section.line(), "", "`url` is missing; write url = \"https://...\" or \"env:NAME\"");
    }
    reference::read_secret(section, "url")
}
