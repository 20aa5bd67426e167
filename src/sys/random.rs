//! Numbers that nobody can foresee.

/// A number that nobody else can know.
///
/// # References
///
/// - [getrandom(2)](https://man7.org/linux/man-pages/man2/getrandom.2.html)
pub(crate) fn unforeseeable() -> rustix::io::Result<u128> {
    let mut bytes = [0_u8; 16];
    let drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    // So few bytes come at once.
    if drawn == bytes.len() { Ok(u128::from_ne_bytes(bytes)) } else { Err(rustix::io::Errno::AGAIN) }
}
