//! What to write instead of a schedule that other programs know and Sexton does not.

use crate::fault::nearest_name;

/// Nicknames of FreeBSD, systemd and other schedulers, with their meaning.
const FOREIGN_NICKNAMES: [(&str, &str); 17] = [
    ("@minutely", "* * * * *"),
    ("@minute", "* * * * *"),
    ("@every_minute", "* * * * *"),
    ("@secondly", "@every 1s"),
    ("@every_second", "@every 1s"),
    ("@quarterly", "0 0 1 1,4,7,10 *"),
    ("@semiannually", "0 0 1 1,7 *"),
    ("@semiyearly", "0 0 1 1,7 *"),
    ("@biannually", "0 0 1 1,7 *"),
    ("@noon", "0 12 * * *"),
    ("@nightly", "0 0 * * *"),
    ("@weekdays", "0 0 * * 1-5"),
    ("@weekday", "0 0 * * 1-5"),
    ("@workdays", "0 0 * * 1-5"),
    ("@weekends", "0 0 * * 6,0"),
    ("@weekend", "0 0 * * 6,0"),
    ("@never", "@manually"),
];

/// What to write for an unknown nickname: a clause that begins with `; `, or nothing.
pub(super) fn for_nickname<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> String {
    let lower = name.to_ascii_lowercase();
    if let Some((_, meaning)) = FOREIGN_NICKNAMES.iter().find(|(foreign, _)| *foreign == lower) {
        return format!("; write {meaning}");
    }
    if lower.len() > 1 && lower[1..].bytes().all(|byte| byte.is_ascii_digit()) {
        return format!("; write @every {}s", &lower[1..]);
    }
    // Nicknames are alike: at a larger distance, the nearest one means something else.
    match nearest_name(&lower, known).filter(|near| strsim::damerau_levenshtein(&lower, near) <= 2) {
        Some(near) => format!("; did you mean {near}?"),
        None => String::new(),
    }
}

/// Whether a field has years: `2027`, `2026-2030`, `2026,2028`, `2026/2`.
pub(crate) fn is_year(field: &str) -> bool {
    let field = field.split_once('/').map_or(field, |(years, _)| years);
    field.split([',', '-']).all(|year| year.len() == 4 && year.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What to write for a number of fields other than five.
pub(super) fn for_count(words: &[&str]) -> String {
    let has_open = words.contains(&"?");
    let stars =
        |words: &[&str]| words.iter().map(|word| if *word == "?" { "*" } else { *word }).collect::<Vec<_>>().join(" ");
    match words {
        // AWS ends with the year, and one of its day fields is `?`.
        [fields @ .., year] if fields.len() == 5 && (is_year(year) || (has_open && fields[2..].contains(&"?"))) => {
            let aws = words.join(" ");
            match has_open {
                true => format!("without the year write `{}`, or AWS's form `cron({aws})`", stars(fields)),
                false => format!("without the year write `{}`", stars(fields)),
            }
        }
        [_, fields @ ..] if fields.len() == 5 => format!("without the seconds write `{}`", stars(fields)),
        [_, fields @ .., _] if fields.len() == 5 => {
            format!("without the seconds and the year write `{}`", stars(fields))
        }
        _ => "write minute, hour, day of month, month, day of week".to_owned(),
    }
}
