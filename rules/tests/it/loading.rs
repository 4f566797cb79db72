use std::fs;
use std::path::PathBuf;

use domain::job::Command;
use proptest::prelude::*;
use rules::{Pack, Packs, RuleSet, choose_packs};

use crate::names;

#[test]
fn every_rule_of_a_built_in_pack_has_examples_that_pass() {
    let packs = Packs::builtin();
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/packs")).expect("the packs are there");
    let stem = |path: PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut stems: Vec<String> = files.map(|file| stem(file.expect("an entry").path())).collect();
    stems.sort();
    assert_eq!(packs.names().collect::<Vec<_>>(), stems);
    assert_eq!(packs.check_examples().to_string(), "");
    for (pack, rule) in packs.iter().flat_map(|pack| pack.rules.iter().map(move |rule| (pack, rule))) {
        assert!(rule.id.starts_with(&format!("{}.", pack.name)), "{}", rule.id);
        assert!(!rule.matches.is_empty() && !rule.ignores.is_empty(), "{} has no examples", rule.id);
        assert!(rule.explain.ends_with('.'), "{} does not explain itself in a sentence", rule.id);
    }
}

#[test]
fn built_in_packs_read_without_a_warning() {
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/packs")).expect("the packs are there") {
        let path = file.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a pack is text");
        let name = path.display().to_string();
        let (_, warnings) = Pack::read(&name, &text).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(warnings.to_string(), "");
    }
}

#[test]
fn no_built_in_rule_matches_a_harmless_line() {
    let packs = Packs::builtin();
    let innocent = include_str!("innocent.txt");
    for line in innocent.lines() {
        for rule in packs.iter().flat_map(|pack| &pack.rules) {
            assert!(!rule.matches(line.as_bytes()), "{} matches {line}", rule.id);
        }
    }
}

