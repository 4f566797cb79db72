//! All packs at hand: the built-in ones and those that the user's files add.
//!
//! Called by whoever wires a runner, a collector or `sexton rules`. Never reads files: text is handed in.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use domain::fault::{Fault, Faults, nearest_name};

use crate::pack::Pack;
use crate::rule_set::{RuleSet, RulesError};

/// Compiled sets kept for further jobs. Ours; one set of 100 rules takes about 200 KiB once it is warm.
const RULE_SETS_MAX: usize = 64;

/// `file` of a pack that came with the program.
pub const BUILT_IN: &str = "built-in";

const BUILT_IN_TEXTS: [&str; 3] =
    [include_str!("../packs/default.toml"), include_str!("../packs/shell.toml"), include_str!("../packs/python.toml")];

/// The tests read every built-in pack, so none is ever missing here.
static BUILT_IN_PACKS: LazyLock<BTreeMap<String, Arc<Pack>>> = LazyLock::new(|| {
    let read = BUILT_IN_TEXTS.iter().filter_map(|text| Pack::read(BUILT_IN, text).ok());
    read.map(|(pack, _)| (pack.name.clone(), Arc::new(pack))).collect()
});

/// Packs by name, with the sets compiled from them so far.
#[derive(Default)]
pub struct Packs {
    by_name: BTreeMap<String, Arc<Pack>>,
    warnings: Faults,
    compiled: Mutex<HashMap<Vec<String>, Arc<RuleSet>>>,
}

impl Packs {
    /// The packs that come with the program: `default`, `shell`, `python`.
    pub fn builtin() -> Packs {
        Packs { by_name: BUILT_IN_PACKS.clone(), ..Packs::default() }
    }

    /// Adds the pack that `text` holds. A pack of the user takes the place of a built-in one with the same name.
    ///
    /// # Errors
    /// Every fault of the text, or that another file gave a pack of this name already. Nothing is added then.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), Faults> {
        let (pack, warnings) = Pack::read(file, text)?;
        if let Some(other) = self.by_name.get(&pack.name).filter(|other| other.file != BUILT_IN) {
            let message = format!("{} holds a pack of this name already; rename one of the two", other.file);
            return Err(Faults(vec![Fault::new(file, 1, pack.name, message)]));
        }
        self.warnings.0.extend(warnings.0);
        self.by_name.insert(pack.name.clone(), Arc::new(pack));
        self.compiled.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    /// What the files said that works but may surprise.
    pub fn warnings(&self) -> &Faults {
        &self.warnings
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Pack>> {
        self.by_name.get(name)
    }

    /// All packs, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pack>> {
        self.by_name.values()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Every pack's examples; see [`Pack::check_examples`].
    pub fn check_examples(&self) -> Faults {
        Faults(self.iter().flat_map(|pack| pack.check_examples().0).collect())
    }

    /// The set of these packs, compiled once and shared by all who ask for the same names in the same order.
    pub(crate) fn rule_set(&self, names: &[String]) -> Result<Arc<RuleSet>, RulesError> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = compiled.get(names) {
            return Ok(Arc::clone(set));
        }
        let packs = names.iter().map(|name| self.find(name)).collect::<Result<Vec<_>, _>>()?;
        let set = Arc::new(RuleSet::from_packs(packs)?);
        if compiled.len() >= RULE_SETS_MAX {
            compiled.retain(|_, set| Arc::strong_count(set) > 1);
        }
        if compiled.len() < RULE_SETS_MAX {
            compiled.insert(names.to_vec(), Arc::clone(&set));
        }
        Ok(set)
    }

    pub(crate) fn find(&self, name: &str) -> Result<Arc<Pack>, RulesError> {
        self.get(name).cloned().ok_or_else(|| RulesError::UnknownPack {
            name: name.to_owned(),
            hint: match nearest_name(name, self.names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are {}", self.names().collect::<Vec<_>>().join(", ")),
            },
        })
    }
}
