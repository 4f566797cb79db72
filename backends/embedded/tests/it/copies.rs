//! Copies of a ledger: made while it is written, and put in its place.

use std::fs;
use std::path::PathBuf;

use contract::samples::{at, create, run};
use domain::restored::RestoredLedger;
use embedded::copies::{back_up, restore};
use embedded::{Embedded, Opening};
use tempfile::TempDir;

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self) -> Embedded {
        let (file, mark) = (self.path("sexton.db"), self.path("ledger.json"));
        let opening = Opening { file, mark, traces: None, new_ledger: false };
        Embedded::open_ledger(&opening).map(|opened| opened.store).unwrap_or_else(|error| panic!("{error}"))
    }

    async fn restored(&self) -> Option<RestoredLedger> {
        let stored = self.open().ports().settings.read("restored").await.unwrap();
        stored.map(|stored| serde_json::from_value(stored.record).unwrap())
    }
}

async fn count(store: &Embedded) -> u64 {
    store.ports().runs.count(&domain::ports::RunQuery::default()).await.unwrap().scheduled
}

#[tokio::test]
async fn a_copy_made_while_the_ledger_is_written_is_whole_and_is_restored_with_its_instant() {
    let place = Place::new();
    let store = place.open();
    let ports = store.ports();
    for second in 0..50 {
        create(&ports, &run("dump", second)).await;
    }
    let writing = tokio::spawn(async move {
        for second in 50..400 {
            create(&ports, &run("dump", second)).await;
        }
    });
    let (ledger, copy) = (place.path("sexton.db"), place.path("copy"));
    for second in 0..3 {
        // An earlier copy is replaced.
        back_up(&ledger, &copy, at(second)).unwrap();
    }
    writing.await.unwrap();
    assert_eq!(count(&store).await, 400);
    drop(store);

    let restored = restore(&copy, &ledger, &place.path("ledger.json"), at(9)).unwrap();
    let note = place.restored().await.unwrap();
    assert_eq!((note.copied_at, note.restored_at, note.settled), (restored.copied_at, at(9), false));
    let store = place.open();
    let kept = count(&store).await;
    assert!((50..=400).contains(&kept), "{kept}");
    drop(store);
    // The ledger that was replaced is whole, too.
    let before = restored.replaced.unwrap();
    restore(&before, &ledger, &place.path("ledger.json"), at(10)).unwrap();
    assert_eq!(count(&place.open()).await, 400);
}

#[tokio::test]
async fn a_copy_that_was_put_back_by_hand_is_accepted_where_it_is() {
    let place = Place::new();
    let store = place.open();
    create(&store.ports(), &run("dump", 0)).await;
    drop(store);
    let (ledger, copy) = (place.path("sexton.db"), place.path("copy"));
    fs::copy(&ledger, &copy).unwrap();
    drop(place.open());
    fs::copy(&copy, &ledger).unwrap();
    let now = jiff::Timestamp::now();
    let restored = restore(&ledger, &ledger, &place.path("ledger.json"), now).unwrap();
    assert!(restored.copied_at < now, "{restored:?}");
    assert_eq!(place.restored().await.unwrap().copied_at, restored.copied_at);
    // A copy of a restored ledger that was never started lacks as much as the first copy.
    fs::copy(&ledger, &copy).unwrap();
    let again = restore(&copy, &ledger, &place.path("ledger.json"), jiff::Timestamp::now()).unwrap();
    assert_eq!(again.copied_at, restored.copied_at);
}

#[tokio::test]
async fn no_other_file_is_replaced_by_a_copy_and_nothing_but_a_whole_copy_is_restored() {
    let place = Place::new();
    let store = place.open();
    create(&store.ports(), &run("dump", 0)).await;
    let (ledger, mark) = (place.path("sexton.db"), place.path("ledger.json"));
    let refused = |to: PathBuf| back_up(&ledger, &to, at(0)).unwrap_err().to_string();
    assert!(refused(ledger.clone()).contains("is the ledger itself"));
    fs::write(place.path("letter"), "dear reader").unwrap();
    assert!(refused(place.path("letter")).contains("is not a copy of a ledger"));
    assert!(refused(place.folder.path().to_owned()).contains("is not a regular file"));
    assert!(refused(place.path("none/copy")).contains("none"));
    let missing = back_up(&place.path("absent"), &place.path("copy"), at(0)).unwrap_err().to_string();
    assert!(missing.contains("cannot read") && !place.path("absent").exists(), "{missing}");
    back_up(&ledger, &place.path("copy"), at(0)).unwrap();
    drop(store);

    let content = fs::read(place.path("copy")).unwrap();
    fs::write(place.path("cut"), &content[..content.len() / 2]).unwrap();
    fs::write(place.path("empty"), "").unwrap();
    let before = fs::read(&ledger).unwrap();
    for name in ["cut", "empty", "letter", "nothing"] {
        let error = restore(&place.path(name), &ledger, &mark, at(0)).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        assert_eq!(fs::read(&ledger).unwrap(), before, "{name}");
        assert!(!place.path("sexton.db.restoring").exists(), "{name}");
    }
    place.open();
}
