//! MAILTO: the output of runs arrives as mail, through a mail server or the sendmail of the machine.

use std::os::unix::fs::PermissionsExt;

use testbed::{Aiosmtpd, DEADLINE, SmtpMode, wait_until};

use crate::driver::{Folder, Up, command};

/// Starts `up` with these files, and with this folder first in PATH.
fn start(folder: &Folder, crontab: &str, configuration: &str) -> Up {
    let (crontab, config) = (folder.write("tab", crontab), folder.write("sexton.toml", configuration));
    let mut command = command(&["up", "--crontab", &crontab, "--config", &config]);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", folder.text("bin")));
    Up::serve(&folder.path("state"), command)
}

/// A sendmail that stores its arguments and its input, and fails while there is a file `busy`.
fn install_sendmail(folder: &Folder) {
    std::fs::create_dir(folder.path("bin")).expect("made");
    let into = folder.text("");
    let script = format!(
        "#!/bin/sh\n[ ! -e {into}/busy ] || {{ echo 'queue is full' >&2; touch {into}/refused; exit 75; }}\n\
         echo \"$@\" > {into}/arguments\ncat > {into}/mail.tmp\nmv {into}/mail.tmp {into}/mail\n"
    );
    let program = folder.write("bin/sendmail", &script);
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).expect("executable");
}

fn received(folder: &Folder) -> String {
    wait_until(DEADLINE, || folder.path("mail").exists());
    std::fs::read_to_string(folder.path("mail")).expect("read")
}

#[test]
fn output_goes_to_mailto_through_the_smtp_channel_as_cron_writes_it() {
    let Some(server) = Aiosmtpd::start(SmtpMode::Plain) else { return };
    let folder = Folder::new();
    let configuration = format!(
        "[channel.post]\ntype = \"smtp\"\naddress = \"{}\"\ntls = \"none\"\nfrom = \"sexton@example.org\"\n\
         to = [\"night@example.org\"]\n",
        server.address()
    );
    let crontab = "MAILTO=ops@example.org,root\nLEVEL=7\n\
                   # sexton: name=loud\n@manually echo out; echo err >&2; echo \"caf\u{e9}\"\n\
                   # sexton: name=bad\n@manually echo broken; exit 3\n\
                   # sexton: name=silent\n@manually true\n\
                   MAILTO=\n# sexton: name=unwanted\n@manually echo nothing to mail\n";
    let up = start(&folder, crontab, &configuration);
    for job in ["unwanted", "silent", "loud"] {
        up.run(&["run", &format!("default/{job}"), "--wait"]).expect(0);
    }
    let mail = server.wait_for_count(1).remove(0).replace("\r\n", "\n");
    let user = keeper_user();
    for line in [
        "X-RcptTo: ops@example.org, root@example.org\n",
        "To: ops@example.org, root@example.org\n",
        "From: \"Cron Daemon\" <sexton@example.org>\n",
        "Content-Type: text/plain; charset=UTF-8\n",
        "X-Cron-Env: <LEVEL=7>\n",
        "X-Cron-Env: <SHELL=/bin/sh>\n",
        "Auto-Submitted: auto-generated\n",
        "out\n",
        "err\n",
        "caf=C3=A9\n",
    ] {
        assert!(mail.contains(line), "{line} in {mail}");
    }
    assert!(mail.contains(&format!("Subject: Cron <{user}@")), "{mail}");
    up.run(&["run", "default/bad", "--wait"]).expect(1);
    // The alert about the failed run goes to the same server.
    let of_bad =
        || server.messages().into_iter().find(|mail| mail.contains("Subject: Cron <") && mail.contains("exit 3"));
    wait_until(DEADLINE, || of_bad().is_some());
}

/// The name that the system knows for the user of this test.
fn keeper_user() -> String {
    let found = std::process::Command::new("id").arg("-un").output().expect("id runs");
    String::from_utf8_lossy(&found.stdout).trim().to_owned()
}

