//! Words of other programs (Docker's log drivers, Fluent Bit, Vector, rsyslog) and what they are in a sinks file. Read
//! for faults only.

/// Words for `type`, and the remedy.
const KINDS: [(&[&str], &str); 16] = [
    (
        &["awslogs", "cloudwatch", "cloudwatchlogs", "aws_cloudwatch_logs", "cloud_watch", "aws"],
        "CloudWatch Logs is type = \"cloudwatch_logs\"",
    ),
    (
        &[
            "json_file",
            "jsonfile",
            "local",
            "logfile",
            "log_file",
            "files",
            "filesystem",
            "path",
            "fifo",
            "pipe",
            "disk",
        ],
        "a file on this machine is type = \"file\"",
    ),
    (&["stderr"], "write type = \"file\" with path = \"/dev/stderr\""),
    (&["console", "stdio", "terminal", "print", "std_out"], "standard output is type = \"stdout\""),
    (
        &["journald", "journal", "systemd", "systemd_journal", "systemd_journald"],
        "journald reads syslog: write type = \"syslog\" with address = \"unix:///dev/log\"",
    ),
    (
        &["rsyslog", "syslog_ng", "syslogng", "rfc5424", "rfc3164", "tcp", "udp", "tls", "socket", "unix", "unixgram"],
        "write type = \"syslog\" with an address like \"tcp://HOST:514\"",
    ),
    (
        &["papertrail", "logentries", "loggly", "sumologic"],
        "write type = \"syslog\" with its address for syslog over TLS",
    ),
    (&["graylog", "graylog2", "gelf_udp", "gelf_tcp", "gelf_http"], "Graylog is type = \"gelf\""),
    (&["logstash"], "Logstash reads GELF and syslog: write type = \"gelf\" or \"syslog\""),
    (
        &["fluentd", "fluent", "fluentbit", "fluent_bit", "forward", "vector", "beats", "filebeat"],
        "it reads syslog: write type = \"syslog\" with its address for syslog over TCP",
    ),
    (
        &["splunk", "hec", "splunk_hec"],
        "Splunk reads syslog: write type = \"syslog\" with the address of a TCP input or of Splunk Connect for Syslog",
    ),
    (
        &["loki", "grafana", "promtail", "alloy"],
        "Loki gets syslog through Grafana Alloy or Promtail: write type = \"syslog\" with its address",
    ),
    (
        &["datadog", "newrelic", "new_relic", "dynatrace", "otlp", "otel", "opentelemetry"],
        "its agent reads syslog: write type = \"syslog\" with the address of the agent",
    ),
    (
        &[
            "elasticsearch",
            "opensearch",
            "kafka",
            "redis",
            "s3",
            "http",
            "https",
            "nats",
            "amqp",
            "clickhouse",
            "influxdb",
        ],
        "there is no such sink; write type = \"syslog\" or \"gelf\" with the address of a collector that forwards to it",
    ),
    (
        &["gcplogs", "gcp_stackdriver_logs", "stackdriver", "google_cloud_logging", "azure", "azure_logs_ingestion"],
        "its agent reads files and standard output: write type = \"file\" or \"stdout\"",
    ),
    (&["none", "null", "blackhole", "off"], "for no sink, leave out this table; the output stays in the spool"),
];

/// Keys of other programs, and the remedy.
const KEYS: [(&[&str], &str); 14] = [
    (&["log_group", "log_group_name", "group_name", "awslogs_group"], "write `group`"),
    (&["log_stream", "log_stream_name", "stream_name", "awslogs_stream", "log_stream_prefix"], "write `stream`"),
    (&["awslogs_region", "aws_region", "region_name"], "write `region`"),
    (&["awslogs_create_group", "auto_create_group"], "write `create_group`"),
    (&["log_retention_days", "retention", "retention_in_days"], "write `retention_days`"),
    (
        &[
            "host",
            "server",
            "hostname",
            "target",
            "port",
            "protocol",
            "proto",
            "transport",
            "url",
            "uri",
            "remote",
            "syslog_address",
            "gelf_address",
        ],
        "write address = \"PROTOCOL://HOST:PORT\"",
    ),
    (&["severity", "level", "priority"], "the severity follows from the stream; remove it"),
    (
        &["tag", "app_name", "appname", "ident", "program", "programname", "syslog_tag"],
        "the name in the messages is that of the job; remove it",
    ),
    (&["filename", "file", "log_file", "logfile"], "write `path`"),
    (&["permissions", "perm", "file_mode", "chmod", "umask"], "write mode = \"0640\""),
    (&["user", "group_owner", "chown", "uid"], "write owner = \"USER:GROUP\""),
    (
        &["rotate", "max_size", "max_file", "max_files", "maxsize", "logrotate"],
        "Sexton does not rotate files; use logrotate, and it writes to the new file by itself",
    ),
    (&["compress", "gelf_compression_type"], "write `compression`"),
    (
        &["ca_file", "ca_cert", "cafile", "crt_file", "key_file", "server_name", "fingerprint", "syslog_tls_ca_cert"],
        "it belongs into the table `tls`: tls = { ca_file = \"/path\" }",
    ),
];

/// Keys of `tls` in other programs, and the remedy.
const TLS_KEYS: [(&[&str], &str); 6] = [
    (&["ca", "ca_cert", "cacert", "ca_path", "cafile", "ca_bundle"], "write `ca_file`"),
    (&["cert", "crt", "cert_file", "certfile", "certificate", "client_cert"], "write `crt_file`"),
    (&["key", "keyfile", "private_key", "client_key"], "write `key_file`"),
    (&["key_pass", "key_passwd", "key_passphrase", "passphrase", "password"], "write `key_password`"),
    (&["sni", "hostname", "servername", "peer_name"], "write `server_name`"),
    (
        &[
            "verify",
            "verify_certificate",
            "verify_hostname",
            "verify_peer",
            "skip_verify",
            "insecure",
            "tls_verify",
            "insecure_skip_verify",
            "enabled",
        ],
        "the certificate of a receiver is always checked; to trust one that no authority signed, set `ca_file` to it or \
         write its `fingerprint`",
    ),
];

/// What to write instead of a `type` of another program.
pub(crate) fn kind(text: &str) -> Option<String> {
    find(&KINDS, text)
}

/// What to write instead of a key of another program.
pub(crate) fn key(text: &str) -> Option<String> {
    find(&KEYS, text)
}

/// The same for a key in `tls`.
pub(crate) fn tls_key(text: &str) -> Option<String> {
    find(&TLS_KEYS, text)
}

fn find(table: &[(&[&str], &str)], text: &str) -> Option<String> {
    let plain = text.trim().to_ascii_lowercase().replace(['-', ' ', '.'], "_");
    table.iter().find(|(words, _)| words.contains(&plain.as_str())).map(|(_, remedy)| (*remedy).to_owned())
}
