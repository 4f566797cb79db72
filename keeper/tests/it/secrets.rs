//! Secrets in a job's output are masked before they reach the spool.

use std::collections::BTreeMap;

use domain::event::Ended;
use domain::line::Stream;
use testbed::wait_for;

use crate::attempt::{Attempt, argv, shell};

#[test]
fn lines_and_json_leaves_are_masked_and_short_values_are_not() {
    let check = |value: &str, script: &str, expected: &[&str]| {
        let env = BTreeMap::from([("SECRET".to_owned(), value.to_owned())]);
        let mut attempt = Attempt::start_with_secrets(shell(script), env);
        let exit = attempt.wait_for_end();
        assert_eq!(attempt.texts(Stream::Stdout), expected, "{script}");
        assert_eq!(exit.output.stdout_lines, expected.len() as u64, "{script}");
    };
    let key = "-----BEGIN KEY-----\nabc\nMIIEvQIBADAN\n-----END KEY-----";
    check(key, "echo \"$SECRET\"; echo MIIEvQIBADAN; echo abc", &["***", "***", "***", "***", "***", "abc"]);
    let json = r#"{"user":"admin1","password":"correct horse","port":5}"#;
    check(json, "echo admin1 has 'correct horse' on 5; echo \"$SECRET\"", &["*** has *** on 5", "***"]);
    check("12345", "echo 12345", &["12345"]);
    check("s3cr3t!", "printf 'no end: s3cr3t!'", &["no end: ***"]);
    check("s3cr3t!", "printf 'a beginning: s3cr3'", &["a beginning: s3cr3"]);
}

#[test]
fn held_lines_are_written_while_the_job_is_idle() {
    let env = BTreeMap::from([("SECRET".to_owned(), "{\n  \"key\": \"value-of-it\"\n}".to_owned())]);
    let mut attempt = Attempt::start_with_secrets(shell("echo {; exec sleep 600"), env);
    wait_for("the line", || (attempt.texts(Stream::Stdout) == ["{"]).then_some(()));
    attempt.request_stop();
    assert_eq!(attempt.wait_for_end().ended, Ended::Stopped);
}

/// Words between the characters that shells, languages and markup treat in their own ways.
const WORDS: [&str; 7] = ["qzjw", "wxkv", "vgky", "yghb", "uzqf", "kpjx", "jvzq"];

/// Prints `$SECRET` in every way that the programs of this machine know.
const PRINTS: &str = r##"
printf '%q\n' "$SECRET" "x $SECRET"
echo "${SECRET@Q}"; declare -p SECRET
LC_ALL=C printf '%q\n' "$SECRET"; env printf '%q\n' "$SECRET"
(set -x; : "$SECRET"; : "a b $SECRET"; X=$SECRET) 2>&1
(LC_ALL=C; set -x; : "$SECRET") 2>&1
sh -xc ': "$SECRET" "$SECRET x"; X=$SECRET' 2>&1
printf %s "$SECRET" | od -An -v -tx1 -w4096
if command -v xxd; then printf %s "$SECRET" | xxd -p -c 256; printf %s "$SECRET" | xxd -p -u -c 256; fi
"##;

