//! Warnings about entries and assignments that cron accepts and that hardly mean what was intended. Each names what to
//! write instead. Called for every line by the reader of crontabs; the texts of commands are read and never executed.

use std::collections::BTreeMap;

use super::host_words::HostWords;
use super::line::Entry;
use super::shell_advice;
use crate::schedule::hints;

/// A warning: the part of the line that it is about, and what to write instead.
pub(super) struct Advice {
    pub value: String,
    pub message: String,
}

impl Advice {
    pub(super) fn new(value: impl Into<String>, message: impl Into<String>) -> Advice {
        Advice { value: value.into(), message: message.into() }
    }
}

/// Bytes of one argument of a program, without its final NUL: `MAX_ARG_STRLEN` of Linux (execve(2)).
const ARGUMENT_BYTES_MAX: usize = 131_071;

/// All warnings about an entry. `environment`: the assignments above it.
pub(super) fn of_entry(
    entry: &Entry<'_>,
    environment: &BTreeMap<String, String>,
    host_words: &mut HostWords,
) -> Vec<Advice> {
    let mut found = Vec::new();
    if !entry.schedule.starts_with('@') {
        found.extend(six_fields(entry, |word| host_words.is_known(word, environment)));
    }
    found.extend(day_letters(&entry.schedule));
    if found.is_empty() && entry.user.is_none() {
        found.extend(user_column(&entry.command, |word| host_words.is_account(word, environment)));
    }
    if let Some(user) = entry.user.as_ref().filter(|user| host_words.lacks_account(user)) {
        let message = "this host has no user of that name, so every run would fail; correct it, or create the user";
        found.push(Advice::new(user.to_string(), message.to_owned()));
    }
    if entry.command.len() > ARGUMENT_BYTES_MAX {
        let message = format!(
            "the command has {} bytes and the kernel accepts {ARGUMENT_BYTES_MAX}, so no run can start; put it in a \
             script and write the script's path",
            entry.command.len()
        );
        found.push(Advice::new("", message));
        return found;
    }
    found.extend(shell_advice::of_command(&entry.command, environment));
    found
}

/// cron has no `L`, `W` and `#`. States the meaning that they have here.
fn day_letters(schedule: &str) -> Option<Advice> {
    let fields: Vec<&str> = schedule.split(' ').collect();
    let [_, _, day, _, weekday] = fields[..] else { return None };
    let upper = day.to_ascii_uppercase();
    let by_date = upper.split(',').any(|item| item == "L" || item.ends_with('W'));
    let by_weekday = weekday.contains('#') || weekday.split(',').any(|item| item.ends_with(['L', 'l']));
    let meaning = match (by_date, by_weekday) {
        (true, true) => {
            "L is the last day, W the nearest weekday, 5L the last Friday, 5#2 the second Friday of the month"
        }
        (true, false) => "L is the last day of the month, 15W the weekday nearest to the 15th",
        (false, true) => "5L is the last Friday, 5#2 the second Friday of the month",
        (false, false) => return None,
    };
    let message = format!(
        "cron does not know L, W and # and refuses the line ({meaning}); if cron reads the file too, write * and test the \
         date in the command"
    );
    Some(Advice::new(schedule, message))
}

