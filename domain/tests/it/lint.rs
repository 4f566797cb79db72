//! The warnings of `lint`: lines that cron accepts and that do not do what was intended, and lines of real crontabs
//! that must not cause any.

use domain::crontab::{Format, HostNames, Options, parse, read};
use domain::fault::Level;

/// The warnings and faults of a crontab, as they are printed.
fn lint(text: &str, format: Format) -> Vec<String> {
    parse("crontab", text, format).1.0.iter().map(ToString::to_string).collect()
}

/// Expects exactly one warning, on the last line, with these parts.
fn check(text: &str, format: Format, parts: &[&str]) {
    let line = text.lines().count();
    let found = lint(&format!("{text}\n"), format);
    assert_eq!(found.len(), 1, "{text}: {found:#?}");
    assert!(found[0].starts_with(&format!("crontab:{line}: warning: ")), "{text}: {}", found[0]);
    for part in parts {
        assert!(found[0].contains(part), "{text}: {part}: {}", found[0]);
    }
}

fn check_user(text: &str, parts: &[&str]) {
    check(text, Format::User, parts);
}

fn check_silent(text: &str, format: Format) {
    assert_eq!(lint(&format!("{text}\n"), format), Vec::<String>::new(), "{text}");
}

#[test]
fn users_and_programs_of_the_host_decide_about_the_first_word() {
    let host_names = HostNames {
        is_account: |name| ["deploy", "backup", "svc.web", "sat"].contains(&name),
        is_program: |name, path| name == "backup" && path.is_none() || name == "tue",
    };
    let options = Options { host_names: Some(host_names), ..Options::new("crontab", Format::User) };
    let warned = |text: &str| {
        let faults = read("crontab", text, &options).faults;
        faults.0.iter().map(|fault| fault.value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        warned("0 5 * * * deploy /opt/x\n0 6 * * * deploy y\n0 6 * * * svc.web y\n"),
        ["deploy", "deploy", "svc.web"]
    );
    // A program, too; no user; an option or nothing follows.
    assert!(warned("0 5 * * * backup /srv\n0 5 * * * www /x\n0 5 * * * deploy\n0 5 * * * deploy -v\n").is_empty());
    assert_eq!(warned("PATH=/opt/bin\n0 5 * * * backup /srv\n"), ["backup"]);
    // Days that are programs or users.
    assert_eq!(warned("0 0 5 * * mon /x\n0 0 5 * * tue /x\n0 0 5 * * wed\n0 0 5 * * thu -x\n"), ["mon"]);
    assert_eq!(warned("0 0 5 * * sat /x\n"), ["sat"], "a user, and no day");
    assert!(read("crontab", "0 0 5 * * sat /x\n", &options).faults.to_string().contains("has no user column"));
}

#[test]
fn a_user_column_with_a_user_that_the_host_lacks_is_a_warning() {
    let host_names = HostNames { is_account: |name| name == "deploy", is_program: |_, _| true };
    let options = Options { host_names: Some(host_names), ..Options::new("crontab", Format::System) };
    let text = "0 5 * * * deploy /opt/x\n0 6 * * * deplyo /opt/y\n@daily gone /opt/z\n";
    let faults = read("crontab", text, &options).faults.to_string();
    let wanted = "crontab:2: warning: `deplyo`: this host has no user of that name, so every run would fail; correct it, \
                  or create the user\n\
                  crontab:3: warning: `gone`: this host has no user of that name";
    assert!(faults.starts_with(wanted) && faults.lines().count() == 2, "{faults}");
    // Without a host, as for a file of another machine, nothing is known.
    assert_eq!(read("crontab", text, &Options::new("crontab", Format::System)).faults.to_string(), "");
}

#[test]
fn six_fields_are_shown_as_five() {
    for (line, program, five) in [
        ("0 0 12 * * mon java -jar x", "`mon`", "`0 12 * * mon java -jar x`"),
        ("30 6 1 * * sun /x", "`sun`", "`6 1 * * sun /x`"),
        ("0 0 12 * * MON-FRI java -jar x", "`MON-FRI`", "`0 12 * * MON-FRI java -jar x`"),
        ("30 6 1 * * ? /x", "`?`", "`6 1 * * * /x`"),
        ("0 15 10 * * 1-5 /x -v", "`1-5`", "`15 10 * * 1-5 /x -v`"),
        ("0 10 2 * * 0 /x", "`0`", "`10 2 * * 0 /x`"),
        ("0 0 4 1,12 * SUN,TUE /x", "`SUN,TUE`", "`0 4 1,12 * SUN,TUE /x`"),
        ("0 0 1 1 * MON /x", "`MON`", "`0 1 1 * MON /x`"),
        ("0 0 12 1 * MON#2 /x", "`MON#2`", "`0 12 1 * MON#2 /x`"),
        ("0 0 12 1 * 5L /x", "`5L`", "`0 12 1 * 5L /x`"),
        ("0 15 10 1 * ? 2027 /x", "`?`", "`15 10 1 * * /x`"),
        ("30 2 * * 1 2027 /x", "`2027`", "`30 2 * * 1 /x`"),
        ("0 12 * * * 2026-2030 /x", "`2026-2030`", "`0 12 * * * /x`"),
        ("0 12 * * * 2026/2 /x", "`2026/2`", "`0 12 * * * /x`"),
        ("0 0 12 * * Monday /x", "`Monday`", "`0 12 * * MON /x`"),
        ("0 0 12 * * monday-friday /x", "`monday-friday`", "`0 12 * * MON-FRI /x`"),
        ("0 0 12 * * Mon /x", "`Mon`", "`0 12 * * Mon /x`"),
        ("0 0 2 * * */2 /x", "six fields", "`0 2 * * */2 /x`"),
        ("0 */5 * * * * /x", "six fields", "`*/5 * * * * /x`"),
        ("*/10 * * * * * /x", "six fields", "`@every 10s /x`"),
        ("30 2 * * * * root /x", "six fields", "`30 2 * * * root /x`"),
    ] {
        if program == "six fields" {
            let found = lint(&format!("{line}\n"), Format::User);
            assert!(found.len() == 1 && found[0].contains(program) && found[0].contains(five), "{line}: {found:?}");
        } else {
            check_user(line, &["looks like six fields", program, five]);
        }
    }
    let found = lint("0 30 2 * * MON /x\n", Format::User);
    assert!(
        found.iter().any(|fault| fault.contains("`30 2 * * MON /x`")),
        "the fault of the hour is no help: {found:?}"
    );
    check(
        "0 0 12 * * MON-FRI root java",
        Format::System,
        &["`MON-FRI`", "as the user", "`0 12 * * MON-FRI root java`"],
    );
    for line in
        ["0 12 * * 1 7z a x y", "0 12 * * 1 sat --all", "0 12 * * 1 L-tool", "0 12 * * 1 mon-service", "@daily 7z a x"]
    {
        check_silent(line, Format::User);
    }
}

#[test]
fn a_user_column_in_the_crontab_of_a_user_is_shown() {
    check_user("0 5 * * * root /opt/x", &["`root`", "no user column", "`/opt/x`", "--system"]);
    check_user("@daily www-data php /srv/cron.php", &["`www-data`", "`php /srv/cron.php`"]);
    check_silent("0 5 * * * root /opt/x", Format::System);
    check_silent("0 5 * * * root -b -q fit.C", Format::User);
}

#[test]
fn values_that_cron_does_not_expand_are_shown() {
    for (line, parts) in [
        ("PATH=$PATH:/opt/bin", ["$PATH", "expands nothing"]),
        ("PATH=/opt/bin:${PATH}", ["$PATH", "expands nothing"]),
        ("DIR = \"$HOME/data\"", ["$HOME", "DIR"]),
        ("TODAY=$(date +%F)", ["$(...)", "TODAY"]),
        ("HOME=~/x", ["does not expand ~", "whole path"]),
        ("HOME=~bob/x", ["does not expand ~", "whole path"]),
        ("HOME=~bob", ["does not expand ~", "whole path"]),
        ("PATH=/bin:~bob/bin", ["does not expand ~", "whole path"]),
        ("FOO=`date`", ["`...`", "expands nothing"]),
        ("FOO=\"x-`date +%F`\"", ["`...`", "expands nothing"]),
        ("BACKUP=~", ["does not expand ~", "whole path"]),
        ("PATH=/bin:~/bin", ["does not expand ~", "whole path"]),
        ("LEVEL=9 # of ten", ["part of the value", "LEVEL"]),
    ] {
        check_user(line, &parts);
    }
    check_user("A=1\nB=$A/x", &["$A", "B"]);
    for line in [
        "PATH=/usr/bin:/bin",
        "SECRET=pa$Word",
        "MAILTO=$LOGNAME",
        "X=a~b",
        "X=~5",
        "X=a`b",
        "PRICE=5$",
        "HOME=/home/a",
        "COLOR=#fff",
    ] {
        let found: Vec<String> = lint(&format!("{line}\n"), Format::User);
        assert!(found.iter().all(|warning| warning.contains("mail")), "{line}: {found:?}");
    }
}

#[test]
fn every_minute_of_single_hours_or_days_is_counted() {
    for (line, parts) in [
        ("* 2 * * * a", ["60 times between 02:00 and 02:59", "once is `0 2 * * *`"]),
        ("* 2,14 * * 1-5 a", ["60 times between 02:00 and 02:59, and in 1 more hour", "`0 2,14 * * 1-5`"]),
        ("* */6 * * * a", ["60 times between 00:00 and 00:59, and in 3 more hours", "`0 */6 * * *`"]),
        ("*/1 23 * * * a", ["60 times between 23:00 and 23:59", "`0 23 * * *`"]),
        ("* * 1 * * a", ["1440 times", "`0 0 1 * *`"]),
        ("* * * * 0 a", ["1440 times", "`0 0 * * 0`"]),
    ] {
        check_user(line, &parts);
    }
    for line in
        ["* * * * * a", "* 8-18 * * * a", "* 22-23,0-5 * * * a", "* * * * 1-5 a", "*/5 2 * * * a", "* */1 * * * a"]
    {
        check_silent(line, Format::User);
    }
}

#[test]
fn a_command_that_is_left_in_the_background_is_shown() {
    for line in
        ["0 1 * * * a &", "0 1 * * * nohup a -b&", "0 1 * * * cd /x && a &", "0 1 * * * ( a & )", "0 1 * * * a & # b"]
    {
        check_user(line, &["`&`", "remove the &"]);
    }
    for line in ["0 1 * * * a && b", "0 1 * * * (sleep 6; b) & a", "0 1 * * * a '&'", "0 1 * * * a \\&"] {
        check_silent(line, Format::User);
    }
}

#[test]
fn output_that_does_not_arrive_is_shown() {
    for (command, value, message) in [
        ("a >/dev/null 2>&1", ">/dev/null 2>&1", "the output is discarded"),
        ("a > /dev/null 2> /dev/null", "> /dev/null 2> /dev/null", "the output is discarded"),
        ("a 1>/dev/null 2>&1; true", "1>/dev/null 2>&1", "the output is discarded"),
        ("a >/dev/null 2>&1 || true", ">/dev/null 2>&1", "the output is discarded"),
        ("[ -x /a ] && /a >>/dev/null 2>&1", ">>/dev/null 2>&1", "the output is discarded"),
        ("( cd /x; a ) >/dev/null 2>&1", ">/dev/null 2>&1", "the output is discarded"),
        ("a >/dev/null", ">/dev/null", "the standard output is discarded"),
        ("a | tee -a l | grep y", "| tee", "exit code is that of grep"),
        ("a 2>/dev/null", "2>/dev/null", "the error messages are discarded"),
        ("a >> /var/log/a.log 2>&1", ">> /var/log/a.log 2>&1", "goes to a file"),
        ("a | tee /var/log/a.log", "| tee", "exit code is that of tee"),
        ("a 2>&1 | tee -a \"$LOG\"", "| tee", "exit code is that of tee"),
        ("a 2>&1 | logger -t a", "| logger", "exit code is that of logger"),
        ("a | /usr/bin/mail -s x ops", "| mail", "exit code is that of mail"),
    ] {
        check_user(&format!("0 1 * * * {command}"), &[&format!("`{value}`"), message]);
    }
    check_user("SHELL=/bin/bash\n0 1 * * * a &>/dev/null", &["`&>/dev/null`", "the output is discarded"]);
    for command in [
        "a | grep tee | sort",
        "a > /var/log/a.log",
        "command -v a >/dev/null 2>&1 && a",
        "pgrep a >/dev/null 2>&1 || a",
        "a 2>&1 >/dev/null | grep -v x",
        "echo '>/dev/null 2>&1'",
        "if [ -x /a ]; then /a >/dev/null; fi",
        "a 2>&1",
    ] {
        check_silent(&format!("0 1 * * * {command}"), Format::User);
    }
}

#[test]
fn bash_syntax_under_sh_is_shown() {
    for (command, construct) in [
        ("[[ -x /a ]] && /a", "[["),
        ("source venv/bin/activate && a", "source"),
        ("sleep $((RANDOM \\% 60)); a", "$RANDOM"),
        ("sleep ${RANDOM}s", "$RANDOM"),
        ("diff <(a) <(b)", "<( )"),
        ("a &> /tmp/x", "&>"),
        ("a |& b", "|&"),
        ("a <<< x", "<<<"),
        ("cp x.{a,b} /y", "{a,b}"),
        ("for i in {1..5}; do a; done", "{1..5}"),
        ("a $'x\\\\n'", "$' '"),
        ("echo -e x", "echo -e"),
        ("[ \"$X\" == y ] && a", "== in ["),
        ("set -o pipefail; a", "pipefail"),
        ("x=(1 2); a", "=( )"),
        ("a \"${X//a/b}\"", "${ / }"),
        ("a ${X:0:3}", "${ :n }"),
        ("a ${X^^}", "${ ^ }"),
        ("function f { a; }; f", "function"),
        ("(( X > 1 )) && a", "(( ))"),
        ("pushd /x; a", "pushd"),
        ("a > x-$HOSTNAME", "$HOSTNAME"),
    ] {
        let found = lint(&format!("0 1 * * * {command}\n"), Format::User);
        let about_bash: Vec<&String> = found.iter().filter(|warning| warning.contains("syntax of bash")).collect();
        assert!(about_bash.len() == 1 && about_bash[0].contains(&format!("`{construct}`")), "{command}: {found:?}");
        assert!(about_bash[0].contains("SHELL=/bin/bash"), "{command}");
        let in_bash = lint(&format!("SHELL=/bin/bash\n0 1 * * * {command}\n"), Format::User);
        assert!(!in_bash.iter().any(|warning| warning.contains("syntax of bash")), "{command}: {in_bash:?}");
    }
    for command in [
        "[ \"$(date +\\%u)\" = 5 ] && a",
        "bash -c 'source x; [[ -x y ]]'",
        "awk '{print $1,$2}' x",
        "find . -name '*.{a,b}' -exec rm {} \\;",
        "a ${X:-y} ${X:+z} ${X%.*} ${X##*/} $((1 + 2))",
        ". ./env; a",
        "( ( a ) )",
        "a \"{x,y}\"",
    ] {
        let found = lint(&format!("0 1 * * * {command}\n"), Format::User);
        assert!(found.iter().all(|warning| !warning.contains("syntax of bash")), "{command}: {found:?}");
    }
    let random = lint("RANDOM=4\n0 1 * * * sleep $RANDOM\n", Format::User);
    assert_eq!(random, Vec::<String>::new());
}

#[test]
fn a_password_in_a_command_is_shown_without_the_password() {
    for (command, option) in [
        ("mysqldump -u root -pS3cret app", "-p"),
        ("/usr/bin/mysql --password=S3cret app", "--password"),
        ("wget --http-password S3cret x", "--http-password"),
        ("PGPASSWORD=S3cret pg_dump app", "PGPASSWORD"),
        ("cd /x && env MYSQL_PWD='S3cret' mysqldump app", "MYSQL_PWD"),
        ("curl -u ops:S3cret x", "-u"),
        ("curl https://ops:S3cret@example.net/x", "https://...@"),
        ("curl 'https://x?token=S3cret'", "?token="),
        ("curl -s \"https://x/y?a=b&access_token=S3cret\"", "?access_token="),
        ("curl -H 'Authorization: Bearer S3cret' x", "Authorization:"),
        ("sshpass -p S3cret ssh a", "-p"),
        ("redis-cli -a S3cret save", "-a"),
        ("restic --api-key=S3cret", "--api-key"),
    ] {
        let found = lint(&format!("0 1 * * * {command}\n"), Format::User);
        assert_eq!(found.len(), 1, "{command}: {found:?}");
        assert!(found[0].contains(&format!("`{option}`: a password")), "{command}: {}", found[0]);
        assert!(!found[0].contains("S3cret"), "{command}: {}", found[0]);
    }
    for command in [
        "mysqldump --defaults-file=/etc/mysql/backup.cnf app",
        "mysqldump -p\"$PASS\" app",
        "mysqldump -p app",
        "a --password-file=/etc/x",
        "a --password \"$(cat /etc/x)\"",
        "mkdir -p a/b",
        "ssh -p 2222 host a",
        "curl -u ops: x",
        "curl https://example.net/a:b@c",
        "a --token-file x",
        "curl \"https://x?token=$TOKEN\"",
        "curl 'https://x?tokens=9&page=2'",
        "rsync -a user@host:/x /y",
    ] {
        check_silent(&format!("0 1 * * * {command}"), Format::User);
    }
}

#[test]
fn a_command_that_the_kernel_refuses_is_shown() {
    check_user(&format!("0 1 * * * a {}", "x".repeat(131_070)), &["has 131072 bytes", "script"]);
    check_silent(&format!("0 1 * * * a {}", "x".repeat(131_069)), Format::User);
}

#[test]
fn the_lines_of_an_anacrontab_are_shown_as_entries() {
    let faults =
        lint("1\t5\tcron.daily\trun-parts --report /etc/cron.daily\n7 10 cron.weekly run-parts /x\n", Format::User);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("anacrontab") && faults[0].contains("`@daily run-parts --report /etc/cron.daily`"));
    assert!(faults[1].contains("`@weekly run-parts /x`"), "{}", faults[1]);
    check_user("@monthly 45 cron.monthly run-parts /x", &["anacrontab", "`@monthly run-parts /x`"]);
    check_user("START_HOURS_RANGE=3-22", &["only anacron"]);
    let found = lint("1 2 L-30 2 * x\n", Format::User);
    assert!(!found.iter().any(|message| message.contains("anacrontab")), "{found:?}");
    for line in ["0 5 H * * backup", "@daily 7z backup.7z data x", "1 5 * * * a"] {
        check_silent(line, Format::User);
    }
}

