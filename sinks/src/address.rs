//! The address of a sink: `udp://host:port`, `tcp+tls://host`, `unix:///dev/log`, `https://host/gelf`. Read from the
//! sinks file; never resolved here.

use std::fmt;
use std::path::PathBuf;

use domain::document::Section;

use crate::tls::TlsConfig;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Udp,
    Tcp,
    Tls,
    Unix,
    Http,
    Https,
}

impl Scheme {
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::Udp => "udp",
            Scheme::Tcp => "tcp",
            Scheme::Tls => "tcp+tls",
            Scheme::Unix => "unix",
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    const fn has_tls(self) -> bool {
        matches!(self, Scheme::Tls | Scheme::Https)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub scheme: Scheme,
    /// Name or IP address, without the brackets of IPv6; empty for `unix`.
    pub host: String,
    pub port: u16,
    /// Path of the socket for `unix`, of the resource for HTTP.
    pub path: String,
    /// `name:password`, for HTTP only.
    user_info: String,
}

/// Reads the options `address` and `tls`, which depend on each other. Reports every fault; returns `None` without a
/// usable address.
pub(crate) fn read(
    section: &mut Section,
    schemes: &[Scheme],
    port_of: fn(Scheme) -> u16,
) -> Option<(Address, TlsConfig)> {
    let line = section.line_of("address");
    let text = section.required_text("address");
    let tls_line = section.line_of("tls");
    let tls = TlsConfig::read(section);
    let text = text?;
    let address =
        Address::parse(&text, schemes, port_of).map_err(|message| section.fault(line, masked(&text), message)).ok()?;
    if tls != TlsConfig::default() && !address.scheme.has_tls() {
        let known = schemes.iter().filter(|scheme| scheme.has_tls()).map(|scheme| format!("{}://", scheme.name()));
        let known = known.collect::<Vec<_>>().join(" or ");
        section.fault(tls_line, "", format!("`tls` needs an address that begins with {known}"));
    }
    if address.scheme == Scheme::Https {
        tls.forbid_server_name(section, tls_line);
    }
    Some((address, tls))
}

impl Address {
    /// Parses an address of one of `schemes`. `port_of` gives the port when the text has none.
    ///
    /// # Errors
    /// One lower-case sentence: the fault, then what to write.
    pub fn parse(text: &str, schemes: &[Scheme], port_of: impl Fn(Scheme) -> u16) -> Result<Address, String> {
        let known = schemes.iter().map(|scheme| format!("{}://", scheme.name())).collect::<Vec<_>>().join(" ");
        if let Some(meant) = meant_address(text, schemes) {
            return Err(format!("write {meant}"));
        }
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| format!("not an address; begin it with one of {known}"))?;
        let scheme = schemes
            .iter()
            .find(|known| known.name() == scheme)
            .copied()
            .ok_or_else(|| format!("`{scheme}://` is not possible with this sink; begin with one of {known}"))?;
        if scheme == Scheme::Unix {
            if !rest.starts_with('/') {
                return Err("not an absolute path; write for example unix:///dev/log".to_owned());
            }
            return Ok(Address {
                scheme,
                host: String::new(),
                port: 0,
                path: rest.to_owned(),
                user_info: String::new(),
            });
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let web = matches!(scheme, Scheme::Http | Scheme::Https);
        if !web && !matches!(path, "" | "/") {
            return Err(format!("`{path}` is not part of an address of {}; remove it", scheme.name()));
        }
        let (user_info, host_port) = authority.rsplit_once('@').unwrap_or(("", authority));
        if !web && !user_info.is_empty() {
            return Err(format!("an address of {} has no user; remove `{user_info}@`", scheme.name()));
        }
        let (host, port) = split_port(host_port)?;
        if host.is_empty() {
            return Err(format!("no host; write for example {}://logs.internal:{}", scheme.name(), port_of(scheme)));
        }
        Ok(Address {
            scheme,
            host: host.to_owned(),
            port: port.unwrap_or_else(|| port_of(scheme)),
            path: path.to_owned(),
            user_info: user_info.to_owned(),
        })
    }

    /// `host:port`, the form that a resolver accepts.
    pub fn host_port(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    pub fn socket_path(&self) -> PathBuf {
        PathBuf::from(&self.path)
    }

    /// The URL to post to, with the user and password.
    pub fn url(&self) -> String {
        let user = if self.user_info.is_empty() { String::new() } else { format!("{}@", self.user_info) };
        format!("{}://{user}{}{}", self.scheme.name(), self.host_port(), self.path)
    }
}

/// Without the user and password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Unix => write!(f, "unix://{}", self.path),
            _ => write!(f, "{}://{}{}", self.scheme.name(), self.host_port(), self.path),
        }
    }
}

