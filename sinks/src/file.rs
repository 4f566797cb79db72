//! The sink `file`: one file per job, run or day, by the template of its path. Appends only, and reopens a file that
//! was rotated. A FIFO or a device is written without sync, and never waited for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::disk_space::{DiskSpace, WriteAllowance};
use domain::document::Section;
use tokio::time::{Instant, sleep};

use crate::error::{SinkError, SinkResult};
use crate::feed::RunHeader;
use crate::file_access::FileAccess;
use crate::lines::{LineFormat, LineRun};
use crate::record::Record;
use crate::sink::{Acknowledge, Connection, Encode, Refused};
use crate::special_file::{self, FileKind, is_standard, no_reader, write_now};
use crate::template::Template;

/// Files kept open; above it the least recently used one is synced and closed. Chosen: far below the limit of 1,024
/// descriptors.
const OPEN_FILES_MAX: usize = 64;
/// Wait before the rest is written to a FIFO or terminal that is full. Chosen: a reader empties a pipe in less.
const FULL_WAIT: Duration = Duration::from_millis(10);
/// How long a drain waits for the reader of a FIFO. What the reader has not read then counts as delivered, as long as
/// the reader has the FIFO open: the kernel keeps it. Chosen: as for TCP.
const READER_WAIT: Duration = Duration::from_secs(10);

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
/// left ([`domain::disk_space`]): lines wait in their spools. Lines in a FIFO are confirmed when its reader has read
/// them.
pub(crate) struct FileSink {
    config: FileConfig,
    text_bytes_max: usize,
    filled: Vec<FileBatch>,
    /// Absent while a blocking thread uses them, and after that thread was cancelled.
    files: Option<Files>,
    connected: bool,
    /// Batches since `connect`.
    sent: u64,
    /// Batches with lines in FIFOs that may be unread.
    unread: VecDeque<UnreadBatch>,
}

/// The bytes of the batch for one file.
struct FileBatch {
    path: Arc<Path>,
    bytes: Vec<u8>,
    /// Bytes that are written.
    written: usize,
}

/// A sent batch, and for each FIFO the number of bytes written to it up to the end of that batch.
struct UnreadBatch {
    number: u64,
    ends: Vec<(Arc<Path>, u64)>,
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
    kind: FileKind,
    /// Bytes written since it was opened.
    written: u64,
    /// Device and inode.
    identity: (u64, u64),
    dirty: bool,
    used: u64,
    allowance: WriteAllowance,
}

impl FileSink {
    pub(crate) fn new(config: FileConfig, text_bytes_max: usize) -> FileSink {
        let files = Some(Files::new(config.access.clone()));
        let (filled, unread) = (Vec::new(), VecDeque::new());
        FileSink { config, text_bytes_max, filled, files, connected: false, sent: 0, unread }
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
                let bytes = Vec::with_capacity(64 * 1024);
                self.filled.push(FileBatch { path: run.path.clone(), bytes, written: 0 });
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
        self.sent = 0;
        self.unread.clear();
    }

    async fn send(&mut self) -> SinkResult<Vec<Refused>> {
        let mut rest = std::mem::take(&mut self.filled);
        let paths: Vec<Arc<Path>> = rest.iter().map(|filled| filled.path.clone()).collect();
        loop {
            rest = self.run_blocking(move |files| files.append_all(rest)).await?;
            if rest.is_empty() {
                break;
            }
            sleep(FULL_WAIT).await;
        }
        self.sent += 1;
        let ends = self.files.as_ref().map_or_else(Vec::new, |files| files.fifo_ends(paths));
        if !ends.is_empty() {
            self.unread.push_back(UnreadBatch { number: self.sent, ends });
        }
        Ok(Vec::new())
    }
}

impl Acknowledge for FileSink {
    fn confirmed_batches(&mut self, sent: u64) -> SinkResult<u64> {
        while let Some(UnreadBatch { number, ends }) = self.unread.front() {
            let Some(files) = &self.files else { return Ok(number - 1) };
            for (path, end) in ends {
                if !files.is_read(path, *end)? {
                    return Ok(number - 1);
                }
            }
            self.unread.pop_front();
        }
        Ok(sent)
    }

    async fn drain(&mut self) -> SinkResult<()> {
        self.sync().await?;
        let deadline = Instant::now() + READER_WAIT;
        while self.confirmed_batches(self.sent)? < self.sent && Instant::now() < deadline {
            sleep(FULL_WAIT).await;
        }
        self.unread.clear();
        Ok(())
    }

    async fn sync(&mut self) -> SinkResult<()> {
        self.run_blocking(Files::sync).await
    }
}

impl Files {
    fn new(access: FileAccess) -> Files {
        Files { access, open: BTreeMap::new(), clock: 0, warned: BTreeSet::new() }
    }