#[test]
fn near_misses_of_a_directive_are_shown() {
    for (comment, written) in [
        ("# sexton name=x", "`# sexton: name=x`"),
        ("# Sexton: name=x timeout=2h", "`# sexton: name=x timeout=2h`"),
        ("#SEXTON:name=x", "`# sexton: name=x`"),
        ("## sexton: name=x", "`# sexton: name=x`"),
        ("# sexton; retries.max=2", "`# sexton: retries.max=2`"),
        ("# sextn: name=x", "`# sexton: name=x`"),
        ("# sexon name=x", "`# sexton: name=x`"),
        ("# sexton-defaults group=db", "`# sexton-defaults: group=db`"),
        ("# sexton-default: timeout=2h", "`# sexton-defaults: timeout=2h`"),
        ("# sexton : name=x", "`# sexton: name=x`"),
        ("# sexton : tiemout=2h", "`# sexton: tiemout=2h`"),
        ("# sextons: name=x", "`# sexton: name=x`"),
    ] {
        check_user(&format!("0 2 * * * a\n{comment}"), &[written]);
        let jobs = parse("crontab", format!("{comment}\n0 2 * * * a\n"), Format::User).0.len();
        assert_eq!(jobs, 1, "{comment}");
    }
    check_user("0 1 * * * a # sexton: name=x", &["on the line above", "`# sexton: name=x`"]);
    for comment in [
        "# sexton runs this file",
        "# sexton : the backup job of Ann",
        "# sexton-default: see the manual",
        "# Sexton reads a=b",
        "# see sexton: name=x",
        "# section: name=x",
        "# sexton name is the host",
        "# name=x",
    ] {
        check_silent(&format!("0 2 * * * a\n{comment}"), Format::User);
        check_silent(&format!("{comment}\n0 2 * * * a"), Format::User);
    }
}

