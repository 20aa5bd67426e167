//! Registers a descriptor with the reactor although the system refuses that at first, for want of memory or watches.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use actix_rt::time::sleep;
use tokio::io::unix::AsyncFd;

use crate::sys::passing::RETRY_WAIT;
use crate::sys::{descriptors, reactor};

/// Registers a descriptor that others use as well, and tries again after a wait for as long as the system refuses it.
///
/// `is_over` is called at each refusal. It does by hand what the registration is for, and returns whether that is over;
/// the result is `None` then.
pub(crate) async fn register(
    descriptor: Arc<OwnedFd>,
    mut is_over: impl FnMut() -> bool,
) -> Option<AsyncFd<Arc<OwnedFd>>> {
    loop {
        match reactor::register_shared(descriptor.clone()) {
            Ok(registered) => return Some(registered),
            Err(_) if is_over() => return None,
            Err(_) => sleep(RETRY_WAIT).await,
        }
    }
}

/// Waits until the process of a pidfd has ended.
pub(crate) async fn exited(pidfd: Arc<OwnedFd>) {
    let has_exited = || descriptors::is_readable(pidfd.as_fd());
    if let Some(watched) = register(pidfd.clone(), has_exited).await {
        // An error means that the reactor is gone, and this task with it.
        let _ = watched.readable().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G2
    #[test]
    fn a_registration_that_is_refused_is_tried_again_until_it_is_over() {
        actix_rt::System::new().block_on(async {
            let (reader, _writer) = descriptors::pipe().expect("a pipe");
            let reader = Arc::new(reader);
            // The same descriptor is refused while it is registered.
            let mut other = Some(reactor::register_shared(reader.clone()).expect("a registration"));
            let mut refusals = 0;
            let registered = register(reader.clone(), || {
                refusals += 1;
                if refusals == 3 {
                    drop(other.take());
                }
                false
            });
            let registered = registered.await.expect("a registration");
            assert_eq!(refusals, 3);
            assert!(register(reader, || true).await.is_none());
            drop(registered);
        });
    }

    /// G2
    #[test]
    fn an_end_is_found_although_it_cannot_be_watched() {
        actix_rt::System::new().block_on(async {
            let (reader, writer) = descriptors::pipe().expect("a pipe");
            let reader = Arc::new(reader);
            let _other = reactor::register_shared(reader.clone()).expect("a registration");
            drop(writer);
            exited(reader).await;
        });
    }
}