    /// Appends every batch; returns those that a full FIFO or terminal did not take completely. Opens all files first:
    /// one that cannot be opened must not write the lines of the others again and again.
    fn append_all(&mut self, batches: Vec<FileBatch>) -> SinkResult<Vec<FileBatch>> {
        for batch in &batches {
            self.open_current(&batch.path)?;
        }
        let mut rest = Vec::new();
        for mut batch in batches {
            self.append(&mut batch)?;
            if batch.written < batch.bytes.len() {
                rest.push(batch);
            }
        }
        Ok(rest)
    }

    fn append(&mut self, batch: &mut FileBatch) -> SinkResult<()> {
        self.clock += 1;
        let clock = self.clock;
        let path = &batch.path;
        let open = self.open_current(path)?;
        open.used = clock;
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::BrokenPipe => no_reader(path),
            _ if open.kind == FileKind::Device => special_file::device_error("write to", path, &error),
            _ => SinkError::from_path_error("write to", path, &error),
        };
        if open.kind == FileKind::Regular {
            open.allowance.consume(batch.bytes.len() as u64, || free_space(&open.file)).map_err(failed)?;
        }
        open.dirty = matches!(open.kind, FileKind::Regular | FileKind::StandardFile);
        while batch.written < batch.bytes.len() {
            let written = write_now(&open.file, open.kind, &batch.bytes[batch.written..]).map_err(failed)?;
            if written == 0 {
                break;
            }
            open.written += written as u64;
            batch.written += written;
        }
        Ok(())
    }

    /// The bytes written so far to those of the paths that are FIFOs.
    fn fifo_ends(&self, paths: Vec<Arc<Path>>) -> Vec<(Arc<Path>, u64)> {
        let end = |path: Arc<Path>| {
            let open = self.open.get(&path).filter(|open| open.kind == FileKind::Fifo)?;
            Some((path, open.written))
        };
        paths.into_iter().filter_map(end).collect()
    }

    /// Whether the reader of a FIFO has read its bytes up to `end`. One that was closed here is left to its reader.
    fn is_read(&self, path: &Arc<Path>, end: u64) -> SinkResult<bool> {
        let Some(open) = self.open.get(path).filter(|open| open.kind == FileKind::Fifo) else { return Ok(true) };
        let unread = special_file::unread_bytes(&open.file);
        let unread = unread.map_err(|error| SinkError::from_path_error("read the state of", path, &error))?;
        let is_read = open.written.saturating_sub(unread) >= end;
        match is_read || special_file::has_reader(&open.file) {
            true => Ok(is_read),
            false => Err(no_reader(path)),
        }
    }

    /// The file that the path names now: reopened after a rotation.
    fn open_current(&mut self, path: &Arc<Path>) -> SinkResult<&mut OpenFile> {
        let rotated = !is_standard(path) && self.open.get(path).is_some_and(|open| is_replaced(open, path));
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

/// Whether the path now names another file.
fn is_replaced(open: &OpenFile, path: &Path) -> bool {
    let identity = std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()));
    Some(open.identity) != identity
}

/// Creates the directories, opens for appending, and completes a line that an earlier failure left torn.
fn open(access: &FileAccess, path: &Path) -> SinkResult<(OpenFile, Option<String>)> {
    let (mut file, kind, warning) = access.open(path)?;
    let metadata = file.metadata().map_err(|error| SinkError::from_path_error("read the metadata of", path, &error))?;
    let may_be_torn = kind == FileKind::Regular && metadata.len() > 0;
    if may_be_torn && last_byte(&file, metadata.len()).is_ok_and(|byte| byte != b'\n') {
        file.write_all(b"\n").map_err(|error| SinkError::from_path_error("write to", path, &error))?;
    }
    let identity = (metadata.dev(), metadata.ino());
    let allowance = WriteAllowance::default();
    let dirty = may_be_torn;
    Ok((OpenFile { file, kind, written: 0, identity, dirty, used: 0, allowance }, warning))
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

/// Some file systems cannot sync: fsync(2) returns EINVAL or EROFS there.
fn sync_data(file: &File, path: &Path) -> SinkResult<()> {
    match file.sync_data() {
        Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::ReadOnlyFilesystem) => {
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

/// Checks that files can be created below the first directory of the path without a placeholder. Opens no file: the
/// reader of a FIFO would see its end.
pub(crate) fn check(config: &FileConfig) -> Result<String, String> {
    let text = config.path.text();
    if is_standard(Path::new(text)) {
        return Ok(format!("{text} is written as it is"));
    }
    let fixed = text.split('{').next().unwrap_or_default();
    if fixed.len() == text.len()
        && let Ok(found) = std::fs::symlink_metadata(text)
        && !found.is_file()
    {
        let found = rustix::fs::FileType::from_raw_mode(found.mode());
        let fault = special_file::type_fault(found, Path::new(text));
        return fault.map_or_else(|| Ok(format!("{text} is written as it is")), |fault| Err(fault.message));
    }
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