#[test]
fn lines_of_real_crontabs_cause_no_warning() {
    for line in [
        "17 *\t* * *\troot\tcd / && run-parts --report /etc/cron.hourly",
        "25 6\t* * *\troot\ttest -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }",
        "*/5 *\t* * *\troot\t[ -x /usr/sbin/dma ] && /usr/sbin/dma -q",
        "09,39 *     * * *     root   [ -x /usr/lib/php/sessionclean ] && if [ ! -d /run/systemd/system ]; then \
         /usr/lib/php/sessionclean; fi",
        "5-55/10 * * * * root command -v debian-sa1 > /dev/null && debian-sa1 1 1",
        "0 */12 * * * root test -x /usr/bin/certbot -a \\! -d /run/systemd/system && perl -e 'sleep int(rand(43200))' && \
         certbot -q renew --no-random-sleep-on-renew",
        "57 0 * * 0 root if [ -x /usr/share/mdadm/checkarray ] && [ $(date +\\%d) -le 7 ]; then \
         /usr/share/mdadm/checkarray --cron --all --idle --quiet; fi",
        "0 * * * *      root    test -x /usr/sbin/tigercron && { [ -r \"$DEFAULT\" ] && . \"$DEFAULT\" ; nice -n$NICETIGER \
         /usr/sbin/tigercron -q ; }",
        "30 3 * * 0 root test -e /run/systemd/system || SERVICE_MODE=1 /usr/lib/e2fsprogs/e2scrub_all_cron",
    ] {
        check_silent(line, Format::System);
    }
}

