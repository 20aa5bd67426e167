//! Random numbers of the system.

/// Returns a number that other processes cannot predict.
///
/// # Errors
///
/// The system's error, or `AGAIN` if it returned too few bytes.
///
/// # References
///
/// - [getrandom(2)](https://man7.org/linux/man-pages/man2/getrandom.2.html)
pub(crate) fn random_u128() -> rustix::io::Result<u128> {
    super::faults::point(super::faults::Call::Getrandom)?;
    let mut bytes = [0_u8; 16];
    let drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    // The kernel returns up to 256 bytes in full.
    if drawn == bytes.len() { Ok(u128::from_ne_bytes(bytes)) } else { Err(rustix::io::Errno::AGAIN) }
}
