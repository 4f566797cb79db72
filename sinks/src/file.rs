//! The sink `file`: one file per job, run or day, by the template of its path. Appends only, and reopens a file that
//! was rotated.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::disk_space::{DiskSpace, WriteAllowance};
use domain::document::Section;

use crate::error::{SinkError, SinkResult};
use crate::feed::RunHeader;
use crate::file_access::{FileAccess, is_standard};
use crate::lines::{LineFormat, LineRun};
use crate::record::Record;
use crate::sink::{Acknowledge, Connection, Encode, Refused};
use crate::template::Template;

/// Files kept open; above it the least recently used one is synced and closed. Chosen: far below the limit of 1,024
/// descriptors.
const OPEN_FILES_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq)]
pub struct FileConfig {
    pub path: Template,
    pub format: LineFormat,
    pub access: FileAccess,
}

/// Reads the options of `type = "file"`.
pub(crate) fn read(section: &mut Section) -> Option<FileConfig> {
    let line = section.line_of("path");
    let text = section.required_text("path");
    let format = LineFormat::read(section);
    let access = read_access(section);
    let text = text?;
    if !text.starts_with('/') {
        section.fault(line, &*text, "not an absolute path; write for example /var/log/sexton/{group}/{job}.log");
    }
    let path = Template::parse(&text).map_err(|message| section.fault(line, &*text, message)).ok()?;
    Some(FileConfig { path, format, access })
}

fn read_access(section: &mut Section) -> FileAccess {
    let mut access = FileAccess { owner: section.text("owner"), ..FileAccess::default() };
    if let Some((line, text)) = section.text_at("mode") {
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 && mode & 0o600 == 0o600 => access.mode = mode,
            _ => section.fault(
                line,
                text,
                "not a `mode`; write 3 or 4 octal digits with read and write for the owner, like \"0640\"",
            ),
        }
    }
    access
}

/// A run's cursor moves past a line only after the file was synced (`fdatasync`), so a crash of the machine can
/// duplicate lines here, but loses none. A sync happens once per commit, not per line. The last free space of a disk is
/// left ([`domain::disk_space`]): lines wait in their spools.
pub(crate) struct FileSink {
    config: FileConfig,
    text_bytes_max: usize,
    filled: Vec<FileBatch>,
    /// Absent while a blocking thread uses them, and after that thread was cancelled.
    files: Option<Files>,
    connected: bool,
}

/// The bytes of the batch for one file.
struct FileBatch {
    path: Arc<Path>,
    bytes: Vec<u8>,
}

pub(crate) struct FileRun {
    path: Arc<Path>,
    lines: LineRun,
}

/// The open files. Moved to a blocking thread and back.
struct Files {
    access: FileAccess,
    open: BTreeMap<Arc<Path>, OpenFile>,
    clock: u64,
    /// Warnings that were logged.
    warned: BTreeSet<String>,
}

struct OpenFile {
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    dirty: bool,
    used: u64,
    allowance: WriteAllowance,
}

impl FileSink {
    pub(crate) fn new(config: FileConfig, text_bytes_max: usize) -> FileSink {
        let files = Some(Files::new(config.access.clone()));
        FileSink { config, text_bytes_max, filled: Vec::new(), files, connected: false }
    }

    /// Runs `work` on a thread that may block. After a cancelled call every call fails until `disconnect`: what was
    /// written before can no longer be synced.
    async fn run_blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Files) -> SinkResult<T> + Send + 'static,
    ) -> SinkResult<T> {
        let taken = self.files.take();
        let mut files = taken.ok_or_else(|| SinkError::retry("writing files was interrupted"))?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&mut files);
            (files, result)
        });
        let (files, result) = done.await.map_err(|error| SinkError::retry(format!("writing files failed: {error}")))?;
        self.files = Some(files);
        result
    }
}

impl Encode for FileSink {
    type Run = FileRun;

    fn open(&self, header: &RunHeader) -> FileRun {
        let path = PathBuf::from(self.config.path.fill(header));
        FileRun { path: path.into(), lines: LineRun::new(self.config.format, header) }
    }

    fn text_bytes_max(&self, _: &FileRun) -> usize {
        self.text_bytes_max
    }

    fn encode(&mut self, run: &FileRun, record: &Record<'_>) {
        let same = |filled: &FileBatch| Arc::ptr_eq(&filled.path, &run.path) || filled.path == run.path;
        let at = match self.filled.last().is_some_and(same) {
            true => self.filled.len() - 1,
            false => self.filled.iter().position(same).unwrap_or_else(|| {
                self.filled.push(FileBatch { path: run.path.clone(), bytes: Vec::with_capacity(64 * 1024) });
                self.filled.len() - 1
            }),
        };
        run.lines.write(record, &mut self.filled[at].bytes);
    }

    fn filled_bytes(&self) -> usize {
        self.filled.iter().map(|filled| filled.bytes.len()).sum()
    }
}

impl Connection for FileSink {
    async fn connect(&mut self) -> SinkResult<()> {
        self.connected = true;
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.connected
    }