/// Schedules of Quartz, Spring and others begin with the seconds; those of AWS end with the year.
/// `is_known`: whether the host has a user or a program of this name.
fn six_fields(entry: &Entry<'_>, is_known: impl Fn(&str) -> bool) -> Option<Advice> {
    let mut rest = entry.text;
    let sixth = match entry.user {
        Some(user) => user,
        None => take_word(&mut rest),
    };
    // `mon` is a program, too, so it counts only before something that can be the command.
    let is_lower_day = DAYS.iter().any(|day| day[..3] == *sixth) && !rest.is_empty() && !rest.starts_with('-');
    if !(looks_like_field(sixth) || looks_like_day(sixth) || is_lower_day && !is_known(sixth)) {
        return None;
    }
    let mut fields: Vec<&str> = entry.schedule.split(' ').collect();
    let short = short_names(sixth);
    if !hints::is_year(sixth) {
        fields.remove(0);
        fields.push(&short);
        let mut after = rest;
        let seventh = take_word(&mut after);
        if hints::is_year(seventh) || seventh == "?" || seventh.starts_with('*') && looks_like_field(seventh) {
            rest = after;
        }
    }
    let fields: Vec<&str> = fields.into_iter().map(|field| if field == "?" { "*" } else { field }).collect();
    let what = if entry.user.is_some() { "takes it as the user" } else { "runs it as the program" };
    let message = format!(
        "this looks like six fields, and a crontab has five, without seconds and years: cron {what}; write `{} {}`",
        fields.join(" "),
        shortened(rest)
    );
    Some(Advice::new(sixth, message))
}

/// What to write for an entry with a sixth field that starts with `*`. It has seconds before, as of Spring, or a year
/// behind, as of AWS.
pub(super) fn one_star_too_many(schedule: &str, mut rest: &str) -> String {
    let sixth = take_word(&mut rest);
    let command = shortened(rest);
    let (first, others) = schedule.split_once(' ').unwrap_or((schedule, ""));
    let without_seconds = match first.strip_prefix("*/") {
        Some(seconds) if sixth == "*" && others.split(' ').all(|field| field == "*") => format!("@every {seconds}s"),
        _ => format!("{others} {sixth}"),
    };
    format!(
        "so this looks like six fields with one * too many, and a crontab has five: without the seconds write \
         `{without_seconds} {command}`, without the year `{schedule} {command}`"
    )
}

const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/// Whether a word is a full name of a day, or a short one like `Mon`, or a list or range of them.
fn looks_like_day(word: &str) -> bool {
    word.split([',', '-']).all(|item| {
        let lower = item.to_ascii_lowercase();
        let is_short = item.len() == 3 && item.starts_with(|c: char| c.is_ascii_uppercase());
        DAYS.iter().any(|day| *day == lower || is_short && day[..3] == lower)
    })
}

/// The field with full names of days as crontabs have them: `MON`.
fn short_names(field: &str) -> String {
    let mut text = field.to_owned();
    for word in field.split([',', '-']).filter(|word| DAYS.contains(&word.to_ascii_lowercase().as_str())) {
        text = text.replacen(word, &word[..3].to_ascii_uppercase(), 1);
    }
    text
}

/// Whether a word can be a field of a schedule and is hardly the name of a program or a user.
fn looks_like_field(word: &str) -> bool {
    const NAMES: [&str; 19] = [
        "sun", "mon", "tue", "wed", "thu", "fri", "sat", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep",
        "oct", "nov", "dec",
    ];
    let numeric = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let symbols = word.bytes().all(|byte| byte.is_ascii_digit() || b"*,-/?#~".contains(&byte));
    if symbols {
        return word.contains(['*', '?']) || word.starts_with(|c: char| c.is_ascii_digit());
    }
    let item = |item: &str| {
        let item = item.split_once('#').map_or(item, |(name, _)| name);
        let item =
            if item.len() > 3 || numeric(item.trim_end_matches('L')) { item.trim_end_matches('L') } else { item };
        numeric(item)
            || matches!(item, "L" | "LW")
            || numeric(item.trim_end_matches('W'))
            || NAMES.contains(&item.to_ascii_lowercase().as_str())
    };
    let certain = word.contains([',', '-', '#']) || !word.bytes().any(|byte| byte.is_ascii_lowercase());
    certain && word.split([',', '-']).all(item)
}

/// `is_account`: whether a word is the name of a user and not of a program.
fn user_column(command: &str, mut is_account: impl FnMut(&str) -> bool) -> Option<Advice> {
    let mut rest = command;
    let name = take_word(&mut rest);
    (!rest.is_empty() && !rest.starts_with('-') && is_account(name)).then(|| {
        let message = format!(
            "a user's crontab has no user column, so cron runs a program `{name}`; write `{}` alone, or pass --system if \
             this is a system crontab",
            shortened(rest)
        );
        Advice::new(name, message)
    })
}

