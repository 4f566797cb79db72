//! What a user reads about the packs and limits of a job.

use crate::driver::{Folder, Up};

#[test]
fn a_job_and_its_run_name_the_packs_of_auto_and_limits_fail_a_run_that_prints_too_little() {
    let folder = Folder::new();
    let jobs = "[[job]]\nname = \"a\"\nschedule = \"@manually\"\ncommand = \"true; exec python3 -c pass\"\n\
                [[job]]\nname = \"quiet\"\nschedule = \"@manually\"\nrules = []\nmin_lines = 2\ncommand = \"echo x\"\n";
    folder.write("jobs.toml", jobs);
    let up = Up::start(&folder.path("state"), &["--jobs", &folder.text("jobs.toml")]);
    let job = up.run(&["job", "show", "default/a"]).expect(0).text();
    let rows: Vec<String> = job.lines().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for row in ["pack default: for every job", "pack python: runs python3", "pack shell: the command is for a shell"] {
        assert!(rows.iter().any(|shown| shown == row), "{row}: {job}");
    }
    let run_id = up.run(&["run", "default/a", "--wait"]).expect(0).text();
    let run_id = run_id.lines().next().expect("a name").trim().to_owned();
    let shown = up.run(&["show", &run_id]).expect(0).text();
    let rows: Vec<String> = shown.lines().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(rows.iter().any(|row| row == "pack python: runs python3"), "{shown}");
    let record = up.run(&["show", &run_id, "--json"]).expect(0).records().remove(0);
    assert!(record["packs"].as_array().is_some_and(|packs| packs.contains(&"python".into())), "{record}");

    let shown = up.run(&["run", "default/quiet", "--wait"]).expect(1).text();
    assert!(shown.contains("exit code 0, but printed 1 line, expected at least 2"), "{shown}");
}
