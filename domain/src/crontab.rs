//! Reads jobs from a crontab, with the meaning that cron gives it (cronie `src/entry.c`, `src/env.c`, crontab(5)). Used
//! by `apply`, `plan`, `lint` and `up --crontab`. All valid lines become jobs; all faults are returned.
//!
//! Comments that cron ignores set the other fields: `# sexton: key=value ...` for the next entry,
//! `# sexton-defaults: key=value ...` for all later ones. The same file still works with cron.

mod advice;
mod bash_syntax;
mod default_name;
mod directive;
mod entry_zone;
mod exposed_password;
mod former_name;
mod host_words;
mod line;
mod name_register;
mod near_miss;
mod options;
pub(crate) mod program_name;
mod random_delay;
mod shell_advice;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::document::Document;
use crate::fault::{Fault, Faults};
use crate::job::{Command, Job, JobKey};
use crate::job_list::{JobList, ListedJob};
use crate::jobs_file::{GROUP_DEFAULT, fields};
use crate::mailto::{MailSettings, check_recipients};
use crate::zones::LOCAL;
use directive::Directive;
use entry_zone::EntryZones;
use host_words::HostWords;
use line::{Assignment, Entry, Line};
use name_register::{NameRegister, numbered};
pub use options::{FileContent, Format, HostNames, Options, Place};

const CARRIAGE_RETURN_MESSAGE: &str = "lines end with CR LF, and cron treats the carriage return as a part of the \
                                       command; convert the file, for example with dos2unix";
const MAIL_ON_FAILURE_MESSAGE: &str = "-n limits the mail with output, and no MAILTO is above; write one, set owner = \
                                       true in [mail], or remove -n";
const TZ_MESSAGE: &str =
    "TZ is passed to the commands and does not change the schedule; for the schedule write CRON_TZ";

/// Reads a whole crontab; `file` appears in faults and becomes the source of its jobs.
///
/// A comment may hold any bytes, as in cron; any other line is UTF-8.
pub fn parse(file: &str, text: impl AsRef<[u8]>, format: Format) -> (Vec<Job>, Faults) {
    let content = read(file, text, &Options::new(file, format));
    (content.jobs.iter().collect(), content.faults)
}

/// As [`parse`]; `file` appears in faults.
pub fn read(file: &str, text: impl AsRef<[u8]>, options: &Options<'_>) -> FileContent {
    let mut reader = Reader::new(file, *options);
    let text = text.as_ref();
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let mut carriage_return = None;
    let lines = text.strip_suffix(b"\n").unwrap_or(text);
    for (index, line) in lines.split(|byte| *byte == b'\n').enumerate() {
        let number = index as u32 + 1;
        let line = match line.strip_suffix(b"\r") {
            Some(line) => {
                carriage_return.get_or_insert(number);
                line
            }
            None => line,
        };
        match std::str::from_utf8(line) {
            Ok(line) => reader.line(number, line),
            Err(_) => reader.line_of_other_encoding(number, &String::from_utf8_lossy(line)),
        }
    }
    if let Some(number) = carriage_return {
        reader.warn(number, "", CARRIAGE_RETURN_MESSAGE);
    }
    if !text.is_empty() && !text.ends_with(b"\n") {
        let number = text.split(|byte| *byte == b'\n').count() as u32;
        reader.warn(number, "", "the last line has no newline, and cron then ignores it or the whole file; add one");
    }
    reader.finish()
}

struct Reader<'a> {
    file: String,
    options: Options<'a>,
    document: Document,
    jobs: JobList,
    names: NameRegister,
    host_words: HostWords,
    /// The assignments so far; each entry gets a copy of those above it.
    environment: BTreeMap<String, String>,
    zones: EntryZones,
    random_delay: Option<Duration>,
    defaults: Vec<Directive>,
    /// The `# sexton:` directive of the next entry.
    pending: Option<Directive>,
    /// The directive of the next entry is faulty. The entry is dropped, because without it the job would be another
    /// one.
    spoiled: bool,
}

