//! `H` and `~`: a value that differs from job to job, and is the same on every host and after every restart.
//!
//! The hash covers the job's full name, in order, and the field's name. So anagrams do not collide, and the minute of a
//! job does not determine its hour.

/// A number that depends only on the job (`seed`) and the field.
pub(super) fn hash(seed: &str, field: &str) -> u64 {
    // FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/), then the finalizer of SplitMix64, because the low bits of
    // FNV alone are too regular for a remainder by 24 or 60.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in seed.bytes().chain([0]).chain(field.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// A value from `low` to `high`, both included.
pub(super) fn within(low: u16, high: u16, hash: u64) -> u16 {
    low + (hash % u64::from(high - low + 1)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anagrams_and_fields_do_not_share_a_value() {
        assert_ne!(hash("db/ab", "minute"), hash("db/ba", "minute"));
        assert_ne!(hash("db/ab", "minute"), hash("db/ab", "hour"));
        assert_eq!(hash("db/ab", "minute"), hash("db/ab", "minute"));
    }

    #[test]
    fn a_thousand_jobs_are_spread_over_all_minutes() {
        let mut used = [0; 60];
        for job in 0..1000 {
            used[usize::from(within(0, 59, hash(&format!("group/job-{job}"), "minute")))] += 1;
        }
        assert!(used.iter().all(|count| (1..=40).contains(count)), "{used:?}");
    }
}