/// The address that was meant by a spelling of other programs: `tls://host`, `/dev/log`, `host:514`.
fn meant_address(text: &str, schemes: &[Scheme]) -> Option<String> {
    let first = |wanted: &[Scheme]| wanted.iter().find(|scheme| schemes.contains(scheme)).map(|scheme| scheme.name());
    let local = text.strip_prefix("unixgram:").or_else(|| text.strip_prefix("unix:")).or_else(|| {
        text.strip_prefix("udp://")
            .or_else(|| text.strip_prefix("tcp://"))
            .or(Some(text))
            .filter(|p| p.starts_with('/'))
    });
    if let Some(path) = local.map(|rest| rest.trim_start_matches('/'))
        && schemes.contains(&Scheme::Unix)
        && !path.is_empty()
        && !text.starts_with("unix://")
    {
        return Some(format!("unix:///{path}"));
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, text),
    };
    let scheme = match scheme.as_deref() {
        Some("tls" | "ssl" | "tcps" | "tcp+ssl" | "tcp_tls" | "syslog+tls" | "syslogs" | "syslog-tls") => {
            first(&[Scheme::Tls, Scheme::Https])?
        }
        Some("syslog" | "gelf" | "graylog") => first(&[Scheme::Tcp])?,
        Some(known) => {
            // Upper case, or an address without a fault of this kind.
            let known = schemes.iter().find(|scheme| scheme.name() == known)?;
            return (!text.starts_with(known.name())).then(|| format!("{}://{rest}", known.name()));
        }
        // `host:514`, and not a path or a word.
        None if rest.split_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) => {
            first(&[Scheme::Tcp])?
        }
        None => return None,
    };
    Some(format!("{scheme}://{rest}"))
}

/// Without the password, which must not appear in a fault.
fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    match rest.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => {
            format!("{scheme}://{}:***@{host}", user.split(':').next().unwrap_or_default())
        }
        _ => text.to_owned(),
    }
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let message = |port: &str| format!("`{port}` is not a port; write a number from 1 to 65535");
    let port_of = |port: &str| port.parse().ok().filter(|port| *port > 0).map(Some).ok_or_else(|| message(port));
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("a [ without ]; close it")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, port_of(port)?)),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(format!("`{rest}` after ]; write :PORT")),
        };
    }
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') => {
            Err("an IPv6 address without brackets; write [ADDRESS]:PORT".to_owned())
        }
        Some((host, port)) => Ok((host, port_of(port)?)),
        None => Ok((text, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Scheme; 6] = [Scheme::Udp, Scheme::Tcp, Scheme::Tls, Scheme::Unix, Scheme::Http, Scheme::Https];

    fn parse(text: &str) -> Result<Address, String> {
        Address::parse(text, &ALL, |scheme| if scheme == Scheme::Tls { 6514 } else { 514 })
    }

    #[test]
    fn an_address_without_a_port_gets_the_default_port() {
        for (text, host, port, shown) in [
            ("udp://logs.internal", "logs.internal", 514, "udp://logs.internal:514"),
            ("tcp://10.0.0.1:5140", "10.0.0.1", 5140, "tcp://10.0.0.1:5140"),
            ("tcp+tls://logs.internal", "logs.internal", 6514, "tcp+tls://logs.internal:6514"),
            ("tcp://[::1]:5140", "::1", 5140, "tcp://[::1]:5140"),
            ("udp://[fe80::1]", "fe80::1", 514, "udp://[fe80::1]:514"),
            ("http://me:secret@graylog:9000/gelf", "graylog", 9000, "http://graylog:9000/gelf"),
        ] {
            let address = parse(text).expect(text);
            assert_eq!((address.host.as_str(), address.port), (host, port), "{text}");
            assert_eq!(address.to_string(), shown);
        }
        assert_eq!(parse("unix:///dev/log").expect("unix").path, "/dev/log");
        assert_eq!(
            parse("http://me:secret@graylog:9000/gelf").expect("http").url(),
            "http://me:secret@graylog:9000/gelf"
        );
    }

    #[test]
    fn the_fault_of_an_address_names_the_remedy() {
        for (text, message) in [
            ("logs.internal", "not an address; begin it with one of"),
            ("logs.internal:514", "write tcp://logs.internal:514"),
            ("/dev/log", "write unix:///dev/log"),
            ("unix:/dev/log", "write unix:///dev/log"),
            ("unixgram:///dev/log", "write unix:///dev/log"),
            ("udp:///dev/log", "write unix:///dev/log"),
            ("tls://logs:6514", "write tcp+tls://logs:6514"),
            ("SSL://logs", "write tcp+tls://logs"),
            ("TCP://logs", "write tcp://logs"),
            ("syslog://logs:514", "write tcp://logs:514"),
            ("ftp://x", "`ftp://` is not possible with this sink"),
            ("tcp://x:0", "`0` is not a port"),
            ("tcp://x:99999", "`99999` is not a port"),
            ("tcp://", "no host"),
            ("tcp://::1", "an IPv6 address without brackets"),
            ("tcp://[::1", "a [ without ]"),
            ("udp://x/path", "`/path` is not part of an address of udp"),
            ("unix://dev/log", "not an absolute path"),
        ] {
            let fault = parse(text).expect_err(text);
            assert!(fault.starts_with(message), "{text}: {fault}");
        }
    }
}
