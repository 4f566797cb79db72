//! The options of `type = "cloudwatch_logs"`, with the limits that the service's API reference gives them.

use std::collections::BTreeMap;

use domain::document::Section;

use crate::template::Template;
use crate::tls::TlsConfig;

/// What PutRetentionPolicy accepts (API reference of CloudWatch Logs).
const RETENTION_DAYS: [i64; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];
/// Tags of one log group (API reference, CreateLogGroup).
const TAGS_MAX: usize = 50;
const EMF_NAMESPACE: &str = "Sexton";
/// A metric namespace has 1 to 255 characters (API reference of CloudWatch, PutMetricData).
const EMF_NAMESPACE_CHARS_MAX: usize = 255;

#[derive(Clone, Debug, PartialEq)]
pub struct CloudwatchLogsConfig {
    pub group: Template,
    pub stream: Template,
    pub create_group: bool,
    pub create_stream: bool,
    pub format: CloudwatchFormat,
    /// The namespace of the metrics in `run.finished`, when there are to be any.
    pub emf_namespace: Option<String>,
    pub new_group: NewGroup,
    pub access: Access,
}

/// What a log group is given when this sink creates it. A group that exists is left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewGroup {
    pub retention_days: Option<u32>,
    /// As the API writes it: `STANDARD`, `INFREQUENT_ACCESS`, `DELIVERY`.
    pub class: Option<&'static str>,
    pub kms_key: Option<String>,
    pub tags: BTreeMap<String, String>,
}

/// Who we are to the service and where it is. What is absent is found as the AWS SDKs find it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    pub region: Option<String>,
    pub endpoint: Option<String>,
    pub profile: Option<String>,
    pub role_arn: Option<String>,
    pub external_id: Option<String>,
    pub tls: TlsConfig,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudwatchFormat {
    Json,
    Text,
}

/// Takes the options. Reports every fault; `None` when something needed is missing.
pub fn read(section: &mut Section) -> Option<CloudwatchLogsConfig> {
    let group = read_group(section);
    let stream = read_stream(section);
    let create_group = section.flag("create_group").unwrap_or(false);
    let create_stream = section.flag("create_stream").unwrap_or(true);
    let words = [("json", CloudwatchFormat::Json), ("text", CloudwatchFormat::Text)];
    let format = section.choice("format", &words).unwrap_or(CloudwatchFormat::Json);
    let emf_namespace = read_emf(section);
    let new_group = read_new_group(section);
    let access = read_access(section);
    Some(CloudwatchLogsConfig {
        group: group?,
        stream: stream?,
        create_group,
        create_stream,
        format,
        emf_namespace,
        new_group,
        access,
    })
}

fn read_group(section: &mut Section) -> Option<Template> {
    let line = section.line_of("group");
    let group = section.required_text("group")?;
    let places_out = group.replace(['{', '}'], "");
    if !places_out.chars().all(is_group_char) || group.starts_with("aws/") {
        let message = "a group's name is letters, digits and _ - / . #, and does not begin with aws/";
        section.fault(line, &*group, message);
    }
    Template::parse(&group).map_err(|message| section.fault(line, &*group, message)).ok()
}

/// API reference, CreateLogGroup: `[\.\-_/#A-Za-z0-9]+`.
pub fn is_group_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-/.#".contains(c)
}

fn read_stream(section: &mut Section) -> Option<Template> {
    let line = section.line_of("stream");
    let stream = section.text("stream").unwrap_or_else(|| "{job}/{date}".to_owned());
    if stream.contains([':', '*']) {
        section.fault(line, &*stream, "a stream's name takes no `:` and no `*`; remove them");
    }
    Template::parse(&stream).map_err(|message| section.fault(line, &*stream, message)).ok()
}

fn read_emf(section: &mut Section) -> Option<String> {
    let emf = section.flag("emf").unwrap_or(false);
    let named = section.text_at("emf_namespace");
    if let Some((line, namespace)) = &named {
        let chars = |c: char| c.is_ascii_alphanumeric() || "._-/#: ".contains(c);
        let fits = (1..=EMF_NAMESPACE_CHARS_MAX).contains(&namespace.len()) && !namespace.starts_with("AWS/");
        if !fits || !namespace.chars().all(chars) {
            let message = "not a metric namespace; write letters, digits and . - _ / # :, and do not begin with AWS/";
            section.fault(*line, namespace, message);
        }
        if !emf {
            section.fault(*line, namespace, "`emf_namespace` says nothing without emf = true; add it");
        }
    }
    emf.then(|| named.map_or_else(|| EMF_NAMESPACE.to_owned(), |(_, namespace)| namespace))
}

fn read_new_group(section: &mut Section) -> NewGroup {
    let retention_line = section.line_of("retention_days");
    let retention_days = section.integer("retention_days", 1..=3653);
    if let Some(days) = retention_days
        && !RETENTION_DAYS.contains(&days)
    {
        let near = RETENTION_DAYS.iter().filter(|known| **known > days).min().unwrap_or(&3653);
        let message = format!("not a retention that CloudWatch Logs knows; the next longer one is {near}");
        section.fault(retention_line, days.to_string(), message);
    }
    let classes = [("standard", "STANDARD"), ("infrequent_access", "INFREQUENT_ACCESS"), ("delivery", "DELIVERY")];
    let class = section.choice("log_group_class", &classes);
    let kms_key = section.text("kms_key");
    let tags_line = section.line_of("tags");
    let tags = section.map("tags").unwrap_or_default();
    if tags.len() > TAGS_MAX {
        section.fault(tags_line, tags.len().to_string(), format!("a log group takes at most {TAGS_MAX} tags"));
    }
    NewGroup { retention_days: retention_days.map(|days| days as u32), class, kms_key, tags }
}

fn read_access(section: &mut Section) -> Access {
    let endpoint = section.text_at("endpoint");
    if let Some((line, endpoint)) = &endpoint
        && !endpoint.starts_with("http://")
        && !endpoint.starts_with("https://")
    {
        section.fault(*line, endpoint, "not an endpoint; write it as https://host");
    }
    let (region, profile) = (section.text("region"), section.text("profile"));
    let role_arn = section.text("role_arn");
    let external_id = section.text_at("external_id");
    if let (None, Some((line, id))) = (&role_arn, &external_id) {
        section.fault(*line, id, "`external_id` goes with role_arn; add it");
    }
    let tls_line = section.line_of("tls");
    let tls = TlsConfig::read(section);
    tls.forbid_server_name(section, tls_line);
    Access {
        region,
        endpoint: endpoint.map(|(_, endpoint)| endpoint),
        profile,
        role_arn,
        external_id: external_id.map(|(_, id)| id),
        tls,
    }
}
