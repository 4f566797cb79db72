//! The choice of rule packs by what the runner reads in the files of a command.

use std::fs;

use domain::run::Outcome;

use crate::world::{World, shell};

#[test]
fn auto_chooses_packs_by_the_first_line_of_a_file_and_leaves_data_alone() {
    let mut world = World::new();
    world.start();
    // No name of the command shows the language: `load` in the job's PATH, `sh` with a path.
    let load = world.path("load");
    fs::write(
        &load,
        "#!/usr/bin/env python3\nimport sys\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    \
                      import traceback\n    traceback.print_exc()\n",
    )
    .expect("written");
    fs::set_permissions(&load, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let folder = load.parent().expect("a folder").display().to_string();
    let mut by_path = shell(&format!("{} && true", load.display()));
    let mut by_name = shell("exec load");
    by_name.env.insert("PATH".into(), format!("{folder}:/usr/bin:/bin"));
    let mut elsewhere = shell("echo nothing; : ssh host");
    for job in [&mut by_path, &mut by_name, &mut elsewhere] {
        job.rules = vec!["auto".into()];
    }
    for (job, named) in [(by_path, load.display().to_string()), (by_name, "load".to_owned())] {
        let order = world.order(job);
        let report = world.report(&order.run_id);
        assert_eq!(report.interpreters.get(&named).map(String::as_str), Some("python3"), "{:?}", report.interpreters);
        assert!(report.pack_digests.contains_key("python"), "{:?}", report.pack_digests);
        assert_eq!(report.outcome, Outcome::FalseSuccess, "{}", report.reason);
    }
    let report = {
        let order = world.order(elsewhere);
        world.report(&order.run_id)
    };
    assert!(!report.pack_digests.contains_key("python"), "{:?}", report.pack_digests);
    world.end();
}