#[test]
fn letters_are_accepted_with_a_warning() {
    for (schedule, part) in [
        ("0 0 L * *", "L is the last day of the month"),
        ("0 0 LW * *", "L is the last day of the month"),
        ("0 0 15W * *", "15W the weekday nearest to the 15th"),
        ("0 0 * * 5L", "5L is the last Friday"),
        ("0 0 * * SUN#1", "5#2 the second Friday"),
    ] {
        check_user(&format!("{schedule} a"), &["cron does not know L, W and #", part]);
    }
}

#[test]
fn one_reading_finds_the_faults_of_zone_schedule_and_directive() {
    let found = lint("# sexton: zone=Mars/Olympus tiemout=1h\n61 24 * 13 8 a\n", Format::User);
    for part in ["unknown key", "Mars/Olympus", "minute 61", "hour 24", "month 13", "day of week 8"] {
        assert!(found.iter().any(|fault| fault.contains(part)), "{part}: {found:?}");
    }
    let toml = "[[job]]\nname = \"a\"\nzone = \"Mars\"\nschedule = \"61 * * * *\"\ncommand = \"a\"\n";
    let found: Vec<(u32, Level)> =
        domain::jobs_file::parse("jobs.toml", toml).1.0.iter().map(|fault| (fault.line, fault.level)).collect();
    assert_eq!(found, [(3, Level::Fault), (4, Level::Fault)]);
}

#[test]
fn a_number_out_of_range_is_called_that() {
    let toml = "[[job]]\nname = \"a\"\nschedule = \"@daily\"\ncommand = \"a\"\nalert = { after = 0 }\n\
                retries = { max = 1000, backoff = 0.5 }\nsuccess_exit_codes = [300]\n";
    let found: Vec<String> = domain::jobs_file::parse("jobs.toml", toml).1.0.iter().map(ToString::to_string).collect();
    for part in [
        "`0`: `after` is out of range; write a whole number from 1",
        "`1000`: `max` is out of range; write a whole number from 0",
        "`0.5`: `backoff` is out of range; write a number from 1",
        "`300`: `success_exit_codes` is out of range; write a list of whole numbers from 0 to 255",
    ] {
        assert!(found.iter().any(|fault| fault.contains(part)), "{part}: {found:?}");
    }
    let directive = lint("# sexton: alert.after=0\n0 1 * * * a\n", Format::User);
    assert!(directive[0].contains("`after` is out of range"), "{directive:?}");
}
