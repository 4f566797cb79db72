//! Runs every command and reads every file of README.md, in order, like a new user.

use crate::docs::try_page;

#[test]
fn every_command_of_the_readme_works() {
    let (commands, _) = try_page("README.md");
    assert!(commands >= 5, "README.md has commands");
}