/// Takes the first word and the blanks after it off a text.
fn take_word<'t>(rest: &mut &'t str) -> &'t str {
    let text = rest.trim_start();
    let (word, after) = text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
    *rest = after.trim_start();
    word
}

fn shortened(text: &str) -> &str {
    const SHOWN_MAX: usize = 60;
    text.char_indices().nth(SHOWN_MAX).map_or(text, |(end, _)| text[..end].trim_end())
}

/// A line of an anacrontab: period, delay, name, command. `is_entry`: cron can read it as an entry.
pub(super) struct AnacronLine {
    pub is_entry: bool,
    pub message: String,
}

/// Recognises a line of an anacrontab (anacrontab(5)).
pub(super) fn anacron_line(text: &str) -> Option<AnacronLine> {
    let mut rest = text;
    let (period, delay, name) = (take_word(&mut rest), take_word(&mut rest), take_word(&mut rest));
    let numeric = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let named = name.len() > 3
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && !looks_like_field(name)
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let nickname = match period {
        "1" | "@daily" => "@daily",
        "7" | "@weekly" => "@weekly",
        "30" | "31" | "@monthly" => "@monthly",
        "365" | "@yearly" | "@annually" => "@yearly",
        _ if numeric(period) => "@daily",
        _ => return None,
    };
    if !numeric(delay) || !named || rest.is_empty() {
        return None;
    }
    let message = format!(
        "this looks like a line of an anacrontab (days, minutes of delay, name, command), which cron does not read; write \
         `{nickname} {}`",
        shortened(rest)
    );
    Some(AnacronLine { is_entry: period.starts_with('@'), message })
}

/// A warning about the value of an assignment. `environment`: the assignments above it.
pub(super) fn of_assignment(name: &str, value: &str, environment: &BTreeMap<String, String>) -> Option<Advice> {
    const CRON_VARIABLES: [&str; 6] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD"];
    if name == "START_HOURS_RANGE" {
        return Some(Advice::new(value, "only anacron reads START_HOURS_RANGE; write the hours in the schedules"));
    }
    // cronie expands variables in these two.
    if matches!(name, "MAILTO" | "MAILFROM") {
        return None;
    }
    let variable = value.match_indices('$').find_map(|(at, _)| {
        let text = &value[at..];
        if text.starts_with("$(") {
            return Some("$(...)");
        }
        let found = crate::shell_text::variable(text)?;
        let known = CRON_VARIABLES.contains(&found) || environment.contains_key(found) || text.starts_with("${");
        known.then_some(found)
    });
    let in_backticks = || value.split_once('`').is_some_and(|(_, rest)| rest.contains('`')).then_some("`...`");
    if let Some(found) = variable.or_else(in_backticks) {
        let shown = if found.ends_with(['`', ')']) { found.to_owned() } else { format!("${found}") };
        let message = format!(
            "cron expands nothing in a value, so {name} contains the text {shown} itself; write the value of {shown} \
             here, or set {name} in the command"
        );
        return Some(Advice::new(value, message));
    }
    let is_list = name.ends_with("PATH");
    // `~`, `~/x` and `~user/x`.
    let homes = |part: &str| {
        part.strip_prefix('~').is_some_and(|rest| {
            let (user, folder) = rest.split_once('/').map_or((rest, None), |(user, folder)| (user, Some(folder)));
            let is_name = user.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            user.is_empty() || is_name && (folder.is_some() || name == "HOME")
        })
    };
    if homes(value) || is_list && value.split(':').any(homes) {
        let message = format!(
            "cron does not expand ~ in a value, so {name} contains the character itself; write the whole path of the \
             home directory"
        );
        return Some(Advice::new(value, message));
    }
    value.contains(" #").then(|| {
        let message = format!("a # after a value is part of the value of {name}; put the comment on its own line");
        Advice::new(value, message)
    })
}
