//! Programs that write data to standard output: only standard error of theirs is judged.

use domain::job::Command;
use domain::line::Stream;
use rules::{ChosenPacks, Interpreters, Matcher, Packs, RuleSet, choose_packs, choose_packs_with};

use crate::{block, names};

/// `default` and `shell` of the user replace the built-in ones, so that their rules are known here.
const PACKS: [&str; 5] = [
    "name = \"default\"\ndata_stdout = [\"cat\"]\n[[rule]]\nid = \"default.error\"\npattern = '^ERROR'\n",
    "name = \"shell\"\nsuggest = []\n[[rule]]\nid = \"shell.x\"\npattern = 'never'\n",
    "name = \"db\"\nsuggest = [\"dump\", \"sql\"]\ndata_stdout = [\"dump\", \"sql -c\", \"git log\", \"tar -c\"]\n\
     [[rule]]\nid = \"db.error\"\npattern = '^ERROR'\n\
     [[rule]]\nid = \"db.done\"\nrequire = 'done'\n\
     [[rule]]\nid = \"db.stdout\"\npattern = '^ERROR'\nstream = \"stdout\"\n\
     [[rule]]\nid = \"db.retried\"\npattern = '^ERROR'\nunless_word = [\"--retry*\"]\nstream = \"stderr\"\n\
     [[rule]]\nid = \"db.verbose\"\npattern = '^ERROR'\nif_word = [\"-v\"]\n\
     [[rule]]\nid = \"db.verbose-done\"\nrequire = 'never'\nif_word = [\"-v\"]\n",
    "name = \"python\"\nsuggest = [\"python*\"]\n[[rule]]\nid = \"python.error\"\npattern = '^ERROR'\n",
    "name = \"own\"\n[[rule]]\nid = \"own.error\"\npattern = '^ERROR'\n",
];

fn packs() -> Packs {
    let mut packs = Packs::builtin();
    for (number, text) in PACKS.iter().enumerate() {
        packs.add(&format!("{number}.toml"), text).unwrap_or_else(|faults| panic!("{faults}"));
    }
    packs
}

fn chosen(command: &str) -> ChosenPacks {
    choose_packs(&packs(), &names(&["auto"]), &Command::Shell(command.to_owned()))
}

/// The rules that find `ERROR` on the stream in the output of the command.
fn hits(command: &str, stream: Stream) -> String {
    let packs = packs();
    let rules = RuleSet::compile_for(&packs, &chosen(command)).expect("compiles");
    let mut matcher = Matcher::new(rules);
    matcher.feed(&block(1, &[(stream, b"ERROR: x"), (Stream::Stdout, b"done")]));
    let mut found: Vec<String> = matcher.hits().into_iter().map(|hit| hit.rule).collect();
    found.retain(|rule| rule.ends_with("error"));
    found.sort();
    found.join(" ")
}

#[test]
fn standard_output_of_a_program_that_writes_data_is_not_judged_by_its_packs() {
    for (command, on_stdout) in [
        // Packs of the user without such programs judge all output.
        ("dump x", "own.error"),
        ("cd /srv && sudo -u a dump x", "own.error"),
        ("dump x | tee f; true", "own.error"),
        ("dump x; python3 y", "default.error own.error python.error"),
        ("dump x 2>&1", "db.error default.error own.error"),
        ("dump x > f; sql y", "db.error default.error own.error"),
        ("sql -qc 'select 1' x", "own.error"),
        ("sql x", "db.error default.error own.error"),
        ("git log -1", "own.error"),
        ("git push", "default.error own.error"),
        ("tar czf - x", "own.error"),
        ("tar --create -f x y", "default.error own.error"),
        ("python3 y | cat", "default.error own.error python.error"),
        ("cat x", "own.error"),
        ("dump x | python3 y", "db.error default.error own.error python.error"),
        ("python3 y", "default.error own.error python.error"),
    ] {
        assert_eq!(hits(command, Stream::Stdout), on_stdout, "{command}");
        let on_stderr = hits(command, Stream::Stderr);
        for expected in on_stdout.split(' ') {
            assert!(on_stderr.contains(expected), "{command}: {on_stderr}");
        }
        assert!(on_stderr.contains("default.error"), "{command}: {on_stderr}");
        assert_eq!(on_stderr.contains("db.error"), command.contains("dump") || command.contains("sql"), "{command}");
    }
}

