//! The options of `type = "cloudwatch_logs"`, with the limits of the service's API reference.

use std::collections::BTreeMap;

use domain::document::Section;

use crate::template::Template;
use crate::tls::TlsConfig;

/// The retentions that PutRetentionPolicy accepts (API reference of CloudWatch Logs).
const RETENTION_DAYS: [i64; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];
/// Tags of one log group (API reference, CreateLogGroup).
const TAGS_MAX: usize = 50;
const EMF_NAMESPACE: &str = "Sexton";
/// A metric namespace has 1 to 255 characters (API reference of CloudWatch, PutMetricData).
const EMF_NAMESPACE_CHARS_MAX: usize = 255;

/// The options of one sink.
#[derive(Clone, Debug, PartialEq)]
pub struct CloudwatchLogsConfig {
    /// Name of the log group; with placeholders one group per job, host or date.
    pub group: Template,
    /// Name of the log stream; default `{job}/{date}`.
    pub stream: Template,
    /// Whether a missing group is created; default false.
    pub create_group: bool,
    /// Whether a missing stream is created; default true.
    pub create_stream: bool,
    /// Form of a line's event.
    pub format: CloudwatchFormat,
    /// Namespace of the metrics in `run.finished`; absent without `emf = true`.
    pub emf_namespace: Option<String>,
    /// Properties of created groups.
    pub new_group: NewGroup,
    /// How the service is reached.
    pub access: Access,
}

/// The properties of a log group that this sink creates. An existing group is never changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewGroup {
    /// Days; absent: events never expire.
    pub retention_days: Option<u32>,
    /// The API's spelling: `STANDARD`, `INFREQUENT_ACCESS`, `DELIVERY`.
    pub class: Option<&'static str>,
    /// ARN of the key that encrypts the group.
    pub kms_key: Option<String>,
    /// Tags of the group, at most 50.
    pub tags: BTreeMap<String, String>,
}

/// Credentials, region and endpoint. Absent values are found like the AWS SDKs do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// AWS region, for example `eu-west-1`.
    pub region: Option<String>,
    /// URL of the service; absent: the region's endpoint.
    pub endpoint: Option<String>,
    /// Profile in `~/.aws/config`; wins over credentials in the environment.
    pub profile: Option<String>,
    /// Role to assume.
    pub role_arn: Option<String>,
    /// External id for assuming the role.
    pub external_id: Option<String>,
    /// Trusted certificates of the endpoint.
    pub tls: TlsConfig,
}

/// The message of a line's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudwatchFormat {
    /// An object with the fields of the line, and its text in `message`.
    Json,
    /// The text alone.
    Text,
}

/// Reads the options. Reports every fault; returns `None` when a required option is missing.
pub(crate) fn read(section: &mut Section) -> Option<CloudwatchLogsConfig> {
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
        let message = "not a log group name; write letters, digits and _ - / . #, and do not begin with aws/";
        section.fault(line, &*group, message);
    }
    Template::parse(&group).map_err(|message| section.fault(line, &*group, message)).ok()
}

/// API reference, CreateLogGroup: `[\.\-_/#A-Za-z0-9]+`.
pub(crate) fn is_group_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-/.#".contains(c)
}

fn read_stream(section: &mut Section) -> Option<Template> {
    let line = section.line_of("stream");
    let stream = section.text("stream").unwrap_or_else(|| "{job}/{date}".to_owned());
    if stream.contains([':', '*']) {
        section.fault(line, &*stream, "a log stream's name may not contain `:` or `*`; remove them");
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
            section.fault(*line, namespace, "`emf_namespace` has no effect without emf = true; add it");
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
        let message = format!(
            "`retention_days` is not a retention of CloudWatch Logs; the next longer one is {near}, the longest 3653"
        );
        section.fault(retention_line, days.to_string(), message);
    }
    let classes = [("standard", "STANDARD"), ("infrequent_access", "INFREQUENT_ACCESS"), ("delivery", "DELIVERY")];
    let class = section.choice("log_group_class", &classes);
    let kms_key = section.text("kms_key");
    let tags_line = section.line_of("tags");
    let tags = section.map("tags").unwrap_or_default();
    if tags.len() > TAGS_MAX {
        section.fault(
            tags_line,
            tags.len().to_string(),
            format!("a log group has at most {TAGS_MAX} tags; remove some"),
        );
    }
    NewGroup { retention_days: retention_days.map(|days| days as u32), class, kms_key, tags }
}

fn read_access(section: &mut Section) -> Access {
    let endpoint = section.text_at("endpoint");
    if let Some((line, endpoint)) = &endpoint
        && !endpoint.starts_with("http://")
        && !endpoint.starts_with("https://")
    {
        section.fault(*line, endpoint, "not an endpoint; write for example https://host");
    }
    let (region, profile) = (section.text("region"), section.text("profile"));
    let role_arn = section.text("role_arn");
    let external_id = section.text_at("external_id");
    if let (None, Some((line, id))) = (&role_arn, &external_id) {
        section.fault(*line, id, "`external_id` needs role_arn; add it");
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
