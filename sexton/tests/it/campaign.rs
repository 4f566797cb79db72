//! Runs misbehaving jobs while their environment fails at random; afterwards every run, line and alert must be
//! accounted for. `SEXTON_CAMPAIGN_SEED=N` repeats the choices of a failed test, which prints its seed.
//! `SEXTON_CAMPAIGN_SECONDS=N` sets the duration. Kills at labelled steps need the feature `runner/crash_points`.

mod shipped;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use testbed::{Proxy, Rsyslog, RsyslogOptions, SmallDisk};

use crate::driver::{Folder, Up, signal};
use crate::evidence::pager;

/// Default duration of the failures; the checks that follow take about as long.
const SECONDS_DEFAULT: u64 = 60;

/// Size of the disk. Chosen: holds the output of ten minutes and is small against the machine's memory.
const DISK_BYTES: u64 = 256 << 20;

/// The steps of `keeper/src/crash.rs`.
const LABELS: [&str; 20] = [
    "received",
    "claimed",
    "ordered",
    "deleted",
    "spawned",
    "locked",
    "starting",
    "launched",
    "started",
    "reaped",
    "recorded",
    "seen",
    "judged",
    "outboxed",
    "told",
    "sent",
    "received_reports",
    "judged_reports",
    "telling",
    "alerted",
];

/// The jobs: name, schedule, script, further fields. `say` prints a line and then appends it to the file `$P`.
const FLEET: [(&str, &str, &str, &str); 10] = [
    ("noisy", "@every 3s", "seq 1 800 | tee -a $P", ""),
    ("silent", "@every 2s", "sleep 0.2", ""),
    ("failing", "@every 3s", "say going; say gone; exit 3", ""),
    ("lying", "@every 4s", "say 'Traceback (most recent call last):'; exit 0", "rules = [\"default\", \"python\"]"),
    ("slow", "@every 3s", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do say line $i; sleep 0.3; done", ""),
    ("stubborn", "@every 5s", "trap '' TERM; say mine; sleep 60", "timeout = \"1s\"\nkill_grace = \"500ms\""),
    ("forking", "@every 5s", "say parent; sleep 3 & say done", ""),
    ("long", "@every 4s", "head -c 300000 /dev/zero | tr '\\0' x | tee -a $P; say", ""),
    ("binary", "@every 3s", "head -c 3000 /dev/urandom | tee -a $P", ""),
    (
        "moody",
        "@every 3s",
        "say mood; [ $(( $(date +%s) / 12 % 2 )) -eq 0 ] || exit 1",
        "retries = { max = 1, delay = \"1s\" }",
    ),
];

/// The failures that were caused, as far as the verdict needs them.
#[derive(Debug, Default)]
struct History {
    log: Vec<String>,
    kills_of_up: usize,
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pause_ms(&mut self, most: usize) {
        std::thread::sleep(Duration::from_millis(self.below(most) as u64));
    }
}

fn number_of(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Prints the seed when the test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SEXTON_CAMPAIGN_SEED={} made these choices", self.0);
        }
    }
}

struct Scene {
    folder: Folder,
    state: PathBuf,
    arguments: Vec<String>,
    proxies: [Proxy; 2],
    disk: SmallDisk,
    up: Option<Up>,
    dice: Dice,
    history: History,
}

#[test]
fn under_random_failures_every_run_line_and_alert_is_accounted_for() {
    let (Some(first), Some(second)) =
        (Rsyslog::start(RsyslogOptions::default()), Rsyslog::start(RsyslogOptions::default()))
    else {
        return;
    };
    let Some(disk) = SmallDisk::mount(DISK_BYTES) else { return };
    let seed = Seed(number_of("SEXTON_CAMPAIGN_SEED").unwrap_or_else(|| u64::from(std::process::id())));
    println!("SEXTON_CAMPAIGN_SEED={}", seed.0);
    let folder = Folder::new();
    let proxies = [Proxy::start(first.tcp()), Proxy::start(second.tcp())];
    let (configuration, alert_file) = pager(&folder);
    let jobs = folder.write("jobs.toml", &fleet(&folder, true));
    let sinks = folder.write("sinks.toml", &sinks(&folder, &proxies));
    let arguments = ["--jobs", &jobs, "--sinks", &sinks, "--config", &configuration].map(str::to_owned).to_vec();
    for name in ["starts", "written"] {
        std::fs::create_dir(folder.path(name)).expect("a folder");
    }
    let state = disk.path().join("state");
    let (dice, history) = (Dice(seed.0), History::default());
    let mut scene = Scene { folder, state, arguments, proxies, disk, up: None, dice, history };
    scene.up = Some(scene.start());

    let seconds = number_of("SEXTON_CAMPAIGN_SECONDS").unwrap_or(SECONDS_DEFAULT);
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        scene.break_something();
        scene.dice.pause_ms(800);
    }

    scene.proxies.iter().for_each(Proxy::pass);
    scene.kill_up();
    scene.folder.write("jobs.toml", &fleet(&scene.folder, false));
    let up = scene.start();
    let verdict = verdict::Verdict {
        state: &scene.state,
        starts: &scene.folder.path("starts"),
        written: &scene.folder.path("written"),
        archive: &scene.folder.path("archive"),
        servers: [&first, &second],
        alert_file: &alert_file,
        kills_of_up: scene.history.kills_of_up,
        log: &scene.history.log,
    };
    verdict.check(up);
}

