use super::*;

fn programs(text: &str) -> Programs {
    Programs::of(&Command::Shell(text.to_owned()))
}

fn check(text: &str, expected: &[&str]) {
    assert_eq!(programs(text).names().collect::<Vec<_>>(), expected, "{text}");
}

#[test]
fn programs_of_a_shell_command_are_found_behind_wrappers_and_assignments() {
    check("python3 /srv/x.py --all", &["python3", "x.py"]);
    check("cd /srv && ./venv/bin/python3 -m app >> /var/log/app.log 2>&1", &["cd", "python3"]);
    check("A=1 B='x y' nice -n 10 timeout -k 5s 10m /usr/bin/python", &["nice", "timeout", "python"]);
    check("sudo -u postgres env X=1 pg_dump db | gzip > f.gz", &["sudo", "env", "pg_dump", "gzip"]);
    check("flock -n /run/x.lock /opt/run.sh", &["flock", "run.sh"]);
    check("flock /run/x.lock -c 'python3 a.py'", &["flock", "python3", "a.py"]);
    check("bash -ec 'echo \"a b\"; python3 x'", &["bash", "echo", "python3"]);
    check("if test -f /x; then ruby y.rb; fi", &["test", "ruby", "y.rb"]);
    check("[ -x /a ] && x=$(date +%s) # python3", &["[", "date"]);
    check("env -S 'python3 -u' x", &["env", "python3"]);
    check("echo 'python3; perl'", &["echo"]);
    check("echo \"$(python3 x)\" `ruby y`", &["echo", "python3", "ruby"]);
    check("2>/dev/null cmd", &["cmd"]);
    check("bash <<'E'\npython3 x\nE\nruby y", &["bash", "python3", "ruby"]);
    check("cat <<E\npython3 x\nE", &["cat"]);
    check("", &[]);
    check("'unclosed", &["unclosed"]);
}

#[test]
fn programs_are_found_in_containers_on_other_hosts_and_behind_supervisors() {
    for (text, expected) in [
        ("docker run --rm -v /a:/b --name x -e A=1 python:3 python3 /x.py", "docker python python3 x.py"),
        ("docker run --rm --network=host ghcr.io/restic/restic:0.17 backup /d", "docker restic backup"),
        ("docker --context c exec -u app -it web php artisan x", "docker php"),
        ("docker compose -f a.yml --profile p run --rm web python3 x.py", "docker python3 x.py"),
        ("docker compose exec -T db pg_dump app | gzip", "docker pg_dump gzip"),
        ("docker-compose run app ruby x.rb", "docker-compose ruby x.rb"),
        ("podman exec web sh -c 'perl x.pl; true'", "podman sh perl x.pl true"),
        ("kubectl -n prod exec deploy/web -c app -- python3 manage.py x", "kubectl python3 manage.py"),
        ("ssh -p 22 -o BatchMode=yes root@db1 'cd /srv && pg_dump x | gzip'", "ssh cd pg_dump gzip"),
        ("ssh db1 mysqldump --all", "ssh mysqldump"),
        ("ssh db1 <<E\nperl x.pl\nE", "ssh perl x.pl"),
        ("su - postgres -c 'pg_dump x'", "su pg_dump"),
        ("su -s /bin/sh -c 'php x.php' www-data", "su php x.php"),
        ("su --command='php x.php' www-data", "su php x.php"),
        ("runuser -u app -- python3 x", "runuser python3"),
        ("ls | xargs -0 -n 1 -P 4 python3 x.py", "ls xargs python3 x.py"),
        ("find /a -name '*.x' -exec perl x.pl {} \\; -exec ruby y {} +", "find perl x.pl ruby"),
        ("parallel -j 4 python3 x.py {} ::: a b", "parallel python3 x.py"),
        ("ls | parallel 'gzip {}; ruby x'", "ls parallel gzip ruby"),
        ("watch -n 5 'python3 x | tail'", "watch python3 tail"),
        ("systemd-run --wait -p MemoryMax=1G --uid app python3 x", "systemd-run python3"),
        ("systemd-cat -t job -p info perl x", "systemd-cat perl"),
        ("cronic python3 x", "cronic python3"),
        ("run-one ruby x", "run-one ruby"),
        ("chpst -u app -e env python3 x", "chpst python3"),
        ("gosu app python3 x", "gosu python3"),
        ("setuidgid app python3 x", "setuidgid python3"),
        ("time sudo nice ssh h 'docker exec c su -c \"python3 x\"'", "time sudo nice ssh docker su python3"),
        ("sexton exec --rules p -- python3 x", "sexton python3"),
        ("eval 'python3 x'", "eval python3"),
    ] {
        check(text, &expected.split(' ').collect::<Vec<_>>());
    }
}