const PYTHON: &str = r##"
import html, json, os, re, shlex, urllib.parse
s = os.environ["SECRET"]
b = s.encode()
print(repr(s), ascii(s), repr(b), [s], {"k": s}, shlex.quote(s), re.escape(s))
print(b.hex(), b.hex().upper(), b.hex(" "), b.hex(":").upper(), "".join("\\x%02x" % c for c in b))
print(html.escape(s), html.escape(s, quote=False), s.replace("'", "''"), s.replace('"', '""'))
print(html.escape(s).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"), html.escape(s).replace("&#x27;", "&apos;"))
print(html.escape(s).encode("ascii", "xmlcharrefreplace").decode())
j = json.dumps({"k": s})
print(j, json.dumps(j), json.dumps(json.dumps(j)), json.dumps({"k": s}, ensure_ascii=False))
print(json.dumps(json.dumps({"k": s}, ensure_ascii=False), ensure_ascii=False))
print(j.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
q = urllib.parse.quote(s, safe="")
lower = re.sub("%..", lambda m: m.group().lower(), q)
print(q, lower, urllib.parse.quote_plus(s), urllib.parse.quote(q, safe=""), lower.replace("%20", "+"))
print("".join("%%%02X" % c for c in b), "".join("%%%02x" % c for c in b))
print(json.dumps({"trace": shlex.quote(s)}), json.dumps({"sql": s.replace("'", "''")}), json.dumps({"r": repr(s)}))
"##;

const PERL: &str = r##"use Data::Dumper; $s = $ENV{SECRET}; print Dumper($s, [$s], {k => $s});
$Data::Dumper::Useqq = 1; print Dumper($s); utf8::decode($s); print Dumper($s); print quotemeta($ENV{SECRET}), "\n";"##;

const NODE: &str = r##"const s = process.env.SECRET; console.log([s], {k: s}, JSON.stringify(s), encodeURI(s),
encodeURIComponent(s), JSON.stringify(JSON.stringify({k: s})));"##;

#[test]
fn what_shells_languages_and_markup_print_of_a_secret_is_masked() {
    let [a, b, c, d, e, f, g] = WORDS;
    let check = |value: &str, program: &str, arguments: &[&str]| {
        let env = BTreeMap::from([("SECRET".to_owned(), value.to_owned())]);
        // A program that this machine lacks prints nothing.
        let script = "command -v \"$1\" >/dev/null || exit 0; exec \"$@\" 2>&1";
        let all = [&["/bin/bash", "-c", script, "bash", program], arguments].concat();
        let mut attempt = Attempt::start_with_secrets(argv(&all), env);
        let exit = attempt.wait_for_end();
        assert_eq!(exit.exit_code, Some(0), "{program}: {:?}", attempt.texts(Stream::Stdout));
        for line in attempt.texts(Stream::Stdout) {
            let plain = line.to_lowercase();
            for word in WORDS {
                let hex: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
                let spaced: String = word.bytes().map(|byte| format!(" {byte:02x}")).collect();
                for trace in [word, &hex, spaced.trim_start()] {
                    assert!(!plain.contains(trace), "{program} printed {word} of {value:?}: {line}");
                }
            }
        }
    };
    let python = String::from_utf8(
        std::process::Command::new("sh").args(["-c", "command -v python3"]).output().expect("a shell").stdout,
    );
    let python = python.expect("a path");
    for value in [
        format!("{a}'s {b}"),
        format!("{a}\"{b}\"{c}"),
        format!("{a}''{b}'\"{c}\"'{d}"),
        format!("{a} {b}\\{c}\t{d}$x`{e}`"),
        format!("#{a}!{b}*{c};{d}|{e}<{f}>{g}&"),
        format!("~{a}/{b}=?{c}%{d}+{e}@{f},{g}"),
        format!("{a}ö{b}'ü{c}\\n{d}"),
        format!("{a}€{b}😀'{c}\"<{d}>"),
        format!("{a}\n{b}'{c}\n{d}\"{e}\\"),
        format!("{a}\u{1b}[0m{b}\u{7}'{c}\u{1}{d}"),
        format!("{a}{{}}[]()^{b}"),
        format!("{a}.{b}-{c}:{d}_{e}"),
    ] {
        check(&value, "/bin/bash", &["-c", PRINTS]);
        check(&value, python.trim(), &["-c", PYTHON]);
        check(&value, "/usr/bin/perl", &["-e", PERL]);
        check(&value, "/usr/bin/node", &["-e", NODE]);
    }
}

/// A secret of a user who stores a whole file must not fill the memory of its keeper.
#[test]
fn a_large_secret_is_masked_too() {
    let lines: Vec<String> = (0..600).map(|number| format!("line {number:04} of 'a' <large> \"secret\"")).collect();
    let env = BTreeMap::from([("SECRET".to_owned(), lines.join("\n"))]);
    let mut attempt = Attempt::start_with_secrets(shell("echo \"$SECRET\"; set -x; : \"$SECRET\""), env);
    assert_eq!(attempt.wait_for_end().exit_code, Some(0));
    assert_eq!(attempt.texts(Stream::Stdout), vec!["***"; lines.len()]);
    assert!(attempt.texts(Stream::Stderr).iter().all(|line| !line.contains("large")));
}
