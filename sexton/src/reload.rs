//! Reads the sinks file and the rule packs of `up` and `sexton runner`, at the start and when they change. A faulty
//! file keeps its last good version, also across restarts. Without one, only its faulty sinks, or the faulty pack, are
//! left out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rules::Packs;
use runner::SinkChanges;
use sinks::config::SinkConfig;
use tokio_util::sync::CancellationToken;

use crate::configuration::{empty_pack_directories, pack_files};
use crate::failure::{Failure, print_error_line};
use crate::file_states::{FileKind, FileStates, reason};
use crate::file_watch::{Content, FileWatch, POLL_INTERVAL};
use crate::kept_files::KeptFiles;
use crate::known_names::replaced_packs;
use crate::local_runner::LocalRunner;
use crate::setup::{Setup, SinksSource};
use crate::signals::ReloadRequests;
use crate::source_path;
use crate::state::StateDirectory;
use crate::text_files::to_checked_text;

/// The sinks file and the rule packs, and how they were read last.
pub(crate) struct Reloader {
    sinks: SinksSource,
    sinks_watch: FileWatch,
    /// Files and directories of rule packs, as they were named.
    rules: Vec<PathBuf>,
    packs_watch: FileWatch,
    /// The files of `rules`, in the order in which they are read.
    pack_paths: Vec<PathBuf>,
    pack_contents: BTreeMap<PathBuf, Content>,
    /// The messages about `rules` that were printed last, so that they are printed once.
    rules_messages: Vec<String>,
    state: StateDirectory,
    kept: KeptFiles,
    states: FileStates,
    /// False when sinks of a faulty file were left out at the start.
    has_all_sinks: bool,
}

/// The name of a file in its state: as for files with jobs, its absolute path.
fn source_name(path: &Path) -> String {
    source_path::absolute(path).display().to_string()
}

/// The sinks that a reload changed.
fn changes_text(changes: &SinkChanges) -> String {
    let SinkChanges { added, changed, removed } = changes;
    let parts = [("new", added), ("changed", changed), ("removed", removed)];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", names.join(", ")))
        .collect();
    if parts.is_empty() { "no sink changed".to_owned() } else { parts.join("; ") }
}

impl Reloader {
    /// Reads the files for the start into `setup`.
    ///
    /// # Errors
    /// Fails only where no file is read: the default sink cannot be defined.
    pub(crate) fn start(setup: &mut Setup, states: &FileStates) -> Result<Reloader, Failure> {
        let mut reloader = Reloader {
            sinks: setup.sinks_source.clone(),
            sinks_watch: FileWatch::new(setup.sinks_source.file.clone()),
            rules: setup.rules.clone(),
            packs_watch: FileWatch::new([]),
            pack_paths: Vec::new(),
            pack_contents: BTreeMap::new(),
            rules_messages: Vec::new(),
            state: setup.state.clone(),
            kept: KeptFiles::new(&setup.state),
            states: states.clone(),
            has_all_sinks: true,
        };
        reloader.find_packs();
        let packs_watch = &mut reloader.packs_watch;
        let sinks_watch = &mut reloader.sinks_watch;
        // Both wait at the same time for files that are being written.
        let (packs, sinks) = std::thread::scope(|scope| {
            let packs = scope.spawn(|| packs_watch.read_at_start());
            let sinks = sinks_watch.read_at_start();
            (packs.join().unwrap_or_default(), sinks)
        });
        reloader.pack_contents.extend(packs);
        setup.packs = reloader.load_packs().0;
        if let Some(path) = &reloader.sinks.file {
            let kept = reloader.kept_sinks(path).unwrap_or_default();
            setup.known_sinks = kept.into_iter().map(|sink| sink.name).collect();
        }
        setup.sinks = match (reloader.sinks.file.clone(), sinks.into_iter().next()) {
            (None, _) => reloader.sinks.load(&reloader.state)?,
            (Some(path), Some((_, content))) => reloader.load_sinks(&path, content, true).unwrap_or_default(),
            (Some(path), None) => {
                let message = "the file is being written, so its last good version is in use";
                print_error_line(&format!("{}: {message}", path.display()));
                reloader.states.set(FileKind::Sinks, &source_name(&path), Err(message.to_owned()));
                let kept = reloader.kept_sinks(&path);
                reloader.has_all_sinks = kept.is_some();
                kept.unwrap_or_default()
            }
        };
        setup.has_all_sinks = reloader.has_all_sinks;
        Ok(reloader)
    }

