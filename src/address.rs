//! The addresses of servers, as text.

use std::fmt;
use std::path::PathBuf;

/// Longest path of a Unix socket, in bytes.
///
/// # References
///
/// - [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), `sun_path`
const LONGEST_PATH: usize = 107;

/// Where a server listens, and to which an application connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A Unix socket with this name in the file system.
    Unix(PathBuf),
    /// A port of a host, with or without TLS.
    Net { host: String, port: u16, tls: bool },
    /// The sockets that a service manager passes, or those with this name.
    Inherited(Option<String>),
}

/// An address is invalid, or cannot be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The address has an unknown form.
    #[error(
        "the address {address:?} is invalid: write unix:/path, tcp:host:port or tls:host:port, or systemd: for a server"
    )]
    Unknown {
        /// The address.
        address: String,
    },
    /// The path is too long for a Unix socket.
    #[error("the path {path:?} is {length} bytes long, and that of a socket may have at most {most}")]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length, in bytes.
        length: usize,
        /// The largest length, in bytes.
        most: usize,
    },
    /// Only a server can listen there; an application cannot connect to it.
    #[error(
        "{address:?} is an address for servers: an application connects to unix:/path, tcp:host:port or tls:host:port"
    )]
    ForServers {
        /// The address.
        address: String,
    },
    /// The address needs certificates, and none are set.
    #[error(
        "{address:?} needs certificates: set them with `certificates`, and enable the feature `tls` of forkpool"
    )]
    NoCertificates {
        /// The address.
        address: String,
    },
}

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    ///
    /// [`AddressError::Unknown`] and [`AddressError::TooLong`].
    pub(crate) fn parse(text: &str) -> Result<Address, AddressError> {
        let unknown = || AddressError::Unknown { address: text.to_owned() };
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => unix(path.into()),
            Some((scheme @ ("tcp" | "tls"), place)) => {
                let (host, port) = host_and_port(place).ok_or_else(unknown)?;
                Ok(Address::Net { host, port, tls: scheme == "tls" })
            }
            Some(("systemd", "")) => Ok(Address::Inherited(None)),
            Some(("systemd", name)) => Ok(Address::Inherited(Some(name.to_owned()))),
            _ => Err(unknown()),
        }
    }
}

fn unix(path: PathBuf) -> Result<Address, AddressError> {
    let (length, most) = (path.as_os_str().len(), LONGEST_PATH);
    if length > most {
        return Err(AddressError::TooLong { path, length, most });
    }
    Ok(Address::Unix(path))
}

/// Parses `host:port`, or `[host]:port` if the host contains colons.
fn host_and_port(place: &str) -> Option<(String, u16)> {
    let (host, port) = place.rsplit_once(':')?;
    let bare = host.strip_prefix('[').map_or(Some(host), |host| host.strip_suffix(']'))?;
    let is_clear = bare == host.trim_matches(['[', ']']) && (bare != host || !bare.contains(':'));
    (is_clear && !bare.is_empty()).then_some((bare.to_owned(), port.parse().ok()?))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Net { host, port, tls } => {
                let scheme = if *tls { "tls" } else { "tcp" };
                match host.contains(':') {
                    true => write!(f, "{scheme}:[{host}]:{port}"),
                    false => write!(f, "{scheme}:{host}:{port}"),
                }
            }
            Address::Inherited(name) => write!(f, "systemd:{}", name.as_deref().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in [
            "unix:/run/a.sock",
            "unix:a.sock",
            "systemd:",
            "systemd:passwords",
            "tcp:127.0.0.1:7000",
            "tls:passwords.example:7443",
            "tls:[::1]:7443",
        ] {
            assert_eq!(Address::parse(text).map(|address| address.to_string()).as_deref(), Ok(text));
        }
        for text in [
            "",
            "unix:",
            "/run/a.sock",
            "udp:1",
            "unix",
            "tcp:",
            "tcp:7000",
            "tcp::7000",
            "tcp:host:70000",
            "tcp:host:",
            "tcp:::1:7000",
            "tcp:[::1:7000",
            "tls:[]:1",
        ] {
            let error = Address::parse(text).map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|error| error.contains("unix:/path")), "{text:?}: {error:?}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        let error = Address::parse(&long).map_err(|error| error.to_string());
        assert!(error.is_err_and(|error| error.contains("108 bytes long") && error.contains("at most 107")));
    }
}
