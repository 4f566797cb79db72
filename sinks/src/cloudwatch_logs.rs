//! CloudWatch Logs: its options, validated in full. The sink itself is not in this build; [`crate::engine::Engine::start`]
//! and [`crate::check::check`] say so.

use domain::document::Section;

use crate::template::Template;

/// What PutRetentionPolicy accepts (API reference of CloudWatch Logs).
const RETENTION_DAYS: [i64; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

pub const NOT_IN_THIS_BUILD: &str = "cloudwatch_logs is not in this build yet; use file, syslog or gelf";

#[derive(Clone, Debug, PartialEq)]
pub struct CloudwatchLogsConfig {
    pub group: Template,
    pub stream: Template,
    pub create_group: bool,
    pub create_stream: bool,
    pub retention_days: Option<u32>,
    pub region: Option<String>,
    pub endpoint: Option<String>,
    pub role_arn: Option<String>,
    pub format: CloudwatchFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudwatchFormat {
    Json,
    Text,
}

/// Takes the options of `type = "cloudwatch_logs"`. Reports every fault; `None` when something needed is missing.
pub fn read(section: &mut Section) -> Option<CloudwatchLogsConfig> {
    let group_line = section.line_of("group");
    let group = section.required_text("group");
    let stream_line = section.line_of("stream");
    let stream = section.text("stream").unwrap_or_else(|| "{job}/{date}".to_owned());
    let create_group = section.flag("create_group").unwrap_or(false);
    let create_stream = section.flag("create_stream").unwrap_or(true);
    let retention_line = section.line_of("retention_days");
    let retention_days = section.integer("retention_days", 1..=3653);
    let (region, endpoint) = (section.text("region"), section.text("endpoint"));
    let role_arn = section.text("role_arn");
    let words = [("json", CloudwatchFormat::Json), ("text", CloudwatchFormat::Text)];
    let format = section.choice("format", &words).unwrap_or(CloudwatchFormat::Json);
    if let Some(days) = retention_days
        && !RETENTION_DAYS.contains(&days)
    {
        let near = RETENTION_DAYS.iter().filter(|known| **known > days).min().unwrap_or(&3653);
        let says = format!("not a retention that CloudWatch Logs knows; the next longer one is {near}");
        section.fault(retention_line, days.to_string(), says);
    }
    if stream.contains([':', '*']) {
        section.fault(stream_line, &*stream, "a stream's name takes no `:` and no `*`; remove them");
    }
    let group = group?;
    let places_out = group.replace(['{', '}'], "");
    if !places_out.chars().all(|c| c.is_ascii_alphanumeric() || "_-/.#".contains(c)) || group.starts_with("aws/") {
        section.fault(
            group_line,
            &*group,
            "a group's name is letters, digits and _ - / . #, and does not begin with aws/",
        );
    }
    let group = Template::parse(&group).map_err(|says| section.fault(group_line, &*group, says)).ok();
    let stream = Template::parse(&stream).map_err(|says| section.fault(stream_line, &*stream, says)).ok();
    Some(CloudwatchLogsConfig {
        group: group?,
        stream: stream?,
        create_group,
        create_stream,
        retention_days: retention_days.map(|days| days as u32),
        region,
        endpoint,
        role_arn,
        format,
    })
}
