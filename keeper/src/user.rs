//! The user of a job, and crontab's variables for that user.

#![expect(unsafe_code, reason = "the users and groups of the machine are read through libc")]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;

use domain::system_error::plain_text;

/// The longest passwd entry that is read. glibc suggests 1 KiB; directories with many fields need more. Chosen, not
/// measured.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// An account of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Numeric id.
    pub uid: u32,
    /// Numeric id of the primary group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
}

/// The identity that the job's process takes before exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// The user of the job, and the identity to take when it is not the keeper's own.
///
/// # Errors
/// Returns one sentence for the run's record: no such user, or no permission to become it.
pub(crate) fn resolve(wanted: Option<&str>) -> Result<(User, Option<Identity>), String> {
    let own_uid = rustix::process::geteuid().as_raw();
    let Some(name) = wanted else {
        let user = find_by_uid(own_uid).unwrap_or_else(|| User {
            name: own_uid.to_string(),
            uid: own_uid,
            gid: rustix::process::getegid().as_raw(),
            home: "/".to_owned(),
        });
        return Ok((user, None));
    };
    let Some(user) = find_by_name(name) else {
        return Err(format!("user `{name}` does not exist on this machine; create it or change the job's user"));
    };
    if user.uid == own_uid && own_uid != 0 {
        return Ok((user, None));
    }
    if own_uid != 0 {
        return Err(format!(
            "the runner may not start a job as user `{name}`, because it does not run as root; run it as root or remove \
             the job's user"
        ));
    }
    let groups = read_groups(&user)
        .map_err(|error| format!("cannot read the groups of user `{name}`: {}", plain_text(&error)))?;
    let identity = Identity { uid: user.uid, gid: user.gid, groups };
    Ok((user, Some(identity)))
}

/// Name of the user that runs a job without `user`.
pub fn own_user() -> String {
    resolve(None).map_or_else(|message| message, |(user, _)| user.name)
}

/// The name of a user. None without a passwd entry.
pub fn user_name(uid: u32) -> Option<String> {
    find_by_uid(uid).map(|user| user.name)
}

/// Home directory of the own user in the passwd database. None without an entry.
pub fn own_home() -> Option<String> {
    find_by_uid(rustix::process::geteuid().as_raw()).map(|user| user.home)
}

/// Name and home directory of the user that runs a job with this `user`. A user without an entry on this machine keeps
/// its name and gets `/`.
pub fn name_and_home(wanted: Option<&str>) -> (String, String) {
    let found = wanted.map_or_else(|| resolve(None).ok().map(|(user, _)| user), find_by_name);
    found.map_or_else(|| (wanted.unwrap_or_default().to_owned(), "/".to_owned()), |user| (user.name, user.home))
}

/// The account with this login name.
pub fn find_by_name(name: &str) -> Option<User> {
    let name = CString::new(name).ok()?;
    look_up_entry(|passwd, buffer, length, found| {
        // SAFETY: all pointers are valid during the call, and the name ends in NUL.
        unsafe { libc::getpwnam_r(name.as_ptr(), passwd, buffer, length, found) }
    })
}

/// The first account with this numeric id.
pub fn find_by_uid(uid: u32) -> Option<User> {
    look_up_entry(|passwd, buffer, length, found| {
        // SAFETY: all pointers are valid during the call.
        unsafe { libc::getpwuid_r(uid, passwd, buffer, length, found) }
    })
}

fn look_up_entry(
    look_up: impl Fn(*mut libc::passwd, *mut libc::c_char, usize, *mut *mut libc::passwd) -> libc::c_int,
) -> Option<User> {
    let mut buffer: Vec<libc::c_char> = vec![0; 1_024];
    loop {
        let mut passwd = MaybeUninit::<libc::passwd>::zeroed();
        let mut found = std::ptr::null_mut();
        match look_up(passwd.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found) {
            libc::ERANGE if buffer.len() < ENTRY_BYTES_MAX => buffer.resize(buffer.len() * 2, 0),
            libc::EINTR => {}
            0 if !found.is_null() => {
                // SAFETY: the call succeeded, so the entry is filled and its strings are in the buffer.
                return Some(unsafe {
                    let passwd = passwd.assume_init();
                    User {
                        name: text(passwd.pw_name),
                        uid: passwd.pw_uid,
                        gid: passwd.pw_gid,
                        home: text(passwd.pw_dir),
                    }
                });
            }
            _ => return None,
        }
    }
}

/// # Safety
/// `pointer` is null or points to a string that ends in NUL.
unsafe fn text(pointer: *const libc::c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the caller guarantees a string that ends in NUL.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

fn read_groups(user: &User) -> io::Result<Vec<u32>> {
    let name = CString::new(user.name.as_str())?;
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut count = groups.len() as libc::c_int;
        // SAFETY: the list has `count` elements.
        if unsafe { libc::getgrouplist(name.as_ptr(), user.gid, groups.as_mut_ptr(), &mut count) } >= 0 {
            groups.truncate(count.max(0) as usize);
            return Ok(groups);
        }
        // NGROUPS_MAX of Linux is 65536.
        if groups.len() >= 65_536 {
            return Err(io::Error::other("too many groups"));
        }
        groups.resize(groups.len() * 4, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_or_refused_with_a_reason() {
        let (own, identity) = resolve(None).expect("own user");
        assert_eq!((own.uid, identity), (rustix::process::geteuid().as_raw(), None));
        assert!(resolve(Some("no-such-user-anywhere")).is_err_and(|message| message.contains("no-such-user-anywhere")));
        assert!(resolve(Some("nul\0byte")).is_err());
    }
}
