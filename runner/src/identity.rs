//! The random id of this runner, which its state directory keeps: it distinguishes the runner from another one with the
//! same name.

use std::io;
use std::path::Path;

use keeper::directory::{Durability, write_atomically};

/// Random bytes of an id. Chosen: no two installations ever draw the same.
const ID_BYTES: usize = 16;

/// Reads the id of the state directory; draws one at the first start.
///
/// # Errors
/// When the file can be neither read nor created.
pub(crate) fn load_id(state: &Path) -> io::Result<String> {
    let path = state.join("id");
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut bytes = [0; ID_BYTES];
    let drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if drawn < ID_BYTES {
        return Err(io::Error::other("the kernel returned too few random bytes"));
    }
    let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_atomically(&path, id.as_bytes(), Durability::Disk)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_a_restart_and_differs_between_state_directories() {
        let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let id = load_id(one.path()).expect("drawn");
        assert_eq!((id.len(), load_id(one.path()).expect("read")), (2 * ID_BYTES, id.clone()));
        assert_ne!(load_id(other.path()).expect("drawn"), id);
        std::fs::write(one.path().join("id"), "\n").expect("written");
        assert_ne!(load_id(one.path()).expect("drawn again"), "");
    }
}