#[test]
fn a_command_without_a_shell_is_read_word_by_word() {
    let argv = |words: &[&str]| {
        let programs = Programs::of(&Command::Argv(words.iter().map(|word| (*word).to_owned()).collect()));
        programs.names().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(argv(&["/usr/bin/env", "python3", "x.py"]), ["env", "python3", "x.py"]);
    assert_eq!(argv(&["a b;python3", "c"]), ["a b;python3"]);
    assert_eq!(argv(&["ssh", "db1", "pg_dump x | gzip"]), ["ssh", "pg_dump", "gzip"]);
    assert!(argv(&[]).is_empty());
}

#[test]
fn only_programs_of_the_machine_itself_are_local() {
    let local = |text: &str| {
        let programs = programs(text);
        programs.iter().filter(|program| program.is_local).map(|program| program.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        local("sudo /srv/a; ssh h /srv/b; docker run i /srv/c; su -c /srv/d"),
        ["sudo", "a", "ssh", "docker", "su", "d"]
    );
}

/// What arrives at standard output, where `data` and `dump` write data: `text data copiers`.
fn flow(text: &str) -> String {
    let programs = programs(text);
    let flow = programs.flow(&|program| ["data", "dump", "grep"].contains(&program.name.as_str()));
    let names = |numbers: &[usize]| {
        let name = |number: &usize| programs.iter().nth(*number).expect("a program").name.clone();
        numbers.iter().map(name).collect::<Vec<_>>().join(",")
    };
    format!("text={} data={} copiers={}", names(&flow.text), names(&flow.data), names(&flow.copiers))
}

#[test]
fn data_and_messages_are_distinguished_at_the_end_of_every_pipe() {
    for (text, expected) in [
        ("dump x", "text= data=dump copiers="),
        ("dump x > f", "text= data= copiers="),
        ("dump x; python3 y", "text=python3 data=dump copiers="),
        ("dump x | tee f; true", "text= data=dump copiers=tee"),
        ("dump x | gzip", "text=gzip data= copiers="),
        ("python3 x | grep y", "text=python3,grep data= copiers="),
        ("python3 x | tee f", "text=python3,tee data= copiers="),
        ("grep x f | data", "text= data=grep,data copiers="),
        ("dump x 2>&1", "text=dump data= copiers="),
        ("(dump x; echo y) | tee f", "text=echo,tee data=dump copiers="),
        ("cd /x && set -e; sudo -u a dump x || exit 1", "text= data=dump copiers="),
        ("ssh h 'dump x'", "text= data=dump copiers="),
        ("{ dump x; python3 y; } > f", "text= data= copiers="),
        ("x=$(python3 y); dump x", "text= data=dump copiers="),
        ("if dump x; then true; else echo failed; fi", "text=echo data=dump copiers="),
        ("find . -exec grep x {} +", "text= data=grep copiers="),
    ] {
        assert_eq!(flow(text), expected, "{text}");
    }
}

#[test]
fn the_first_line_of_a_file_names_its_interpreter() {
    for (head, expected) in [
        ("#!/usr/bin/python3\nx", Some("python3")),
        ("#! /usr/bin/env python3", Some("python3")),
        ("#!/usr/bin/env -S A=1 perl -w\n", Some("perl")),
        ("#!/bin/sh -e\n", Some("sh")),
        ("#!\n", None),
        ("\x7fELF", None),
        ("", None),
    ] {
        assert_eq!(interpreter_of(head.as_bytes()).as_deref(), expected, "{head}");
    }
}