/// The jobs as a jobs file; at the end without schedules, so that no new runs start.
fn fleet(folder: &Folder, fires: bool) -> String {
    let head = format!(
        "N=$SEXTON_RUN_ID.$SEXTON_ATTEMPT; echo $SEXTON_JOB $SEXTON_NOMINAL >> {}/$N; P={}/$N; \
         say() {{ echo \"$*\"; echo \"$*\" >> $P; }}; ",
        folder.text("starts"),
        folder.text("written")
    );
    let job = |(name, schedule, script, more): &(&str, &str, &str, &str)| {
        let schedule = if fires { schedule } else { "@manually" };
        format!(
            "[[job]]\ngroup = \"c\"\nname = \"{name}\"\nschedule = \"{schedule}\"\n\
             command = '''{head}{script}'''\n{more}\n"
        )
    };
    FLEET.iter().map(job).collect()
}

/// Two sinks whose receivers fail, and a file sink whose content can be checked to the last line.
fn sinks(folder: &Folder, proxies: &[Proxy; 2]) -> String {
    let sink = |(index, proxy): (usize, &Proxy)| {
        format!(
            "[sink.s{index}]\ntype = \"syslog\"\naddress = \"tcp://{}\"\nframing = \"octet_counting\"\n\
             max_line = \"64KiB\"\nretry = {{ initial = \"50ms\", max = \"500ms\" }}\n",
            proxy.address()
        )
    };
    let archive =
        format!("[sink.archive]\ntype = \"file\"\nformat = \"json\"\npath = \"{}\"\n", folder.text("archive"));
    proxies.iter().enumerate().map(sink).chain([archive]).collect()
}

impl Scene {
    fn start(&self) -> Up {
        Up::start(&self.state, &self.arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn start_crashing_at(&self, label: &str) -> Up {
        Up::start_crashing_at(&self.state, &self.arguments.iter().map(String::as_str).collect::<Vec<_>>(), label)
    }

    fn note(&mut self, what: impl Into<String>) {
        self.history.log.push(format!("{} {}", jiff::Timestamp::now(), what.into()));
    }

    fn kill_up(&mut self) {
        if let Some(up) = self.up.take() {
            assert!(!up.printed().contains("panicked at"), "{}", up.printed());
            up.kill_and_keep_jobs();
            self.history.kills_of_up += 1;
        }
    }

    fn break_something(&mut self) {
        match self.dice.below(12) {
            0 | 1 => {
                self.note("up is killed");
                self.kill_up();
                self.dice.pause_ms(1500);
                self.up = Some(self.start());
            }
            2..=4 => self.crash_at_a_step(),
            5 => {
                self.note("up is asked to end");
                if let Some(up) = self.up.take() {
                    up.stop_and_keep_jobs();
                }
                self.up = Some(self.start());
            }
            6 => self.kill_one("keeper", keeper_of),
            7 => self.kill_one("job", job_of),
            8 | 9 => self.change_a_sink(),
            10 => self.fill_the_disk(),
            _ => self.dice.pause_ms(2000),
        }
    }

    /// Kills `up` or keepers at a labelled step for a few seconds.
    fn crash_at_a_step(&mut self) {
        let label = LABELS[self.dice.below(LABELS.len())];
        let step = format!("{label}/{}", 1 + self.dice.below(3));
        // A keeper passes each step once.
        let is_of_keepers = ["locked", "starting", "launched", "started", "reaped", "recorded"].contains(&label);
        let step = if is_of_keepers { label.to_owned() } else { step };
        self.note(format!("up is started to crash at {step}"));
        self.kill_up();
        let mut up = self.start_crashing_at(&step);
        let until = Instant::now() + Duration::from_secs(if is_of_keepers { 3 } else { 6 });
        while Instant::now() < until && !up.has_ended() {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.up = Some(up);
        self.kill_up();
        self.up = Some(self.start());
    }

    fn kill_one(&mut self, what: &str, pid_of: fn(&Path) -> Option<u32>) {
        let runs = std::fs::read_dir(self.state.join("runner/runs")).into_iter().flatten().flatten();
        let mut living: Vec<(PathBuf, u32)> = runs
            .map(|run| run.path())
            .filter(|run| !run.join("exit.json").exists())
            .filter_map(|run| Some((run.clone(), pid_of(&run)?)))
            .collect();
        living.sort();
        if !living.is_empty() {
            let (run, pid) = living.swap_remove(self.dice.below(living.len()));
            self.note(format!("the {what} {pid} of {} is killed", run.display()));
            signal(pid, "KILL");
        }
    }

    /// A receiver without acknowledgements that hangs for several seconds and is then cut loses accepted lines, which
    /// is documented. So it hangs only shortly here.
    fn change_a_sink(&mut self) {
        let index = self.dice.below(2);
        let mode = ["refuse", "hang for a while", "cut", "pass"][self.dice.below(4)];
        let (left_bytes, pause_ms) = (self.dice.below(20_000) as u64, self.dice.below(2_000) as u64);
        self.note(format!("sink s{index}: {mode}"));
        let proxy = &self.proxies[index];
        match mode {
            "refuse" => proxy.refuse(),
            "cut" => proxy.cut_after(left_bytes),
            "pass" => proxy.pass(),
            _ => {
                proxy.hang();
                std::thread::sleep(Duration::from_millis(pause_ms));
                proxy.pass();
            }
        }
    }

    fn fill_the_disk(&mut self) {
        self.note("the disk is filled");
        let ballast = self.disk.fill();
        self.dice.pause_ms(4000);
        match self.dice.below(3) {
            0 => self.kill_one("keeper", keeper_of),
            1 => self.kill_one("job", job_of),
            _ => {}
        }
        std::fs::remove_file(ballast).expect("removed");
        self.note("the disk has room again");
    }
}

fn keeper_of(run: &Path) -> Option<u32> {
    std::fs::read_to_string(run.join("keeper")).ok()?.trim().parse().ok()
}

fn job_of(run: &Path) -> Option<u32> {
    let started: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(run.join("started.json")).ok()?).ok()?;
    started["pid"].as_u64()?.try_into().ok()
}
