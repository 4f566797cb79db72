//! `L`, `W` and `#` in the day fields of a crontab. The letters mean what they mean in AWS's `cron()`; digits count as
//! in the rest of a crontab, so `5L` is the last Friday.

use super::calendar::LetterDays;
use super::cron_fields::{DAY, WEEKDAY, digits};

/// Reads an item of the day of month: `L`, `LW` or `15W`. `None` when it has no letter.
pub(super) fn of_month(item: &str, days: &mut LetterDays) -> Option<Result<(), String>> {
    let upper = item.to_ascii_uppercase();
    match upper.as_str() {
        "L" => days.last = true,
        "LW" | "WL" => days.last_weekday = true,
        _ => {
            let number = match upper.strip_suffix('W') {
                Some(number) => number,
                None if upper.starts_with("L-") => {
                    return Some(Err(format!(
                        "`{item}` counts back from the last day, which has no form here; write L"
                    )));
                }
                None if digits(upper.strip_suffix('L')?).is_some() => {
                    return Some(Err(format!(
                        "`{item}` is for the day of week; write L for the last day of the month"
                    )));
                }
                None => return None,
            };
            match DAY.value(number) {
                Ok(day) => days.nearest_weekday |= 1 << day,
                Err(message) => return Some(Err(message)),
            }
        }
    }
    Some(Ok(()))
}

/// Reads an item of the day of week: `L`, `5L` or `SUN#1`. `None` when it has no letter.
pub(super) fn of_week(item: &str, days: &mut LetterDays) -> Option<Result<(), String>> {
    let bit = |text: &str| WEEKDAY.value(text).map(|value| 1_u8 << (value % 7));
    if item.eq_ignore_ascii_case("L") {
        // AWS: the last day of the week.
        days.of_week |= 1 << 6;
        return Some(Ok(()));
    }
    if let Some((weekday, nth)) = item.split_once('#') {
        let place = digits(nth).and_then(|nth| days.nth_of_week.get_mut(usize::from(nth).checked_sub(1)?));
        let Some(place) = place else {
            return Some(Err(format!("`{item}` is not a week of the month; write a number from 1 to 5 after #")));
        };
        return Some(bit(weekday).map(|bit| *place |= bit));
    }
    let weekday = item.strip_suffix(['L', 'l'])?;
    Some(bit(weekday).map(|bit| days.last_of_week |= bit))
}
