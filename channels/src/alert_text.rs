//! The texts of an alert (subject, body, facts, excerpt), and sample alerts for tests.

pub(crate) use domain::alert::wording::*;

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use domain::alert::{Alert, AlertKind};
    use domain::line::Stream;
    use domain::run::{ExcerptLine, Outcome, RunId};

    use super::*;

    pub(crate) fn failed_alert() -> Alert {
        Alert {
            kind: AlertKind::Failed,
            group: "db".into(),
            job: "nightly-dump".into(),
            run_id: Some(RunId("20261123T023000Z-3f9a1c0e7b2d".into())),
            nominal: Some("2026-11-23T02:30:00Z".parse().expect("instant")),
            outcome: Some(Outcome::Failed),
            reason: "exit code 2".into(),
            exit_code: Some(2),
            host: Some("web-3".into()),
            since: Some("2026-11-22T02:30:07Z".parse().expect("instant")),
            count: 2,
            excerpt: vec![
                ExcerptLine { seq: 8, stream: Stream::Stdout, text: "dumping <users> & roles".into() },
                ExcerptLine { seq: 9, stream: Stream::Stderr, text: "pg_dump: error: no space left".into() },
            ],
            rule: None,
            links: BTreeMap::from([("console".to_owned(), "https://cron.example.org/runs/1".to_owned())]),
            digest: Vec::new(),
        }
    }

    pub(crate) fn long_alert() -> Alert {
        let line =
            |seq| ExcerptLine { seq, stream: Stream::Stdout, text: format!("```<&> {seq} {}", "é".repeat(2_000)) };
        Alert { reason: "é\nü".repeat(4_000), excerpt: (1..500).map(line).collect(), ..failed_alert() }
    }

    #[test]
    fn a_mail_has_headline_reason_facts_excerpt_and_commands() {
        assert_eq!(subject(&failed_alert()), "[sexton] db/nightly-dump failed on web-3: exit code 2");
        assert_eq!(
            body(&failed_alert()),
            "db/nightly-dump failed on web-3
exit code 2

Job       db/nightly-dump
Host      web-3
Due at    2026-11-23T02:30:00Z
Since     2026-11-22T02:30:07Z, 2 failed runs in a row
Exit code 2
Run       20261123T023000Z-3f9a1c0e7b2d

The last lines:
  dumping <users> & roles
  pg_dump: error: no space left

To see more:
  sexton show 20261123T023000Z-3f9a1c0e7b2d
  sexton logs 20261123T023000Z-3f9a1c0e7b2d
  console: https://cron.example.org/runs/1
"
        );
    }

    #[test]
    fn a_subject_is_one_short_line_of_ascii() {
        let subject = subject(&long_alert());
        assert!(subject.len() <= SUBJECT_CHARS_MAX && subject.ends_with("..."), "{subject}");
        assert!(subject.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{subject}");
    }

    #[test]
    fn an_excerpt_marks_omitted_lines_and_cut_text() {
        let lines = excerpt(&long_alert().excerpt);
        assert_eq!(lines.len(), 41);
        assert_eq!(lines[0], "... 459 lines before these ...");
        assert!(lines[1].ends_with("... (2011 characters in all)"), "{}", lines[1]);
    }

    #[test]
    fn an_alert_without_a_run_has_only_its_group() {
        let alert = Alert {
            kind: AlertKind::Quiet,
            job: String::new(),
            run_id: None,
            nominal: None,
            outcome: None,
            exit_code: None,
            host: None,
            since: None,
            excerpt: Vec::new(),
            links: BTreeMap::new(),
            reason: "no runner of the group has shown life for 10m".into(),
            ..failed_alert()
        };
        assert_eq!(
            body(&alert),
            "group db has no live runner\nno runner of the group has shown life for 10m\n\nGroup     db\n"
        );
    }
}
