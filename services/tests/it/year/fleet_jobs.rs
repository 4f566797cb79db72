//! The jobs of the year: every dialect of schedules, zones with every kind of clock change, every policy.
//!
//! Most fire in the first minutes of a few hours, as in real crontabs, so the driver can skip minutes in which nothing
//! happens. The frequencies are those of a fleet of cron jobs: most are nightly or weekly, few are frequent. 10,000
//! jobs make between five and six thousand runs a day, two million a year.

use std::time::Duration;

use domain::job::{CatchUp, Command, Concurrency, Job, JobKey, Retries};
use domain::run::Outcome;
use jiff::{SignedDuration, Timestamp};

use super::seeded_random::SeededRandom;

pub(crate) const GROUPS: [&str; 4] = ["db", "web", "mail", "batch"];

/// Whole hours, half hours, both hemispheres, a change of half an hour, changes at midnight, none at all.
const ZONES: [&str; 10] = [
    "UTC",
    "Europe/Paris",
    "Europe/London",
    "America/New_York",
    "America/Havana",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Africa/Casablanca",
    "Pacific/Auckland",
];

const MINUTES: [u32; 4] = [0, 0, 1, 2];

/// Local hours, among them the hours of clock changes.
const HOURS: [u32; 6] = [0, 1, 2, 3, 9, 18];

/// Job `number` of the fleet, as defined before `begin`.
pub(crate) fn job(number: usize, begin: Timestamp, days: i64, random: &mut SeededRandom) -> Job {
    let key = JobKey::new(GROUPS[number % GROUPS.len()], format!("job-{number:05}"));
    let mut job = Job::new(key, schedule(number, begin, days, random), Command::Argv(vec!["dump".to_owned()]));
    job.zone = (*random.one_of(&ZONES)).to_owned();
    // Most set no policy and may overlap, as with cron.
    job.concurrency = match random.below(10) {
        0..=6 => Concurrency::Allow,
        7 => Concurrency::Forbid,
        8 => Concurrency::Queue,
        _ => Concurrency::Replace,
    };
    job.catch_up = *random.one_of(&[CatchUp::Skip, CatchUp::Once, CatchUp::All]);
    job.start_within = random.one_of(&[None, Some(120), Some(1800), Some(6 * 3600)]).map(Duration::from_secs);
    job.timeout = random.one_of(&[None, Some(Duration::from_secs(1800))]).to_owned();
    job.alert.after = random.between(1, 3) as u32;
    job.alert.remind = random.one_of(&[None, None, Some(Duration::from_secs(86_400))]).to_owned();
    if random.one_in(4) {
        let on = vec![Outcome::Failed, Outcome::Lost, Outcome::TimedOut];
        let (max, delay) = (random.between(1, 2) as u32, Duration::from_secs(random.between(30, 600) as u64));
        job.retries = Some(Retries { max, delay, backoff: 2.0, on });
    }
    // The judge compiles rules for every report; a few jobs with rules cover that.
    if !number.is_multiple_of(50) {
        job.rules = Vec::new();
    }
    job
}

/// Of a hundred jobs, 2 fire once an hour or more often, 33 about once a day, 36 weekly, 21 more rarely, 8 once.
fn schedule(number: usize, begin: Timestamp, days: i64, random: &mut SeededRandom) -> String {
    let (minute, hour) = (*random.one_of(&MINUTES), *random.one_of(&HOURS));
    let (weekday, day, month) = (random.below(7), random.between(1, 31), random.between(1, 12));
    match number % 100 {
        0..=1 => often(number / 100 * 2 + number % 100, minute),
        2..=29 => format!("{minute} {hour} * * *"),
        30..=31 => format!("cron({minute} {hour} * * ? *)"),
        32..=33 => "@daily".to_owned(),
        34 => format!("@every {}h", random.between(8, 30)),
        35..=60 => format!("{minute} {hour} * * {weekday}"),
        61..=64 => {
            format!("{minute} {hour} * jan-dec {}", ["sun", "mon", "tue", "wed", "thu", "fri", "sat"][weekday as usize])
        }
        65..=67 => format!("cron({minute} {hour} ? * {} *)", weekday + 1),
        68..=69 => "rate(7 days)".to_owned(),
        70 => "@weekly".to_owned(),
        71..=76 => format!("{minute} {hour} {} * *", day.min(28)),
        77..=78 => format!("{minute} {hour} {day} */2 *"),
        79..=80 => format!("{minute} {hour} 1,15 {month} {weekday}"),
        81..=82 => format!("cron({minute} {hour} L * ? *)"),
        83..=84 => format!("cron({minute} {hour} ? * {}#3 *)", weekday + 1),
        85..=86 => format!("cron({minute} {hour} 15W * ? *)"),
        87 => "@monthly".to_owned(),
        88 => format!("{minute} {hour} 29 2 *"),
        89..=91 => format!("@every {}d", random.between(2, 40)),
        _ => {
            let at = begin + SignedDuration::from_mins(random.between(1, days * 1440));
            match number % 2 {
                0 => at.strftime("at(%Y-%m-%dT%H:%M:%S)").to_string(),
                _ => at.strftime("@at %Y-%m-%dT%H:%M:00Z").to_string(),
            }
        }
    }
}

fn often(which: usize, minute: u32) -> String {
    match which % 12 {
        0 => format!("{minute} * * * *"),
        1 => "*/10 9-10 * * 1".to_owned(),
        2 => "rate(6 hours)".to_owned(),
        3 => "@hourly".to_owned(),
        4 => "0~2 1-23/4 * * *".to_owned(),
        5 => "@every 470m".to_owned(),
        6 => "H H * * *".to_owned(),
        7 => "* 9 * * 1".to_owned(),
        _ => format!("{minute} 9-18 * * mon-fri"),
    }
}

/// Another schedule for a job that an operator edits.
pub(crate) fn edited(random: &mut SeededRandom) -> String {
    let (minute, hour) = (*random.one_of(&MINUTES), *random.one_of(&HOURS));
    match random.below(3) {
        0 => format!("{minute} {hour} * * {}", random.below(7)),
        1 => format!("@every {}h", random.between(24, 200)),
        _ => format!("cron({minute} {hour} ? * MON-FRI *)"),
    }
}