#[test]
fn all_faults_of_a_pack_are_found_in_one_reading_with_line_and_remedy() {
    let text = r#"name = "my pack"
descripton = "x"
suggest = ["/usr/bin/python"]

[[rule]]
id = "a"
pattern = '(?<=x)y'

[[rule]]
id = "b"
pattern = 'x'
require = 'y'

[[rule]]
id = "c"
severity = "failure"
at_least = 0

[[rule]]
id = "a"
pattern = '.*'

[[rule]]
id = "d"
pattern = '(\w{1000}){1000}'

[[rule]]
patern = 'x'
id = "e"
"#;
    let faults = Packs::default().add("p.toml", text).expect_err("refused").to_string();
    let expected = [
        "p.toml:1: `my pack`: not a name; write 1 to 100 letters, digits, dots, dashes or underscores",
        "p.toml:2: `descripton`: unknown key; did you mean `description`?",
        "p.toml:3: `/usr/bin/python`: not the name of a program; write its file name without a path, like \"python*\"",
        "p.toml:7: `(?<=x)y`: `pattern` of a is not a regular expression: look-around, including look-ahead and \
         look-behind, is not supported; write in `unless` what the line must not contain",
        "p.toml:9: `b`: has both `pattern` and `require`; make it two rules",
        "p.toml:14: `c`: has neither `pattern` nor `require`; write pattern = '...'",
        "p.toml:16: `failure`: not a `severity`; write one of fail, warn; did you mean `fail`?",
        "p.toml:17: `0`: `at_least` is out of range; write a whole number from 1 to 1000000000",
        "p.toml:21: `.*`: `pattern` of a matches every line; write what a matching line must contain",
        "p.toml:25: `(\\w{1000}){1000}`: `pattern` of d takes more than 1024 KiB compiled; write smaller repetitions",
        "p.toml:27: `e`: has neither `pattern` nor `require`; write pattern = '...'",
        "p.toml:28: `patern`: unknown key; did you mean `pattern`?",
    ];
    assert_eq!(faults.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_second_rule_with_the_same_id_names_the_line_of_the_first() {
    let text = "name = \"p\"\n[[rule]]\nid = \"a\"\npattern = 'x'\n[[rule]]\nid = \"a\"\npattern = 'y'\n";
    let faults = Packs::default().add("p.toml", text).expect_err("refused").to_string();
    assert_eq!(faults, "p.toml:5: `a`: line 2 already has a rule with this id; give each rule its own id");
}

#[test]
fn a_failing_example_is_a_fault() {
    let text = "name = \"p\"\n[[rule]]\nid = \"a\"\npattern = 'x'\nmatches = [\"y\"]\nignores = [\"x\"]\n";
    let mut packs = Packs::default();
    packs.add("p.toml", text).expect("the pack itself is good");
    assert_eq!(
        packs.check_examples().to_string(),
        "p.toml:2: `y`: rule `a` does not match its own example; fix one of the two\n\
         p.toml:2: `x`: rule `a` matches a line of its `ignores`; fix one of the two"
    );
}

#[test]
fn a_pattern_that_needs_unicode_is_accepted_with_a_warning() {
    let mut packs = Packs::default();
    packs.add("p.toml", "name = \"p\"\n[[rule]]\nid = \"a\"\npattern = '[éè]chec'\n").expect("read");
    let warnings = packs.warnings().to_string();
    assert!(
        warnings.starts_with("p.toml:4: warning: `[éè]chec`: `pattern` of a is matched in Unicode mode"),
        "{warnings}"
    );
    assert!(packs.get("p").expect("added").rules[0].matches("un échec".as_bytes()));
    let faults =
        packs.add("q.toml", "name = \"q\"\n[[rule]]\nid = \"a\"\npattern = '[é]chec\\b'\n").expect_err("refused");
    assert!(faults.to_string().contains("write (?-u:\\b)"), "{faults}");
}

#[test]
fn a_pack_of_the_user_replaces_a_built_in_one_but_not_one_of_another_file() {
    let own = |pattern: &str| format!("name = \"python\"\n[[rule]]\nid = \"python.x\"\npattern = '{pattern}'\n");
    let mut packs = Packs::builtin();
    packs.add("a.toml", &own("x")).expect("replaces ours");
    assert_eq!(packs.get("python").expect("there").rules.len(), 1);
    let faults = packs.add("b.toml", &own("y")).expect_err("refused").to_string();
    assert_eq!(faults, "b.toml:1: `python`: a.toml already has a pack with this name; rename one of the two");
}

#[test]
fn rule_sets_are_compiled_once_and_their_digest_depends_on_what_they_match() {
    let mut packs = Packs::builtin();
    let first = RuleSet::compile(&packs, &names(&["default", "shell"])).expect("compiles");
    let again = RuleSet::compile(&packs, &names(&["default", "shell"])).expect("compiles");
    assert!(std::sync::Arc::ptr_eq(&first, &again));
    assert_eq!(first.digest().len(), 16);
    assert_ne!(first.digest(), RuleSet::compile(&packs, &names(&["default"])).expect("compiles").digest());
    packs.add("s.toml", "name = \"shell\"\n[[rule]]\nid = \"x\"\npattern = 'x'\n").expect("added");
    let changed = RuleSet::compile(&packs, &names(&["default", "shell"])).expect("compiles");
    assert_ne!(first.digest(), changed.digest());
    assert!(RuleSet::compile(&packs, &[]).expect("none is fine").is_empty());
}

fn check_choice(wanted: &[&str], command: &str, expected: &[&str]) {
    let mut packs = Packs::builtin();
    packs
        .add("p.toml", "name = \"own-db\"\nsuggest = [\"pg_*\"]\n[[rule]]\nid = \"x\"\npattern = 'x'\n")
        .expect("added");
    let chosen = choose_packs(&packs, &names(wanted), &Command::Shell(command.to_owned())).names;
    assert_eq!(chosen, expected, "{command}");
}

#[test]
fn packs_are_chosen_by_name_and_by_the_programs_of_the_command() {
    check_choice(&["auto"], "/usr/bin/true", &["default", "coreutils", "shell"]);
    check_choice(&["auto"], "cd /srv && LEVEL=9 nice python3.11 x.py", &["default", "coreutils", "python", "shell"]);
    check_choice(&["auto"], "/srv/x.py", &["default", "coreutils", "python", "shell"]);
    check_choice(&["auto"], "sudo -u postgres pg_dump db", &["default", "coreutils", "own-db", "postgres", "shell"]);
    check_choice(&["own-db", "auto", "default"], "true", &["own-db", "default", "coreutils", "shell"]);
    check_choice(&["python"], "true", &["python"]);
    check_choice(&[], "python3 x.py", &[]);
    let packs = Packs::builtin();
    let argv = |words: &[&str]| choose_packs(&packs, &names(&["auto"]), &Command::Argv(names(words))).names;
    assert_eq!(argv(&["/usr/bin/rsync", "-a"]), ["default", "network", "rsync"]);
    assert_eq!(argv(&["/srv/run.sh"]), ["default", "shell"]);
    assert_eq!(argv(&["env", "python3", "-m", "x"]), ["default", "coreutils", "python"]);
}

#[test]
fn a_pack_without_suggest_is_for_every_job_with_auto() {
    let mut packs = Packs::builtin();
    for (name, suggest) in [
        ("everywhere", ""),
        ("named-only", "suggest = []\n"),
        ("backup", "suggest = [\"backup\"]\n"),
        ("shell", "suggest = []\n"),
        ("python", ""),
    ] {
        let text = format!("name = \"{name}\"\n{suggest}[[rule]]\nid = \"{name}.x\"\npattern = 'x'\n");
        packs.add(&format!("{name}.toml"), &text).expect("added");
    }
    let chosen = |wanted: &[&str], command: &str| {
        choose_packs(&packs, &names(wanted), &Command::Shell(command.to_owned())).names
    };
    assert_eq!(chosen(&["auto"], "true"), ["default", "coreutils", "everywhere", "python"]);
    assert_eq!(chosen(&["auto"], "backup all"), ["default", "backup", "coreutils", "everywhere", "python"]);
    assert_eq!(chosen(&["named-only", "auto"], "true"), ["named-only", "default", "coreutils", "everywhere", "python"]);
    assert_eq!(chosen(&["backup"], "true"), ["backup"]);
    assert!(chosen(&[], "backup").is_empty());
    let replacing: Vec<&str> = packs.replacing_built_in().map(|pack| pack.name.as_str()).collect();
    assert_eq!(replacing, ["python", "shell"]);
}

#[test]
fn a_job_with_an_unknown_pack_keeps_its_other_packs() {
    let command = Command::Shell("python3 x.py".to_owned());
    let chosen = choose_packs(&Packs::builtin(), &names(&["absent", "auto", "defualt"]), &command);
    assert_eq!(chosen.names, ["default", "coreutils", "python", "shell"]);
    let unknown: Vec<String> = chosen.unknown.iter().map(ToString::to_string).collect();
    assert_eq!(
        unknown,
        [
            format!("no rule pack `absent`; known are {}", Packs::builtin().names().collect::<Vec<_>>().join(", ")),
            "no rule pack `defualt`; did you mean `default`?".to_owned()
        ]
    );
}

#[test]
fn an_unknown_pack_is_refused_with_the_nearest_name() {
    let message = |name: &str| {
        let chosen = choose_packs(&Packs::builtin(), &names(&[name]), &Command::Shell("true".to_owned()));
        assert!(chosen.names.is_empty());
        chosen.unknown[0].to_string()
    };
    let packs = Packs::builtin();
    let known: Vec<&str> = packs.names().collect();
    assert_eq!(message("pyhton"), "no rule pack `pyhton`; did you mean `python`?");
    assert_eq!(message("mainframe-cobol"), format!("no rule pack `mainframe-cobol`; known are {}", known.join(", ")));
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_of_packs_panic(text in "(?s).{0,200}") {
        let _ = Pack::read("x.toml", &text);
    }

    #[test]
    fn no_pattern_makes_the_reader_of_packs_panic(
        pattern in r"[a-zéß\\\[\](){}*+?|^$.,:\-0-9<>=!&~#bdwsPuix]{0,40}",
        unless in r"[a-z\\\[\](){}*+?|^$.]{0,12}",
        line in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let text = format!("name = \"p\"\n[[rule]]\nid = \"a\"\npattern = '{pattern}'\nunless = '{unless}'\n");
        if let Ok((pack, _)) = Pack::read("x.toml", &text) {
            pack.rules[0].matches(&line);
        }
    }

    #[test]
    fn no_command_makes_the_choice_of_packs_panic(text in "(?s).{0,120}", shellish in r#"[a-z ;|&()<>"'`$\\={}#!\n-]{0,80}"#) {
        let packs = Packs::builtin();
        for text in [text, shellish] {
            choose_packs(&packs, &names(&["auto"]), &Command::Shell(text.clone()));
            choose_packs(&packs, &names(&["auto"]), &Command::Argv(vec!["env".to_owned(), text]));
        }
    }
}

#[test]
fn the_keys_for_several_lines_are_checked_with_each_other() {
    let text = r#"name = "p"
[[rule]]
id = "a"
pattern = 'a'
then = 'b'
[[rule]]
id = "b"
pattern = 'a'
within = 3
[[rule]]
id = "c"
require = 'a'
at_least = 3
at_most = 2
[[rule]]
id = "d"
pattern = 'a\nb'
cleared_by = 'a^b'
then = 'x'
within = 101
"#;
    let faults = Packs::default().add("p.toml", text).expect_err("refused").to_string();
    let expected = [
        "p.toml:5: `a`: has `then` without `within`; write within = 1 for the next line",
        "p.toml:9: `b`: has `within` without `then`; write then = '...'",
        "p.toml:14: `c`: has an `at_most` below its `at_least`, so that no number of lines is between them",
        "p.toml:17: `a\\nb`: `pattern` of d has a line feed, and a pattern is compared with one line at a time; write \
         the next line's pattern in `then`, with `within = 1`",
        "p.toml:18: `a^b`: `cleared_by` of d can never match: no line meets all its parts; remove the part that \
         contradicts the others, like a `^` behind text",
        "p.toml:20: `101`: `within` is out of range; write a whole number from 1 to 100",
    ];
    let mut faults: Vec<_> = faults.lines().collect();
    faults.sort_by_key(|fault| fault.split(':').nth(1).and_then(|line| line.parse::<u32>().ok()));
    assert_eq!(faults, expected);
}

#[test]
fn examples_can_have_several_lines() {
    let text = "name = \"p\"\n[[rule]]\nid = \"a\"\npattern = '^a'\nthen = '^b'\nwithin = 2\ncleared_by = '^ok'\n\
                matches = [\"a\\nx\\nb\", \"a\\nb\\na\\nok\"]\nignores = [\"a\", \"a\\nx\\nx\\nb\", \"a\\nb\\nok\"]\n";
    let mut packs = Packs::default();
    packs.add("p.toml", text).expect("the pack itself is good");
    assert_eq!(
        packs.check_examples().to_string(),
        "p.toml:2: `a\\nb\\na\\nok`: rule `a` does not match its own example; fix one of the two"
    );
}
