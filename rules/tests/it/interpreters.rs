//! Real interpreters with real mistakes: the built-in packs find the errors that these programs print.

use std::process::Command as Process;
use std::sync::Arc;

use domain::job::Command;
use domain::run::Outcome;
use rules::{Packs, RuleSet, choose_packs, test_run};

use crate::names;

/// Runs `program -c script` as a job does, and applies the packs that `auto` chooses for it to all its output.
fn outcome(program: &str, script: &str) -> (Outcome, Vec<String>, String) {
    let run = Process::new(program)
        .args(["-c", script])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/")
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed for this test: {error}"));
    let printed = [run.stdout, run.stderr].concat();
    let shown = String::from_utf8_lossy(&printed).into_owned();
    assert_eq!(run.status.code(), Some(0), "the script must exit 0: {script}\n{shown}");
    let packs = Packs::builtin();
    let command = Command::Argv(names(&[program, "-c", script]));
    let chosen = choose_packs(&packs, &names(&["auto"]), &command).names;
    let rules: Arc<RuleSet> = RuleSet::compile(&packs, &chosen).expect("compiles");
    let summary = test_run(&rules, printed.as_slice(), |_| ()).expect("reading memory");
    let hits = summary.verdict.hits.iter().map(|hit| hit.rule.clone()).collect();
    (summary.verdict.outcome, hits, format!("{}\n{shown}", summary.verdict.reason))
}

fn is_false_success(program: &str, script: &str, rule: &str) {
    let (outcome, hits, shown) = outcome(program, script);
    assert_eq!(outcome, Outcome::FalseSuccess, "{program}: {script}\n{shown}");
    assert!(hits.iter().any(|hit| hit == rule), "{program}: {script}\n{hits:?}\n{shown}");
    let reason = shown.lines().next().unwrap_or_default();
    assert!(reason.starts_with("exit code 0, but line "), "{reason}");
    assert!(reason.contains(rule), "the particular rule comes first: {reason}");
}

fn is_success(program: &str, script: &str) {
    let (outcome, _, shown) = outcome(program, script);
    assert_eq!(outcome, Outcome::Succeeded, "{program}: {script}\n{shown}");
}

const SHELLS: [&str; 3] = ["sh", "dash", "bash"];

#[test]
fn a_shell_error_with_exit_code_0_is_a_false_success() {
    for shell in SHELLS {
        for (script, rule) in [
            ("no-such-command-at-all; echo done", "shell.command-not-found"),
            ("cd /no/such/directory; echo done", "shell.no-such-file"),
            (
                "echo x > /no/such/directory/x; echo done",
                if shell == "bash" { "shell.no-such-file" } else { "shell.cannot-create" },
            ),
            (
                "cat < /no/such/file; echo done",
                if shell == "bash" { "shell.no-such-file" } else { "shell.cannot-create" },
            ),
            ("/dev/null; echo done", "shell.permission-denied"),
            ("[ 1 -eq x ]; echo done", "shell.wrong-test"),
            ("[ a b ]; echo done", "shell.wrong-test"),
            ("(set -u; echo $NOBODY_SET_THIS); echo done", "shell.unbound-variable"),
            ("(eval 'if true; done'); echo done", "shell.syntax-error"),
            ("(echo ${x!y}); echo done", "shell.wrong-expansion"),
            ("cp /no/such/file /tmp; echo done", "shell.copy-failed"),
            ("sh -c 'kill -SEGV $$'; echo done", "default.crash"),
        ] {
            if shell == "bash" && script.contains("kill") {
                continue;
            }
            is_false_success(shell, script, rule);
        }
    }
}

#[test]
fn errors_that_only_bash_has_are_false_successes() {
    for (script, rule) in [
        ("x='a b'; echo 1 > $x; echo done", "shell.ambiguous-redirect"),
        ("(echo $((1/0))); echo done", "shell.wrong-expansion"),
        ("export 1x=2; echo done", "shell.wrong-expansion"),
        ("x= ; [ $x = 1 ]; echo done", "shell.wrong-test"),
        ("bash -c 'kill -KILL $$; true'; echo done", "shell.child-killed"),
        ("bash -c 'kill -SEGV $$; true'; echo done", "shell.child-killed"),
    ] {
        is_false_success("bash", script, rule);
    }
}

#[test]
fn a_shell_without_errors_is_not_a_false_success() {
    for shell in SHELLS {
        for script in [
            "true",
            "echo done: 0 errors, 0 failed",
            "yes 2>/dev/null | head -1",
            "if no-such-command-at-all 2>/dev/null; then echo x; fi; echo done",
            "command -v no-such-command-at-all || echo using the other one",
            "echo 'errors=0 failed=0'; echo 'no error'",
            "printf 'ERROR: 0\\nFATAL: 0\\n'",
            "set -x; true; echo 'x.sh: line 3: foo: command not found' >/dev/null",
            "rm -f /no/such/file; mkdir -p .; echo ok",
            "ls /no/such/file || true",
            "(sleep 100 & kill $!; wait $!) || true",
            "test -e /no/such/file || echo 'nothing to do'",
        ] {
            is_success(shell, script);
        }
    }
}

#[test]
fn a_python_exception_with_exit_code_0_is_a_false_success() {
    for (script, rule) in [
        ("import traceback\ntry:\n    1/0\nexcept Exception:\n    traceback.print_exc()", "python.traceback"),
        ("import subprocess, sys\nsubprocess.call([sys.executable, '-c', 'if'])", "python.syntax-error"),
        (
            "import subprocess, sys\nsubprocess.call([sys.executable, '-c', 'import no_such_module'])",
            "python.traceback",
        ),
        (
            "import subprocess, sys\nsubprocess.call([sys.executable, '-m', 'no_such_module'])",
            "python.module-not-found",
        ),
        ("import subprocess, sys\nsubprocess.call([sys.executable, '/no/such/file.py'])", "python.module-not-found"),
        ("import threading\nt = threading.Thread(target=lambda: 1/0)\nt.start()\nt.join()", "python.thread"),
        (
            "import asyncio, gc\nasync def bad():\n    1/0\nasync def main():\n    asyncio.ensure_future(bad())\n    \
             await asyncio.sleep(0.01)\n    gc.collect()\nasyncio.run(main())",
            "python.task-exception",
        ),
        ("async def main():\n    pass\nmain()", "python.never-awaited"),
        ("import logging\nlogging.critical('cannot reach the database')", "python.critical"),
    ] {
        is_false_success("python3", script, rule);
    }
}

#[test]
fn a_python_program_that_handles_its_exception_is_not_a_false_success() {
    for script in [
        "print('done, 0 errors')",
        "import logging\nlogging.error('part 7 failed, trying again')",
        "try:\n    1/0\nexcept ZeroDivisionError as error:\n    print('handled', repr(error))",
        "try:\n    int('x')\nexcept ValueError as error:\n    print(f'ValueError: {error}')",
        "import warnings\nwarnings.warn('this will be gone in 4.0', DeprecationWarning)",
        "class C:\n    def __init__(self):\n        pass\nC()",
        "import sys\nprint('errors=0', file=sys.stderr)",
    ] {
        is_success("python3", script);
    }
}