#[test]
fn output_goes_through_sendmail_and_waits_for_it_across_restarts() {
    let folder = Folder::new();
    install_sendmail(&folder);
    folder.write("busy", "");
    let crontab = "MAILTO=root\nMAILFROM=cron@example.org\n# sexton: name=loud\n@manually printf 'one\\ntwo\\n'\n";
    let up = start(&folder, crontab, "");
    up.run(&["run", "default/loud", "--wait"]).expect(0);
    wait_until(DEADLINE, || folder.path("refused").exists());
    drop(up);
    std::fs::remove_file(folder.path("busy")).expect("removed");
    let up = start(&folder, crontab, "");
    let mail = received(&folder);
    assert!(mail.starts_with("From: cron@example.org (Cron Daemon)\nTo: root\nSubject: Cron <"), "{mail}");
    assert!(mail.ends_with("\n\none\ntwo\n"), "{mail}");
    let arguments = std::fs::read_to_string(folder.path("arguments")).expect("read");
    assert_eq!(arguments, "-i -FCronDaemon -oem -f cron@example.org root\n");
    // A mail that was accepted is not sent again by the next start.
    std::fs::remove_file(folder.path("mail")).expect("removed");
    drop(up);
    let up = start(&folder, crontab, "");
    up.run(&["run", "default/loud", "--wait"]).expect(0);
    let second = received(&folder);
    let run = up.records(&["runs", "default/loud"])[0]["run_id"].as_str().expect("an id").to_owned();
    assert!(second.contains(&format!("X-Sexton-Run: {run}")), "{second}");
}

#[test]
fn a_long_output_is_cut_and_names_the_command_for_the_rest() {
    let folder = Folder::new();
    install_sendmail(&folder);
    let crontab = "MAILTO=root\n# sexton: name=long\n@manually seq 1000000\n";
    let up = start(&folder, crontab, "");
    up.run(&["run", "default/long", "--wait"]).expect(0);
    let mail = received(&folder);
    let run = up.records(&["runs", "default/long"])[0]["run_id"].as_str().expect("an id").to_owned();
    assert!(mail.ends_with(&format!("[the mail ends here; the whole output: sexton logs {run}]\n")), "{}", tail(&mail));
    assert!(mail.len() < (1 << 20) + 4096, "{} bytes", mail.len());
}

fn tail(text: &str) -> &str {
    &text[text.floor_char_boundary(text.len().saturating_sub(300))..]
}

const SEVERAL_SMTP: &str = "[channel.a]\ntype = \"smtp\"\naddress = \"a.invalid\"\nfrom = \"a@example.org\"\n\
                         to = [\"a@example.org\"]\n[channel.b]\ntype = \"smtp\"\naddress = \"b.invalid\"\n\
                         from = \"b@example.org\"\nto = [\"b@example.org\"]\n";

#[test]
fn mail_that_cannot_be_sent_is_reported_at_the_start_and_as_an_alert() {
    let folder = Folder::new();
    let configuration = format!(
        "[channel.alerts]\ntype = \"command\"\ncommand = \"/bin/cat >> {}\"\n{SEVERAL_SMTP}",
        folder.text("alert")
    );
    let (crontab, config) = (
        folder.write("tab", "MAILTO=ops@example.org\n# sexton: name=loud\n@manually echo x\n"),
        folder.write("sexton.toml", &configuration),
    );
    let mut command = command(&["up", "--crontab", &crontab, "--config", &config]);
    command.env("PATH", "/nonexistent");
    let up = Up::serve(&folder.path("state"), command);
    if std::path::Path::new("/usr/sbin/sendmail").exists() {
        return;
    }
    assert!(up.printed().contains("several smtp channels and no sendmail; write channel = \"NAME\" in [mail]"));
    up.run(&["run", "default/loud", "--wait"]).expect(0);
    let alert = folder.path("alert");
    let names_mail = || std::fs::read_to_string(&alert).is_ok_and(|text| text.contains("cannot be mailed"));
    wait_until(DEADLINE, names_mail);
}

#[test]
fn owner_mails_entries_without_mailto_to_their_user() {
    let folder = Folder::new();
    install_sendmail(&folder);
    let up = start(&folder, "# sexton: name=loud\n@manually echo x\n", "[mail]\nowner = true\n");
    up.run(&["run", "default/loud", "--wait"]).expect(0);
    let mail = received(&folder);
    assert!(mail.contains(&format!("\nTo: {}\n", keeper_user())), "{mail}");
}
