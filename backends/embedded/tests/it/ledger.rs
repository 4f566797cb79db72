//! The ledger of a state directory: damaged, cut, deleted, replaced and locked, before the start and while it is open.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use contract::samples::{create, job, key, run};
use embedded::{Embedded, FaultKind, OpenError, Opened, Opening};
use tempfile::TempDir;

struct StateFolder {
    _folder: TempDir,
    opening: Opening,
}

impl StateFolder {
    fn new() -> StateFolder {
        let folder = tempfile::tempdir().unwrap();
        let (file, mark) = (folder.path().join("sexton.db"), folder.path().join("ledger.json"));
        StateFolder { _folder: folder, opening: Opening { file, mark, traces: None, new_ledger: false } }
    }

    fn file(&self) -> &Path {
        &self.opening.file
    }

    fn try_open(&self) -> Result<Opened, OpenError> {
        Embedded::open_ledger(&self.opening)
    }

    fn open(&self) -> Embedded {
        self.try_open().map(|opened| opened.store).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The refusal, and that it changes nothing; an empty ledger then replaces this one on request.
    #[track_caller]
    fn check_refused(&self, expected: &str) {
        let before = fs::read(self.file()).ok();
        let refusal = self.try_open().err().unwrap_or_else(|| panic!("opened; expected {expected}")).to_string();
        assert!(refusal.contains(expected), "{refusal}");
        assert!(refusal.contains("sexton restore") && refusal.contains("--new-ledger"), "{refusal}");
        assert_eq!(fs::read(self.file()).ok(), before);
        let opening = Opening { new_ledger: true, ..self.opening.clone() };
        let opened = Embedded::open_ledger(&opening).unwrap_or_else(|error| panic!("{error}"));
        let (kept, why) = opened.replaced.expect("replaced");
        assert_eq!(fs::read(kept).ok(), before);
        assert!(why.contains(expected), "{why}");
        drop(opened.store);
        self.open();
    }

    /// A ledger with some content that was closed cleanly.
    async fn filled() -> StateFolder {
        let folder = StateFolder::new();
        fill(&folder.open(), 0..300).await;
        folder
    }
}

async fn fill(store: &Embedded, seconds: std::ops::Range<i64>) {
    let ports = store.ports();
    for second in seconds {
        create(&ports, &run("dump", second)).await;
    }
    let _stored = ports.jobs.put(&job(&key("dump")), None).await.unwrap();
}

fn copy(file: &Path) -> PathBuf {
    let copy = file.with_extension("copy");
    fs::copy(file, &copy).unwrap();
    copy
}

/// Overwrites the pages between the first and the last.
fn overwrite_middle(file: &Path) {
    let length = fs::metadata(file).unwrap().len();
    assert!(length > 8 * 4096, "{length}");
    let file = fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(&vec![0xa5; length as usize - 5 * 4096], 4 * 4096).unwrap();
}

#[tokio::test]
async fn a_ledger_opens_again_after_a_clean_stop_and_after_a_kill() {
    let folder = StateFolder::filled().await;
    drop(folder.open());
    let store = folder.open();
    fill(&store, 300..310).await;
    // As after a kill: the log was not copied into the database.
    for suffix in ["", "-wal"] {
        let path = |name: &Path| PathBuf::from(format!("{}{suffix}", name.display()));
        fs::copy(path(folder.file()), path(&folder.file().with_extension("killed"))).unwrap();
    }
    let mark = fs::read(&folder.opening.mark).unwrap();
    drop(store);
    fs::write(&folder.opening.mark, mark).unwrap();
    for suffix in ["", "-wal"] {
        let path = |name: &Path| PathBuf::from(format!("{}{suffix}", name.display()));
        fs::rename(path(&folder.file().with_extension("killed")), path(folder.file())).unwrap();
    }
    assert_eq!(folder.open().ports().runs.get(&[run("dump", 305).run_key()]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_missing_empty_damaged_or_foreign_ledger_is_refused_with_the_remedy() {
    let folder = StateFolder::filled().await;
    fs::remove_file(folder.file()).unwrap();
    folder.check_refused("is missing or empty, but the state directory was last used with one at ");
    fs::write(folder.file(), "").unwrap();
    folder.check_refused("is missing or empty");

    let folder = StateFolder::filled().await;
    let length = fs::metadata(folder.file()).unwrap().len();
    fs::File::options().write(true).open(folder.file()).unwrap().set_len(length / 2).unwrap();
    folder.check_refused("is damaged: ");

    let folder = StateFolder::filled().await;
    overwrite_middle(folder.file());
    folder.check_refused("is damaged: ");

    let folder = StateFolder::filled().await;
    fs::write(folder.file(), "a text of more than a hundred bytes ".repeat(1000)).unwrap();
    folder.check_refused("is damaged: ");

    let folder = StateFolder::filled().await;
    let other = StateFolder::filled().await;
    fs::copy(other.file(), folder.file()).unwrap();
    folder.check_refused("belongs to another state directory");

    // Without a mark, run directories show that there was a ledger.
    let traces = Some("the state directory has the directories of 3 runs".to_owned());
    let folder = StateFolder::new();
    let folder = StateFolder { opening: Opening { traces, ..folder.opening.clone() }, ..folder };
    folder.check_refused("has the directories of 3 runs");
}

#[tokio::test]
async fn an_older_copy_of_any_age_that_is_put_back_by_hand_is_refused() {
    let folder = StateFolder::filled().await;
    let mut copies = vec![copy(folder.file())];
    for number in 1..4 {
        let store = folder.open();
        fill(&store, number * 1000..number * 1000 + 5).await;
        drop(store);
        let kept = folder.file().with_extension(format!("copy{number}"));
        fs::copy(folder.file(), &kept).unwrap();
        copies.push(kept);
    }
    let newest = copies.pop().unwrap();
    for older in copies {
        fs::copy(older, folder.file()).unwrap();
        let refusal = folder.try_open().err().expect("refused").to_string();
        assert!(refusal.contains("is an older copy") && refusal.contains("sexton restore"), "{refusal}");
    }
    // The copy of the last clean stop is the ledger.
    fs::copy(newest, folder.file()).unwrap();
    folder.open();
}

#[tokio::test]
async fn a_copy_from_before_ledgers_had_an_id_is_refused_but_the_ledger_of_an_older_build_is_taken_over() {
    let folder = StateFolder::new();
    let older_build = Embedded::open(folder.file()).unwrap();
    fill(&older_build, 0..10).await;
    drop(older_build);
    let copy = copy(folder.file());
    drop(folder.open());
    assert_eq!(folder.open().ports().runs.get(&[run("dump", 5).run_key()]).await.unwrap().len(), 1);
    fs::copy(copy, folder.file()).unwrap();
    folder.check_refused("is a copy from before ");
}

#[tokio::test]
async fn a_copy_of_the_running_ledger_of_another_installation_is_refused_as_such_also_without_its_log() {
    for runs in [0, 300] {
        let folder = StateFolder::filled().await;
        let other = StateFolder::new();
        let running = other.open();
        fill(&running, 0..runs).await;
        fs::copy(other.file(), folder.file()).unwrap();
        folder.check_refused("belongs to another state directory: this one was last used with another ledger");
        drop(running);
    }
}

#[tokio::test]
async fn after_a_clean_stop_only_the_header_of_an_unchanged_file_is_read() {
    let folder = StateFolder::filled().await;
    let modified = fs::metadata(folder.file()).unwrap().modified().unwrap();
    let length = fs::metadata(folder.file()).unwrap().len();
    let file = fs::File::options().write(true).open(folder.file()).unwrap();
    file.write_all_at(&[0xa5; 3 * 4096], length - 4 * 4096).unwrap();
    file.set_modified(modified).unwrap();
    // The start does not read the damaged pages, which hold the newest runs; the first probe does.
    let store = folder.open();
    let fault = store.probe().await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Damaged, "{fault:?}");
}

#[tokio::test]
async fn a_probe_finds_what_is_wrong_with_an_open_ledger_and_that_it_works_again() {
    let folder = StateFolder::filled().await;
    let store = folder.open();
    store.probe().await.unwrap();
    let kind = async || store.probe().await.map_err(|fault| fault.kind);

    let lock = embedded::lock_by_hand(folder.file()).unwrap();
    assert_eq!(kind().await, Err(FaultKind::Locked));
    drop(lock);
    assert_eq!(kind().await, Ok(()));

    let aside = folder.file().with_extension("aside");
    fs::rename(folder.file(), &aside).unwrap();
    assert_eq!(kind().await, Err(FaultKind::Missing));
    fs::copy(&aside, folder.file()).unwrap();
    assert_eq!(kind().await, Err(FaultKind::Missing), "another file at its path");
    fs::rename(&aside, folder.file()).unwrap();
    assert_eq!(kind().await, Ok(()));

    let content = fs::read(folder.file()).unwrap();
    let file = fs::File::options().write(true).open(folder.file()).unwrap();
    file.write_all_at(&[0; 4096], 0).unwrap();
    assert_eq!(kind().await, Err(FaultKind::Damaged));
    file.write_all_at(&content[..4096], 0).unwrap();
    assert_eq!(kind().await, Ok(()));
    fill(&store, 5000..5010).await;
}

#[tokio::test]
async fn overwritten_pages_are_found_and_writes_wait_for_a_file_that_is_whole_again() {
    let folder = StateFolder::filled().await;
    let content = fs::read(folder.file()).unwrap();
    let store = folder.open();
    overwrite_middle(folder.file());
    assert_eq!(store.probe().await.unwrap_err().kind, FaultKind::Damaged);
    // No error is permanent: callers keep what they have to write.
    if let Err(error) = store.ports().runs.get(&[run("dump", 100).run_key()]).await {
        assert!(matches!(error, domain::ports::PortError::Retry(_)), "{error}");
    }
    let file = fs::File::options().write(true).open(folder.file()).unwrap();
    file.write_all_at(&content[4 * 4096..content.len() - 4096], 4 * 4096).unwrap();
    store.probe().await.unwrap();
    assert_eq!(store.ports().runs.get(&[run("dump", 100).run_key()]).await.unwrap().len(), 1);
}
