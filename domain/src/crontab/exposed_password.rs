//! Finds passwords in the arguments of commands. Returns the name of the option, never the password.

use crate::shell_text::{Token, simple_commands, words};

/// Long options whose value is a secret. Chosen: those of the clients of databases, of curl, wget and ftp programs, and
/// of command lines of services.
const OPTIONS: [&str; 15] = [
    "--password",
    "--passwd",
    "--pass",
    "--pwd",
    "--passphrase",
    "--http-password",
    "--ftp-password",
    "--proxy-password",
    "--secret",
    "--secret-key",
    "--token",
    "--access-token",
    "--auth-token",
    "--api-key",
    "--apikey",
];

/// How a short option has its password.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `-pSECRET`
    Attached,
    /// `-w SECRET`
    Next,
    /// `-u USER:SECRET`
    NextAfterColon,
    /// `-U USER%SECRET`
    NextAfterPercent,
}

/// Short options with a password, and the starts of the names of their programs.
const SHORT_OPTIONS: [(&str, &str, Form); 16] = [
    ("mysql", "-p", Form::Attached),
    ("mariadb", "-p", Form::Attached),
    ("xtrabackup", "-p", Form::Attached),
    ("sshpass", "-p", Form::Attached),
    ("sshpass", "-p", Form::Next),
    ("7z", "-p", Form::Attached),
    ("zip", "-P", Form::Next),
    ("unzip", "-P", Form::Next),
    ("mongo", "-p", Form::Next),
    ("ldap", "-w", Form::Next),
    ("redis-cli", "-a", Form::Next),
    ("curl", "-u", Form::NextAfterColon),
    ("curl", "--user", Form::NextAfterColon),
    ("smbclient", "-U", Form::NextAfterPercent),
    ("rpcclient", "-U", Form::NextAfterPercent),
    ("lftp", "-u", Form::NextAfterColon),
];

/// The first option, variable or address of a command with a password; `None` when there is none.
pub(super) fn find(tokens: &[Token<'_>]) -> Option<String> {
    simple_commands(tokens).find_map(|command| of_command(&words(command)))
}

fn of_command(words: &[&str]) -> Option<String> {
    let is_assignment = |word: &&&str| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        })
    };
    let start = words.iter().take_while(is_assignment).count();
    let (assignments, words) = words.split_at(start);
    let named = assignments.iter().find_map(|word| of_assignment(word));
    let programs: Vec<&str> = words.iter().map(|word| word.rsplit('/').next().unwrap_or(word)).collect();
    named.or_else(|| {
        words.iter().enumerate().find_map(|(index, word)| {
            let next = words.get(index + 1).copied().unwrap_or_default();
            of_long_option(word, next)
                .or_else(|| of_address(word))
                .or_else(|| of_query(word))
                .or_else(|| of_assignment(word).filter(|_| programs.first() == Some(&"env")))
                .or_else(|| of_header(word))
                .or_else(|| of_short_option(&programs, word, next))
        })
    })
}

fn of_short_option(programs: &[&str], word: &str, next: &str) -> Option<String> {
    let has_secret_after = |mark: char| {
        next.trim_matches(['"', '\''])
            .split_once(mark)
            .is_some_and(|(_, secret)| is_secret(secret.trim_start_matches('\\')))
    };
    SHORT_OPTIONS.iter().find_map(|(program, option, form)| {
        let found = programs.iter().any(|used| used.starts_with(program))
            && match form {
                Form::Attached => word.strip_prefix(option).is_some_and(is_secret),
                Form::Next => word == *option && is_secret(next) && !next.starts_with('-'),
                Form::NextAfterColon => word == *option && has_secret_after(':'),
                Form::NextAfterPercent => word == *option && has_secret_after('%'),
            };
        found.then(|| (*option).to_owned())
    })
}

/// `Authorization: Bearer SECRET`, and `pass:SECRET` of openssl.
fn of_header(word: &str) -> Option<String> {
    let text = word.trim_matches(['"', '\'']);
    if let Some(value) = text.strip_prefix("Authorization:") {
        let secret = value.split_whitespace().last().unwrap_or_default();
        return is_secret(secret).then(|| "Authorization:".to_owned());
    }
    text.strip_prefix("pass:").filter(|value| is_secret(value)).map(|_| "pass:".to_owned())
}

fn of_long_option(word: &str, next: &str) -> Option<String> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, value),
        None => (word, next),
    };
    let is_known = OPTIONS.contains(&name.to_ascii_lowercase().as_str());
    (is_known && is_secret(value) && !value.starts_with('-')).then(|| name.to_owned())
}

/// `PGPASSWORD=x` and the like before the program.
fn of_assignment(word: &str) -> Option<String> {
    let (name, value) = word.split_once('=')?;
    let upper = name.to_ascii_uppercase();
    let is_secret_name = ["PASSWORD", "PASSWD", "_PWD", "PASSPHRASE", "SECRET", "SECRET_KEY", "TOKEN", "API_KEY"]
        .iter()
        .any(|ending| upper.ends_with(ending))
        || upper == "AWS_SECRET_ACCESS_KEY";
    (is_secret_name && is_secret(value)).then(|| name.to_owned())
}

/// `scheme://user:password@host`.
fn of_address(word: &str) -> Option<String> {
    let (before, rest) = word.split_once("://")?;
    let (user, _) = rest.split_once('@')?;
    let scheme = before.rsplit(['"', '\'', '=']).next().unwrap_or(before);
    (!user.contains('/') && has_password(user)).then(|| format!("{scheme}://...@"))
}

/// `https://host/path?token=SECRET`.
fn of_query(word: &str) -> Option<String> {
    const NAMES: [&str; 9] =
        ["token", "secret", "password", "passwd", "apikey", "api_key", "api-key", "accesskey", "access_key"];
    let (_, query) = word.trim_matches(['"', '\'']).split_once("://")?.1.split_once('?')?;
    let found = query.split(['&', ';', '#']).filter_map(|pair| pair.split_once('=')).find(|(name, value)| {
        let lower = name.to_ascii_lowercase();
        NAMES.iter().any(|ending| lower.ends_with(ending)) && is_secret(value)
    });
    found.map(|(name, _)| format!("?{name}="))
}

fn has_password(user: &str) -> bool {
    user.trim_matches(['"', '\'']).split_once(':').is_some_and(|(_, password)| is_secret(password))
}

/// Whether a value is a password itself: not empty, not a variable or the output of a command, not a path.
fn is_secret(value: &str) -> bool {
    let value = value.trim_matches(['"', '\'']);
    !value.is_empty() && !value.starts_with(['$', '`', '/', '~', '<', '@']) && !value.starts_with("file:")
}