impl<'a> Reader<'a> {
    fn new(file: &str, options: Options<'a>) -> Reader<'a> {
        Reader {
            file: file.to_owned(),
            options,
            document: Document::empty(file),
            jobs: JobList::default(),
            names: NameRegister::default(),
            host_words: HostWords::new(options.host_names),
            environment: BTreeMap::new(),
            zones: EntryZones::new(options.host_zone),
            random_delay: None,
            defaults: Vec::new(),
            pending: None,
            spoiled: false,
        }
    }

    fn fault(&self, line: u32, value: &str, message: impl Into<String>) {
        self.document.push(Fault::new(&self.file, line, shortened(value), message));
    }

    fn warn(&self, line: u32, value: &str, message: impl Into<String>) {
        self.document.push(Fault::warning(&self.file, line, shortened(value), message));
    }

    fn line(&mut self, number: u32, text: &str) {
        if text.contains('\0') {
            self.fault(number, "", "the line contains a NUL byte; remove it");
            return;
        }
        if let Some(line) = advice::anacron_line(text) {
            match line.is_entry {
                true => self.warn(number, text.trim(), line.message),
                false => return self.fault(number, text.trim(), line.message),
            }
        }
        match line::read(text, self.options.format) {
            Ok(Line::Blank) => {}
            Ok(Line::Comment(text)) => self.comment(number, text),
            Ok(Line::Assignment(assignment)) => self.assignment(number, assignment),
            Ok(Line::Entry(entry)) => self.entry(number, &entry),
            Err(message) => {
                (self.pending, self.spoiled) = (None, false);
                self.fault(number, text.trim(), message);
            }
        }
    }

    /// Reads a line that is not UTF-8. `text` has replacement characters.
    fn line_of_other_encoding(&mut self, number: u32, text: &str) {
        let comment = text.trim_start().strip_prefix('#');
        if comment.is_some_and(|comment| matches!(directive::read(number, comment), Ok(None))) {
            return;
        }
        // Without its directive, the next entry would be another job.
        (self.pending, self.spoiled) = (None, comment.is_some());
        self.fault(number, text.trim(), "the line is not UTF-8; save the file as UTF-8");
    }

    fn comment(&mut self, number: u32, text: &str) {
        let read = match directive::read(number, text) {
            Ok(None) => {
                if let Some(message) = near_miss::of_comment(text) {
                    self.warn(number, &format!("#{text}"), message);
                }
                return;
            }
            Ok(Some(read)) => read,
            Err(message) => {
                self.spoiled = true;
                return self.fault(number, text.trim(), message);
            }
        };
        match read {
            directive::DirectiveKind::Next(directive) => match &mut self.pending {
                Some(pending) => pending.merge(directive),
                None => self.pending = Some(directive),
            },
            directive::DirectiveKind::Defaults(directive) => self.defaults(directive),
        }
    }

    /// Applies defaults to a probe job first, so that a fault is reported once and not for every entry.
    fn defaults(&mut self, directive: Directive) {
        let number = directive.line;
        let faults_before = self.document.fault_count();
        if directive.names("name") {
            let message = "a name cannot be the default of all entries; write it with # sexton: before one";
            self.fault(number, "name", message);
        }
        self.check_user(&directive);
        let mut probe = Job::new(JobKey::new(GROUP_DEFAULT, "probe"), "@manually", Command::Shell(String::new()));
        directive.apply(&self.document, &mut probe);
        if let Err(message) = entry_zone::check(&probe.zone) {
            self.fault(number, &probe.zone, message);
        }
        if let Err(message) = fields::check_group(&probe.group) {
            self.fault(number, &probe.group, message);
        }
        if self.document.fault_count() == faults_before {
            self.defaults.push(directive);
        }
    }

    fn assignment(&mut self, number: u32, assignment: Assignment) {
        let Assignment { name, value } = assignment;
        if let Err(message) = fields::check_environment(&name, &value) {
            return self.fault(number, &name, message);
        }
        if let Some(advice) = advice::of_assignment(&name, &value, &self.environment) {
            self.warn(number, &advice.value, advice.message);
        }
        match name.as_str() {
            "LOGNAME" | "USER" => {
                return self.warn(number, &name, "cron sets this itself and ignores the line; remove it");
            }
            "CRON_TZ" => {
                if let Err(message) = self.zones.assign(&value) {
                    self.fault(number, &value, message);
                }
            }
            "TZ" => self.warn(number, &value, TZ_MESSAGE),
            "RANDOM_DELAY" => match random_delay::read(&value) {
                Ok(limit) => self.random_delay = limit,
                Err(message) => {
                    self.random_delay = None;
                    self.warn(number, &value, message);
                }
            },
            "MAILTO" | "MAILFROM" if !value.is_empty() => {
                if let Err(message) = check_recipients(&value) {
                    self.warn(number, &value, message);
                }
            }
            _ => {}
        }
        self.environment.insert(name, value);
    }

    /// Checks all of an entry, also when its directive is faulty, so that one reading finds every fault.
    fn entry(&mut self, number: u32, entry: &Entry<'_>) {
        let pending = self.pending.take();
        let spoiled = std::mem::take(&mut self.spoiled);
        let faults_before = self.document.fault_count();
        let mut job = self.job(number, entry, pending);
        let mut is_usable = !spoiled && self.document.fault_count() == faults_before;
        let mut nameless = None;
        let in_host_zone = self.zones.resolve(&mut job, |message| nameless = Some(message));
        if let Some(message) = nameless {
            self.fault(number, "", message);
        }
        is_usable &= in_host_zone.is_some();
        let mut former_names = Vec::new();
        if is_usable {
            match self.names.line_of(&job.key()) {
                _ if job.name.is_empty() => former_names = self.set_default_name(number, entry, &mut job),
                Some(earlier) => self.fault_of_name(number, earlier, &job),
                None => former_names = self.replaced_keys(&job),
            }
            is_usable = self.document.fault_count() == faults_before;
            fields::check_names(&self.document, number, &job);
        }
        if in_host_zone.is_some() {
            fields::check_zone(&self.document, number, &job);
        }
        fields::check_schedule(&self.document, number, &job);
        self.warn_of_entry(number, entry);
        if is_usable && self.document.fault_count() == faults_before {
            self.names.take(&job.key(), number);
            self.jobs.push(ListedJob { job, former_names, in_host_zone: in_host_zone == Some(true) });
        }
    }

    /// The job of an entry. Its name is empty if the entry has none, and so is its group.
    fn job(&self, number: u32, entry: &Entry<'_>, pending: Option<Directive>) -> Job {
        let key = JobKey::new("", "");
        let mut job = Job::new(key, entry.schedule.as_str(), Command::Shell(entry.command.clone()));
        job.source = Some(self.options.source.to_owned());
        LOCAL.clone_into(&mut job.zone);
        job.user = entry.user.or(self.options.user).map(str::to_owned);
        job.stdin = entry.stdin.clone();
        job.cwd = self.environment.get("HOME").cloned();
        job.env = self.environment.clone();
        job.mail = self.mail(entry);
        for directive in &self.defaults {
            // Their faults were reported at their own line.
            directive.apply(&Document::empty(&self.file), &mut job);
        }
        self.zones.set_assigned(&mut job);
        job.random_delay = self.random_delay.or(job.random_delay);
        if let Some(directive) = pending {
            directive.apply(&self.document, &mut job);
            for key in ["name", "group"] {
                let value = if key == "name" { &job.name } else { &job.group };
                if value.is_empty() && directive.names(key) {
                    self.fault(number, key, format!("the {key} is empty; write one, or leave it out"));
                }
            }
            self.check_user(&directive);
        }
        if let Some(owner) = self.options.mail_owner.filter(|_| !job.env.contains_key("MAILTO")) {
            job.mail = Some(self.mail_to(job.user.as_deref().unwrap_or(owner), entry));
        }
        if !job.name.is_empty() && job.group.is_empty() {
            job.group = default_name::default_group(&self.options, self.options.place);
        }
        job
    }

    /// Who gets the output of this entry; `None` without a MAILTO that cron accepts.
    fn mail(&self, entry: &Entry<'_>) -> Option<MailSettings> {
        Some(self.mail_to(self.accepted_address("MAILTO")?, entry))
    }

    fn mail_to(&self, to: &str, entry: &Entry<'_>) -> MailSettings {
        let from = self.accepted_address("MAILFROM").map(str::to_owned);
        MailSettings { to: to.to_owned(), from, only_failed: entry.mail_on_failure }
    }

    fn accepted_address(&self, variable: &str) -> Option<&str> {
        self.environment.get(variable).map(String::as_str).filter(|value| check_recipients(value).is_ok())
    }

    /// An entry of a user's crontab runs as this user; its comments cannot change that.
    fn check_user(&self, directive: &Directive) {
        if let Some(user) = self.options.user.filter(|_| directive.names("user")) {
            let message = format!("this is the crontab of `{user}`, whose entries run as no other user; remove `user`");
            self.fault(directive.line, "user", message);
        }
    }

    fn fault_of_name(&self, number: u32, earlier: u32, job: &Job) {
        let message =
            format!("line {earlier} already has a job with this name; give one of them another name or group");
        self.fault(number, &job.key().to_string(), message);
    }

    /// Sets name and group of an entry that has no name. Entries that are equal in file, user and command are numbered
    /// in the order of the file. Returns the former names.
    fn set_default_name(&mut self, number: u32, entry: &Entry<'_>, job: &mut Job) -> Vec<JobKey> {
        let own_group = std::mem::take(&mut job.group);
        let user = entry.user.or(self.options.user);
        let key_in = |place: Place, options: &Options<'_>| {
            let group = match own_group.as_str() {
                "" => default_name::default_group(options, place),
                own_group => own_group.to_owned(),
            };
            JobKey::new(group, default_name::default_name(entry, user, place, options.source))
        };
        let other_place = self.options.place.other();
        let (unnumbered, other) = (key_in(self.options.place, &self.options), key_in(other_place, &self.options));
        let former = JobKey::new(key_in(Place::Alone, &self.options).group, former_name::former_name(entry));

        let count = self.names.next_number(&unnumbered);
        let (key, other) = (numbered(&unnumbered, count), numbered(&other, count));
        let replaced = self.replaced_options().map(|options| numbered(&key_in(other_place, &options), count)).collect();
        let former = numbered(&former, self.names.next_former_number(&former));

        (job.group, job.name) = (key.group.clone(), key.name.clone());
        if job.schedule.contains(['H', '~']) {
            job.seed = Some(former.to_string());
        }
        // A faulty entry takes its number, too, so that its repair renames no other.
        self.names.take(&key, number);
        if let Some(earlier) = self.names.repeat(&unnumbered, &entry.schedule, number) {
            let message = format!(
                "the same entry as on line {earlier}, so it also runs as `{}`; remove one, or write # sexton: name=...",
                job.name
            );
            self.warn(number, entry.text, message);
        }
        [vec![other, former], replaced].concat()
    }