#[test]
fn a_rule_that_requires_a_line_or_names_a_stream_reads_the_data() {
    let packs = packs();
    let found = |command: &str, lines: &[(Stream, &[u8])]| {
        let mut matcher = Matcher::new(RuleSet::compile_for(&packs, &chosen(command)).expect("compiles"));
        matcher.feed(&block(1, lines));
        let mut found: Vec<String> = matcher.hits().into_iter().map(|hit| hit.rule).collect();
        found.retain(|rule| rule.starts_with("db."));
        found.sort();
        found.join(" ")
    };
    let (done, error) = ((Stream::Stdout, b"done".as_slice()), b"ERROR: x".as_slice());
    assert_eq!(found("dump x", &[done]), "");
    assert_eq!(found("dump x", &[]), "db.done");
    assert_eq!(found("dump x", &[done, (Stream::Stdout, error)]), "db.stdout");
    // A word of the command decides whether a rule applies.
    assert_eq!(found("dump x", &[done, (Stream::Stderr, error)]), "db.error db.retried");
    assert_eq!(found("dump --retry=3 x", &[done, (Stream::Stderr, error)]), "db.error");
    assert_eq!(
        found("sudo dump -v x", &[done, (Stream::Stderr, error)]),
        "db.error db.retried db.verbose db.verbose-done"
    );
}

#[test]
fn each_pack_is_chosen_for_a_reason_that_can_be_shown() {
    let chosen = |wanted: &[&str], command: &str, interpreters: &[(&str, &str)]| {
        let own = |(path, name): &(&str, &str)| ((*path).to_owned(), (*name).to_owned());
        let interpreters: Interpreters = interpreters.iter().map(own).collect();
        let command = Command::Shell(command.to_owned());
        let chosen = choose_packs_with(&packs(), &names(wanted), &command, &interpreters);
        let is_own = |name: &str| ["db", "default", "own", "python", "shell"].contains(&name);
        let named = chosen.names.iter().zip(&chosen.reasons).filter(|(name, _)| is_own(name));
        named.map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>()
    };
    let every = ["default: your pack without `suggest`", "own: your pack without `suggest`"];
    assert_eq!(chosen(&["auto"], "sudo dump x", &[]), [every[0], "db: runs dump", every[1]]);
    assert_eq!(chosen(&["auto"], "/srv/load.py x", &[]), every);
    let with = [every[0], every[1], "python: runs python3.12 (the `#!` line of /srv/load)"];
    assert_eq!(chosen(&["auto"], "/srv/load x", &[("/srv/load", "python3.12")]), with);
    // A file of another machine has the same path by chance.
    assert_eq!(chosen(&["auto"], "ssh h /srv/load", &[("/srv/load", "python3.12")]), every);
    assert_eq!(chosen(&["db", "auto"], "dump", &[])[0], "db: named in `rules`");
    let built_in = choose_packs(&Packs::builtin(), &names(&["auto"]), &Command::Shell("true".to_owned()));
    let reasons: Vec<_> =
        built_in.names.iter().zip(&built_in.reasons).filter(|(name, _)| *name != "coreutils").collect();
    assert_eq!(reasons[0].1, "for every job");
    assert!(reasons.iter().any(|(name, why)| *name == "shell" && *why == "the command is for a shell"));
}

#[test]
fn faulty_words_of_a_pack_are_refused() {
    let text = "name = \"p\"\ndata_stdout = [\"/bin/x\", \"\", \"git log\"]\n\
                [[rule]]\nid = \"a\"\npattern = 'a'\nif_word = [\"a b\"]\nunless_word = [\"\"]\n";
    let faults = Packs::default().add("p.toml", text).expect_err("refused").to_string();
    let expected = [
        "p.toml:2: `/bin/x`: not a program with words of its command; write its file name without a path, like \"git log\"",
        "p.toml:2: not a program with words of its command; write its file name without a path, like \"git log\"",
        "p.toml:6: `a b`: not one word of a command; write it without blanks, like \"--retry*\"",
        "p.toml:7: not one word of a command; write it without blanks, like \"--retry*\"",
    ];
    assert_eq!(faults.lines().collect::<Vec<_>>(), expected);
}
