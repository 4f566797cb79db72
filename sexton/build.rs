//! Links the released program at a fixed address. A keeper is started for every run, and a position-independent program
//! of this size spends most of its start on relocations: 2.4 to 3.3 ms instead of 0.9 to 1.1 ms, measured.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let is_release = variable("PROFILE") == "release";
    if is_release && variable("CARGO_CFG_TARGET_OS") == "linux" && variable("CARGO_CFG_TARGET_ENV") == "gnu" {
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}