    /// Uses changed files, until `stop`.
    pub(crate) async fn run(mut self, runner: Arc<LocalRunner>, mut reloads: ReloadRequests, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                Ok(()) = reloads.changed() => {
                    self.sinks_watch.read_again();
                    self.packs_watch.read_again();
                }
            }
            let changed_sinks = tokio::task::block_in_place(|| self.sinks_watch.take_changed());
            for (path, content) in changed_sinks {
                let Some(configs) = self.load_sinks(&path, content, false) else {
                    print_error_line("reload failed; keeping the previous sinks");
                    continue;
                };
                let changes = runner.use_sinks(configs).await;
                print_error_line(&format!("sinks file reloaded: {}", changes_text(&changes)));
            }
            if tokio::task::block_in_place(|| self.take_changed_packs()) {
                let (packs, all_good) = tokio::task::block_in_place(|| self.load_packs());
                runner.use_packs(Arc::new(packs));
                print_error_line(if all_good {
                    "rules reloaded"
                } else {
                    "rules reloaded, without the faulty changes"
                });
            }
        }
    }

    /// The sinks of the file. A faulty one returns `None`, except at the start: then its last good version, or its
    /// sinks without a fault.
    fn load_sinks(&mut self, path: &Path, content: Content, at_start: bool) -> Option<Vec<SinkConfig>> {
        let shown = path.display().to_string();
        let text = content.map_err(|unreadable| unreadable.message).and_then(to_checked_text);
        let (sinks, faults) = match &text {
            Ok(text) => self.sinks.parse(path, text),
            Err(message) => (Vec::new(), vec![format!("{shown}: {message}")]),
        };
        if let (Ok(text), true) = (&text, faults.is_empty()) {
            self.kept.keep(path, text);
            self.states.set(FileKind::Sinks, &source_name(path), Ok(()));
            return Some(sinks);
        }
        faults.iter().for_each(|fault| print_error_line(fault));
        let (used, instead) = match (at_start, at_start.then(|| self.kept_sinks(path)).flatten()) {
            (false, _) => (None, "the previous sinks stay in use"),
            (true, Some(kept)) => (Some(kept), "the last good version is in use"),
            (true, None) => {
                self.has_all_sinks = false;
                (Some(sinks), "only the sinks without a fault are in use")
            }
        };
        if at_start {
            print_error_line(&format!("{shown}: {instead}"));
        }
        self.states.set(FileKind::Sinks, &source_name(path), Err(reason(&faults, instead)));
        used
    }

    fn kept_sinks(&self, path: &Path) -> Option<Vec<SinkConfig>> {
        let (sinks, faults) = self.sinks.parse(path, &self.kept.last_good(path)?);
        faults.is_empty().then_some(sinks)
    }

    /// Finds the files of `rules` again. Returns whether a file is no longer among them.
    fn find_packs(&mut self) -> bool {
        // A directory that is missing is a fault: its packs keep their last good versions.
        let with_kept = |path: &PathBuf| match path.exists() {
            true => vec![path.clone()],
            false => Some(self.kept.packs_in(path)).filter(|packs| !packs.is_empty()).unwrap_or(vec![path.clone()]),
        };
        let rules: Vec<PathBuf> = self.rules.iter().flat_map(with_kept).collect();
        let (paths, messages) = match pack_files(&rules) {
            Ok(paths) => (paths, empty_pack_directories(&self.rules)),
            Err(failure) => (self.pack_paths.clone(), failure.messages()),
        };
        if messages != self.rules_messages {
            messages.iter().for_each(|message| print_error_line(message));
            self.rules_messages = messages;
        }
        let gone: Vec<PathBuf> = self.pack_paths.iter().filter(|path| !paths.contains(path)).cloned().collect();
        for path in &gone {
            self.pack_contents.remove(path);
            self.states.remove(&source_name(path));
            self.kept.forget(path);
        }
        if paths != self.pack_paths {
            self.packs_watch.set_paths(&paths);
            self.pack_paths = paths;
        }
        !gone.is_empty()
    }

    /// Reads changed packs. Returns whether there are some.
    fn take_changed_packs(&mut self) -> bool {
        let is_one_gone = self.find_packs();
        let changed = self.packs_watch.take_changed();
        let is_changed = is_one_gone || !changed.is_empty();
        self.pack_contents.extend(changed);
        is_changed
    }

    /// The packs of all files, and whether all files are good. Of a faulty file, its last good version is used.
    fn load_packs(&mut self) -> (Packs, bool) {
        let (mut packs, mut all_good) = (Packs::builtin(), true);
        for path in self.pack_paths.clone() {
            let shown = path.display().to_string();
            // A file that is being written has no content yet.
            let Some(content) = self.pack_contents.get(&path).cloned() else {
                self.add_kept_pack(&mut packs, &path);
                continue;
            };
            let faults = match content.map_err(|unreadable| unreadable.message).and_then(to_checked_text) {
                Ok(text) => match packs.add(&shown, &text) {
                    Ok(()) => {
                        self.kept.keep(&path, &text);
                        self.states.set(FileKind::Rules, &source_name(&path), Ok(()));
                        continue;
                    }
                    Err(faults) => Failure::from(faults).messages(),
                },
                Err(message) => vec![format!("{shown}: {message}")],
            };
            all_good = false;
            faults.iter().for_each(|fault| print_error_line(fault));
            let instead = match self.add_kept_pack(&mut packs, &path) {
                true => "its last good version is in use",
                false => "its pack is left out",
            };
            print_error_line(&format!("{shown}: {instead}"));
            self.states.set(FileKind::Rules, &source_name(&path), Err(reason(&faults, instead)));
        }
        for warning in &packs.warnings().0 {
            print_error_line(&warning.to_string());
        }
        replaced_packs(&packs).iter().for_each(|note| print_error_line(note));
        (packs, all_good)
    }

    /// Adds the last good version of the file; `false` when there is none.
    fn add_kept_pack(&self, packs: &mut Packs, path: &Path) -> bool {
        let shown = path.display().to_string();
        self.kept.last_good(path).is_some_and(|text| packs.add(&shown, &text).is_ok())
    }
}
