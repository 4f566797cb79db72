//! All available packs: the built-in ones and those of the user's files. Used by the runner, the collector and `sexton
//! rules`. Never reads files: the caller passes their text.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use domain::fault::{Fault, Faults, nearest_name};

use crate::automata::SharedAutomata;
use crate::pack::{Origin, Pack};
use crate::rule_set::{RuleSet, RulesError};

/// Compiled sets that are cached. Chosen: a set of 100 rules takes about 200 KiB after its first use.
const RULE_SETS_MAX: usize = 64;

/// The `file` of a built-in pack.
pub const BUILT_IN: &str = "built-in";

const BUILT_IN_TEXTS: [&str; 36] = [
    include_str!("../packs/ansible-terraform.toml"),
    include_str!("../packs/aws-cli.toml"),
    include_str!("../packs/coreutils.toml"),
    include_str!("../packs/crypto.toml"),
    include_str!("../packs/curl-wget.toml"),
    include_str!("../packs/default.toml"),
    include_str!("../packs/disk.toml"),
    include_str!("../packs/docker-kubernetes.toml"),
    include_str!("../packs/dotnet.toml"),
    include_str!("../packs/git.toml"),
    include_str!("../packs/go.toml"),
    include_str!("../packs/java-scala.toml"),
    include_str!("../packs/lua.toml"),
    include_str!("../packs/mail.toml"),
    include_str!("../packs/make-compilers.toml"),
    include_str!("../packs/media.toml"),
    include_str!("../packs/memory.toml"),
    include_str!("../packs/mongodb.toml"),
    include_str!("../packs/mysql.toml"),
    include_str!("../packs/network.toml"),
    include_str!("../packs/node.toml"),
    include_str!("../packs/perl.toml"),
    include_str!("../packs/php.toml"),
    include_str!("../packs/postgres.toml"),
    include_str!("../packs/python.toml"),
    include_str!("../packs/r.toml"),
    include_str!("../packs/redis.toml"),
    include_str!("../packs/restic-borg.toml"),
    include_str!("../packs/rsync.toml"),
    include_str!("../packs/ruby.toml"),
    include_str!("../packs/rust.toml"),
    include_str!("../packs/shell.toml"),
    include_str!("../packs/sqlite.toml"),
    include_str!("../packs/ssh.toml"),
    include_str!("../packs/system.toml"),
    include_str!("../packs/tar-gzip.toml"),
];

/// A test reads every built-in pack, so none is missing here.
static BUILT_IN_PACKS: LazyLock<BTreeMap<String, Arc<Pack>>> = LazyLock::new(|| {
    let read = BUILT_IN_TEXTS.iter().filter_map(|text| Pack::read_from(BUILT_IN, text, Origin::BuiltIn).ok());
    read.map(|(pack, _)| (pack.name.clone(), Arc::new(pack))).collect()
});

/// Packs by name, with a cache of the sets compiled from them.
#[derive(Default)]
pub struct Packs {
    by_name: BTreeMap<String, Arc<Pack>>,
    warnings: Faults,
    compiled: Mutex<Compiled>,
}

/// What was compiled so far.
#[derive(Default)]
struct Compiled {
    /// By the names of the packs.
    sets: HashMap<Vec<String>, Arc<RuleSet>>,
    /// Of large packs.
    automata: SharedAutomata,
}

impl Packs {
    /// The built-in packs.
    pub fn builtin() -> Packs {
        Packs { by_name: BUILT_IN_PACKS.clone(), ..Packs::default() }
    }

    /// Adds the pack in `text`. A pack of the user replaces a built-in one with the same name.
    ///
    /// # Errors
    /// All faults of the text, or that another file already has a pack with this name. Then nothing is added.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), Faults> {
        let (pack, warnings) = Pack::read(file, text)?;
        if let Some(other) = self.by_name.get(&pack.name).filter(|other| other.file != BUILT_IN) {
            let message = format!("{} already has a pack with this name; rename one of the two", other.file);
            return Err(Faults(vec![Fault::new(file, 1, pack.name, message)]));
        }
        self.warnings.0.extend(warnings.0);
        self.by_name.insert(pack.name.clone(), Arc::new(pack));
        *self.compiled.get_mut().unwrap_or_else(PoisonError::into_inner) = Compiled::default();
        Ok(())
    }

    /// The packs of the user that replace a built-in one of the same name.
    pub fn replacing_built_in(&self) -> impl Iterator<Item = &Arc<Pack>> {
        self.iter().filter(|pack| pack.file != BUILT_IN && BUILT_IN_PACKS.contains_key(&pack.name))
    }

    /// Whether a built-in pack has this name.
    pub(crate) fn is_built_in(name: &str) -> bool {
        BUILT_IN_PACKS.contains_key(name)
    }

    /// The warnings of all files.
    pub fn warnings(&self) -> &Faults {
        &self.warnings
    }

    /// The pack with this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Pack>> {
        self.by_name.get(name)
    }

    /// All packs, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pack>> {
        self.by_name.values()
    }

    /// The names of all packs, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Tests the examples of every pack; see [`Pack::check_examples`].
    pub fn check_examples(&self) -> Faults {
        Faults(self.iter().flat_map(|pack| pack.check_examples().0).collect())
    }

    /// The set of these packs, compiled once for the same names in the same order.
    pub(crate) fn rule_set(&self, names: &[String]) -> Result<Arc<RuleSet>, RulesError> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let Compiled { sets, automata } = &mut *compiled;
        if let Some(set) = sets.get(names) {
            return Ok(Arc::clone(set));
        }
        let packs = names.iter().map(|name| self.find(name)).collect::<Result<Vec<_>, _>>()?;
        let set = Arc::new(RuleSet::from_packs(packs, automata)?);
        if sets.len() >= RULE_SETS_MAX {
            sets.retain(|_, set| Arc::strong_count(set) > 1);
        }
        if sets.len() < RULE_SETS_MAX {
            sets.insert(names.to_vec(), Arc::clone(&set));
        }
        Ok(set)
    }

    /// The pack with this name.
    ///
    /// # Errors
    /// An unknown pack, with the nearest known name.
    pub fn find(&self, name: &str) -> Result<Arc<Pack>, RulesError> {
        self.get(name).cloned().ok_or_else(|| RulesError::UnknownPack {
            name: name.to_owned(),
            hint: match nearest_name(name, self.names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are {}", self.names().collect::<Vec<_>>().join(", ")),
            },
        })
    }
}
