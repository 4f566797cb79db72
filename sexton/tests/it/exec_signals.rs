//! `exec` and signals: from kill(1), from a terminal, and from a shell with job control.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use testbed::DEADLINE;

use crate::driver::{Folder, command, signal};

/// Starts `exec` of a script that prints `up` when it can be signalled.
fn start(folder: &Folder, script: &str) -> Child {
    let mut command = command(&["exec", "--name", "signalled", "--state", &folder.text("state"), "--", "sh", "-c"]);
    let mut child = command.arg(script).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("exec");
    let mut up = [0; 3];
    child.stdout.as_mut().expect("pipe").read_exact(&mut up).expect("started");
    child
}

#[test]
fn a_signal_to_exec_reaches_its_command_and_the_code_is_the_commands() {
    let folder = Folder::new();
    let check = |name: &str, script: &str, code: i32| {
        let child = start(&folder, script);
        signal(child.id(), name);
        let output = child.wait_with_output().expect("wait");
        assert_eq!(output.status.code(), Some(code), "{name} {script}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1), ("USR1", 10), ("RTMIN", 34)] {
        check(name, "echo up; exec sleep 1000", 128 + number);
        let trap = format!("trap 'echo caught; exit 7' {name}; echo up; while :; do sleep 0.01; done");
        assert_eq!(check(name, &trap, 7), "caught\n", "{name}");
    }
    // A command that ignores the signal runs on; the next one ends it.
    let child = start(&folder, "trap '' TERM; echo up; while :; do sleep 0.01; done");
    signal(child.id(), "TERM");
    signal(child.id(), "INT");
    assert_eq!(child.wait_with_output().expect("wait").status.code(), Some(130));
    // The command of nohup ignores HUP, as without `exec`.
    let mut nohup = Command::new("nohup");
    nohup.arg(env!("CARGO_BIN_EXE_sexton")).args(["exec", "--name", "n", "--state", &folder.text("state"), "--"]);
    let ignored = nohup.args(["sh", "-c", "kill -HUP $$; echo alive"]).env("TZ", "UTC").output().expect("nohup");
    assert_eq!(String::from_utf8_lossy(&ignored.stdout), "alive\n");
}

/// A program on a terminal of its own: script(1) of util-linux.
struct Terminal {
    script: Child,
    printed: Arc<Mutex<String>>,
}

impl Terminal {
    /// None where script(1) is missing.
    fn start(line: &str, call: &str) -> Option<Terminal> {
        let mut script = Command::new("script");
        script.args(["-qefc", line, "/dev/null"]).env("S", call).env("TZ", "UTC").env("TERM", "dumb");
        let script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut script) = script else {
            eprintln!("script(1) is not installed; left out");
            return None;
        };
        let printed = Arc::new(Mutex::new(String::new()));
        let (mut out, kept) = (script.stdout.take().expect("pipe"), printed.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(bytes @ 1..) = out.read(&mut buffer) {
                kept.lock().expect("lock").push_str(&String::from_utf8_lossy(&buffer[..bytes]));
            }
        });
        Some(Terminal { script, printed })
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.script.stdin.as_mut().expect("pipe");
        stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush()).expect("written");
    }

    /// Waits until this was printed, and forgets what came before.
    #[track_caller]
    fn expect(&self, text: &str) {
        let start = Instant::now();
        loop {
            let mut printed = self.printed.lock().expect("lock");
            if let Some(at) = printed.find(text) {
                printed.drain(..at + text.len());
                return;
            }
            assert!(start.elapsed() < DEADLINE, "no `{text}` on the terminal: {printed:?}");
            drop(printed);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

fn call(folder: &Folder) -> String {
    format!("{} exec --state {} --name terminal --", env!("CARGO_BIN_EXE_sexton"), folder.text("state"))
}

#[test]
fn a_terminal_interrupts_the_command_once_and_the_code_is_130() {
    let folder = Folder::new();
    // The command counts its signals: it must not get one from the terminal and a second one from `exec`.
    let trap = "trap \"count=x\\$count\" INT; echo ready; until [ \"\\$count\" ]; do sleep 0.01; done; sleep 0.3; echo got \\$count";
    let line = format!("bash -c '$S sh -c \"{}\"; echo code $?'", trap.replace('"', "\\\""));
    let Some(mut terminal) = Terminal::start(&line, &call(&folder)) else { return };
    terminal.expect("ready");
    terminal.press("\x03");
    terminal.expect("got x\r");
    drop(terminal);
    let line = "bash -ic '$S sh -c \"echo ready; exec sleep 1000\"; echo code $?'";
    let Some(mut terminal) = Terminal::start(line, &call(&folder)) else { return };
    terminal.expect("ready");
    terminal.press("\x03");
    terminal.expect("code 130");
}

#[test]
fn a_shell_suspends_and_continues_the_command_with_exec() {
    let folder = Folder::new();
    let Some(mut terminal) = Terminal::start("bash --norc -i", &call(&folder)) else { return };
    terminal.press("set +o history; PS1=; $S sh -c 'echo re\"\"ady; read line; echo got $line; exit 5'\n");
    terminal.expect("ready");
    terminal.press("\x1a");
    terminal.expect("Stopped");
    terminal.press("echo in\"\"between\n");
    terminal.expect("inbetween");
    // `fg` prints the command line before the command has the terminal again.
    terminal.press("fg; echo co\"\"de $?\n");
    terminal.expect("read line;");
    terminal.press("a line\n");
    terminal.expect("got a line");
    terminal.expect("code 5");
    // In the background, a command that reads the terminal is suspended too.
    terminal.press("$S sh -c 'read line; echo got $line; exit 6' &\n");
    terminal.press("until jobs | grep Stopped; do sleep 0.1; done\n");
    terminal.expect("]+  Stopped");
    terminal.press("fg\n");
    terminal.expect("read line;");
    terminal.press("more\n");
    terminal.expect("got more");
    terminal.press("exit\n");
}