    fn disconnect(&mut self) {
        self.filled.clear();
        self.files = Some(Files::new(self.config.access.clone()));
        self.connected = false;
    }

    async fn send(&mut self) -> SinkResult<Vec<Refused>> {
        let filled = std::mem::take(&mut self.filled);
        self.run_blocking(move |files| {
            for FileBatch { path, bytes } in filled {
                files.append(&path, &bytes)?;
            }
            Ok(())
        })
        .await?;
        Ok(Vec::new())
    }
}

impl Acknowledge for FileSink {
    async fn drain(&mut self) -> SinkResult<()> {
        self.sync().await
    }

    async fn sync(&mut self) -> SinkResult<()> {
        self.run_blocking(Files::sync).await
    }
}

impl Files {
    fn new(access: FileAccess) -> Files {
        Files { access, open: BTreeMap::new(), clock: 0, warned: BTreeSet::new() }
    }

    fn append(&mut self, path: &Arc<Path>, bytes: &[u8]) -> SinkResult<()> {
        self.clock += 1;
        let clock = self.clock;
        let open = self.open_current(path)?;
        open.used = clock;
        open.dirty = true;
        let allowed = open.allowance.consume(bytes.len() as u64, || free_space(&open.file));
        allowed
            .and_then(|()| open.file.write_all(bytes))
            .map_err(|error| SinkError::from_path_error("write to", path, &error))
    }

    /// The file that the path names now: reopened after a rotation.
    fn open_current(&mut self, path: &Arc<Path>) -> SinkResult<&mut OpenFile> {
        let identity = std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let rotated = self.open.get(path).is_some_and(|open| Some(open.identity) != identity);
        if rotated && let Some(old) = self.open.remove(path) {
            close(path, old)?;
        }
        if self.open.len() >= OPEN_FILES_MAX
            && !self.open.contains_key(path)
            && let Some(oldest) = self.open.iter().min_by_key(|(_, open)| open.used).map(|(path, _)| path.clone())
            && let Some(old) = self.open.remove(&oldest)
        {
            close(&oldest, old)?;
        }
        match self.open.entry(path.clone()) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let (opened, warning) = open(&self.access, path)?;
                if let Some(warning) = warning.filter(|warning| self.warned.insert(warning.clone())) {
                    tracing::warn!("{warning}");
                }
                Ok(entry.insert(opened))
            }
        }
    }

    fn sync(&mut self) -> SinkResult<()> {
        for (path, open) in &mut self.open {
            if open.dirty {
                sync_data(&open.file, path)?;
                open.dirty = false;
            }
        }
        Ok(())
    }
}

/// Creates the directories, opens for appending, and completes a line that an earlier failure left torn.
fn open(access: &FileAccess, path: &Path) -> SinkResult<(OpenFile, Option<String>)> {
    let (mut file, warning) = access.open(path)?;
    let metadata = file.metadata().map_err(|error| SinkError::from_path_error("read the metadata of", path, &error))?;
    if metadata.is_file() && metadata.len() > 0 && last_byte(&file, metadata.len()).is_ok_and(|byte| byte != b'\n') {
        file.write_all(b"\n").map_err(|error| SinkError::from_path_error("write to", path, &error))?;
    }
    let identity = (metadata.dev(), metadata.ino());
    Ok((OpenFile { file, identity, dirty: true, used: 0, allowance: WriteAllowance::default() }, warning))
}

fn last_byte(file: &File, bytes: u64) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, bytes - 1)?;
    Ok(byte[0])
}

/// The space of the disk that holds an open file.
fn free_space(file: &File) -> io::Result<DiskSpace> {
    let stat = rustix::fs::fstatvfs(file)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(DiskSpace { free_bytes: bytes(stat.f_bavail), total_bytes: bytes(stat.f_blocks) })
}

/// A device or pipe has no data to sync and returns EINVAL (fsync(2)).
fn sync_data(file: &File, path: &Path) -> SinkResult<()> {
    match file.sync_data() {
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
            Err(SinkError::from_path_error("sync", path, &error))
        }
        _ => Ok(()),
    }
}

fn close(path: &Path, open: OpenFile) -> SinkResult<()> {
    match open.dirty {
        true => sync_data(&open.file, path),
        false => Ok(()),
    }
}

/// Checks that files can be created below the first directory of the path without a placeholder.
pub(crate) fn check(config: &FileConfig) -> Result<String, String> {
    if is_standard(Path::new(config.path.text())) {
        return Ok(format!("{} is written as it is", config.path.text()));
    }
    let fixed = config.path.text().split('{').next().unwrap_or_default();
    let directory = match fixed.ends_with('/') {
        true => Path::new(fixed),
        false => Path::new(fixed).parent().unwrap_or(Path::new("/")),
    };
    let warning = config.access.create_directories(directory).map_err(|error| error.message)?;
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|error| SinkError::from_path_error("write to", directory, &error.into()).message)?;
    let warning = warning.map_or_else(String::new, |warning| format!("; warning: {warning}"));
    Ok(format!("files can be created below {}{warning}", directory.display()))
}
