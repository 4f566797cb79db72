//! Names in a file of jobs that other files define: rule packs and alert channels. Readers collect them with their
//! lines; callers that know the other files check them.

/// What a job refers to by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedKind {
    /// A rule pack, in `rules`.
    RulePack,
    /// An alert channel, in `alert.channels`.
    AlertChannel,
}

/// A name in a file that only another file defines, so that the reader cannot check it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameReference {
    /// What has the name.
    pub kind: NamedKind,
    /// 1-based line of the key.
    pub line: u32,
    /// As the file has it.
    pub name: String,
}