    /// The options of the files that this one replaces.
    fn replaced_options(&self) -> impl Iterator<Item = Options<'a>> {
        let options = self.options;
        options.replaced_sources.iter().map(move |source| Options { source, ..options })
    }

    /// The keys of an entry that has a name and no group, in the files that this one replaces.
    fn replaced_keys(&self, job: &Job) -> Vec<JobKey> {
        if job.group != default_name::default_group(&self.options, self.options.place) {
            return Vec::new();
        }
        let other_place = self.options.place.other();
        let groups = self.replaced_options().map(|options| default_name::default_group(&options, other_place));
        groups.map(|group| JobKey::new(group, &job.name)).filter(|key| *key != job.key()).collect()
    }

    fn warn_of_entry(&mut self, number: u32, entry: &Entry<'_>) {
        if let Some(message) = near_miss::of_command(entry.text) {
            self.warn(number, entry.text, message);
        }
        for advice in advice::of_entry(entry, &self.environment, &mut self.host_words) {
            self.warn(number, &advice.value, advice.message);
        }
        if entry.extension {
            self.warn(
                number,
                &entry.schedule,
                "cron does not know this schedule and refuses the line; write five fields if cron reads the file too",
            );
        }
        let is_mailed = self.options.mail_owner.is_some() || self.environment.contains_key("MAILTO");
        if entry.mail_on_failure && !is_mailed {
            self.warn(number, "-n", MAIL_ON_FAILURE_MESSAGE);
        }
        if entry.stdin.is_some() {
            self.warn(
                number,
                entry.text,
                "the text after the first % is the command's standard input; for a percent sign write \\%",
            );
        }
    }

    fn finish(self) -> FileContent {
        if let Some(pending) = &self.pending {
            self.warn(pending.line, "", "no entry follows this # sexton: line, so it has no effect; remove it");
        }
        FileContent { jobs: self.jobs, faults: self.document.take_faults(), references: self.document.references() }
    }
}

/// Characters of a line that a fault quotes. Chosen: enough to find the line.
const QUOTED_MAX: usize = 80;

fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
