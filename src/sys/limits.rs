//! What the limits of this process leave for memory files and their mappings.

use rustix::process::{Resource, getrlimit};

/// Bytes that a file may have; a longer one would end this process by SIGXFSZ.
///
/// # References
///
/// - [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html), `RLIMIT_FSIZE`
pub(crate) fn longest_file() -> u64 {
    getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX)
}

/// Parts of the free address space, one of which a memory file may take. Its mapping is in the application and in the
/// server, and in a worker there is a second one of the same length; what is left is for the program.
#[cfg(feature = "actors")]
const PARTS: u64 = 4;

/// Returns how much of `bytes` a memory file may have that the application, its server and its workers map, in whole
/// pages of `page` bytes: all that `RLIMIT_FSIZE` and `RLIMIT_AS` permit.
#[cfg(feature = "actors")]
pub(crate) fn mappable(bytes: usize, page: usize) -> usize {
    let free = getrlimit(Resource::As).current.map(|limit| limit.saturating_sub(address_space()));
    let most = free.map_or(u64::MAX, |free| free / PARTS).min(longest_file());
    match usize::try_from(most) {
        Ok(most) if most < bytes => most / page * page,
        _ => bytes,
    }
}

/// Bytes of address space that this process uses; 0 where the kernel does not tell it.
#[cfg(feature = "actors")]
fn address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
