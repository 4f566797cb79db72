//! What to write instead of a zone that is no IANA name: an offset, an abbreviation, a city.

use crate::fault::nearest_name;

/// Abbreviations of zones, which name an offset and no place.
const ABBREVIATIONS: [(&str, &str); 24] = [
    ("PST", "America/Los_Angeles"),
    ("PDT", "America/Los_Angeles"),
    ("MDT", "America/Denver"),
    ("CST", "America/Chicago"),
    ("CDT", "America/Chicago"),
    ("EDT", "America/New_York"),
    ("AST", "America/Halifax"),
    ("BRT", "America/Sao_Paulo"),
    ("BST", "Europe/London"),
    ("WEST", "Europe/Lisbon"),
    ("CEST", "Europe/Paris"),
    ("MESZ", "Europe/Berlin"),
    ("MEZ", "Europe/Berlin"),
    ("EEST", "Europe/Athens"),
    ("MSK", "Europe/Moscow"),
    ("IST", "Asia/Kolkata"),
    ("SGT", "Asia/Singapore"),
    ("HKT", "Asia/Hong_Kong"),
    ("JST", "Asia/Tokyo"),
    ("KST", "Asia/Seoul"),
    ("AEST", "Australia/Sydney"),
    ("AEDT", "Australia/Sydney"),
    ("NZST", "Pacific/Auckland"),
    ("NZDT", "Pacific/Auckland"),
];

/// What to write for an unknown zone. `known`: the names of all zones.
pub(super) fn for_zone(name: &str, known: &[String]) -> String {
    if let Some(hint) = for_offset(name, known) {
        return hint;
    }
    let upper = name.to_ascii_uppercase();
    if let Some((_, place)) = ABBREVIATIONS.iter().find(|(short, _)| *short == upper) {
        return format!("an abbreviation names no place; write one, like {place}");
    }
    let city = name.replace(' ', "_");
    let same_city =
        known.iter().find(|zone| zone.rsplit('/').next().is_some_and(|last| last.eq_ignore_ascii_case(&city)));
    match same_city.map(String::as_str).or_else(|| nearest_name(name, known.iter().map(String::as_str))) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "write an IANA name like Europe/Paris, or UTC".to_owned(),
    }
}

/// For an offset like `UTC+2`, `GMT-5`, `+0200` or `+05:30`. The names of the zones `Etc/GMT` have the sign of POSIX,
/// which is the opposite one.
fn for_offset(name: &str, known: &[String]) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let offset = upper.trim_start_matches("ETC/");
    let offset = ["UTC", "GMT"].iter().find_map(|prefix| offset.strip_prefix(prefix)).unwrap_or(offset).trim();
    let (sign, digits) = match offset.split_at_checked(1)? {
        ("+", digits) => ('-', digits),
        ("-" | "\u{2212}", digits) => ('+', digits),
        _ => return None,
    };
    let (hours, minutes) = match digits.split_once(':') {
        Some(parts) => parts,
        None if digits.len() == 4 && digits.is_ascii() => digits.split_at(2),
        None => (digits, "0"),
    };
    let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let zone = if hours == 0 { "UTC".to_owned() } else { format!("Etc/GMT{sign}{hours}") };
    let exists = zone == "UTC" || known.contains(&zone);
    Some(match minutes == 0 && exists {
        true if hours == 0 => "write UTC".to_owned(),
        true => format!(
            "an offset is no zone; write the place, like Europe/Paris, or {zone} for this fixed offset (the sign of these \
             names is reversed)"
        ),
        false => "an offset is no zone; write the place, like Asia/Kolkata".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_names_the_zone_with_the_reversed_sign() {
        let known = ["Etc/GMT-2", "Etc/GMT+5", "Etc/GMT-14", "Europe/Paris"].map(str::to_owned);
        for (name, expected) in [
            ("UTC+2", Some("Etc/GMT-2")),
            ("GMT+2", Some("Etc/GMT-2")),
            ("utc+02:00", Some("Etc/GMT-2")),
            ("+0200", Some("Etc/GMT-2")),
            ("UTC-5", Some("Etc/GMT+5")),
            ("UTC+14", Some("Etc/GMT-14")),
            ("UTC+5:30", Some("Asia/Kolkata")),
            ("UTC+15", Some("the place")),
            ("UTC+0", Some("write UTC")),
            ("UTC+x", None),
            ("Europe/Pari", None),
            ("", None),
        ] {
            let found = for_offset(name, &known);
            match expected {
                Some(expected) => {
                    assert!(found.as_ref().is_some_and(|hint| hint.contains(expected)), "{name}: {found:?}")
                }
                None => assert_eq!(found, None, "{name}"),
            }
        }
    }
}
