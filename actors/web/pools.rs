//! The pools behind a web server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;
use tokio::task::JoinHandle;

use crate::actors::api::pool_handle::PoolHandle;
use crate::actors::api::stop_report::StopReport;
use crate::actors::scheduler::Scheduler;
use crate::actors::worker_api::worker::Worker;

/// Any number of pools, of the same or of different worker types, for [`web::run`](crate::web::run) and
/// [`web::dashboard`](crate::web::dashboard()).
///
/// A pool is a [`PoolHandle`], or one in `web::Data`. Pools are a pool, a reference to pools, an array, a slice or a `Vec` of
/// pools, and a tuple of up to eight: `&pool`, `[&readers, &writers]`, `(&thumbnails, &passwords)`. `()` is no pool.
pub trait Pools {
    #[doc(hidden)]
    fn add_to(&self, pools: &mut Vec<AnyPool>);
}

/// A pool of workers of any type.
#[doc(hidden)]
pub struct AnyPool {
    scheduler: Arc<Scheduler>,
    stop: Box<dyn Fn(Duration) -> JoinHandle<StopReport> + Send + Sync>,
}

impl fmt::Debug for AnyPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AnyPool").field(&self.name()).finish()
    }
}

impl AnyPool {
    pub(super) fn name(&self) -> &str {
        &self.scheduler.options.name
    }

    /// Returns what shows and changes the pool, and does not keep it running.
    pub(super) fn into_scheduler(self) -> Arc<Scheduler> {
        self.scheduler
    }

    /// Begins to stop the pool, on this runtime.
    pub(super) fn stop(&self, drain: Duration) -> JoinHandle<StopReport> {
        (self.stop)(drain)
    }
}

impl<W: Worker> Pools for PoolHandle<W> {
    fn add_to(&self, pools: &mut Vec<AnyPool>) {
        let pool = self.clone();
        let stop = move |drain| tokio::spawn(pool.stop(drain));
        pools.push(AnyPool { scheduler: self.scheduler().clone(), stop: Box::new(stop) });
    }
}

impl<P: Pools + ?Sized> Pools for &P {
    fn add_to(&self, pools: &mut Vec<AnyPool>) {
        (**self).add_to(pools);
    }
}

impl<P: Pools + ?Sized> Pools for Data<P> {
    fn add_to(&self, pools: &mut Vec<AnyPool>) {
        (***self).add_to(pools);
    }
}

impl<P: Pools> Pools for [P] {
    fn add_to(&self, pools: &mut Vec<AnyPool>) {
        self.iter().for_each(|pool| pool.add_to(pools));
    }
}

impl<P: Pools, const N: usize> Pools for [P; N] {
    fn add_to(&self, pools: &mut Vec<AnyPool>) {
        self.as_slice().add_to(pools);
    }
}

impl<P: Pools> Pools for Vec<P> {
    fn add_to(&self, pools: &mut Vec<AnyPool>) {
        self.as_slice().add_to(pools);
    }
}

/// Implements `Pools` for a tuple, and for those of its later fields.
macro_rules! pools_of_tuples {
    () => {
        impl Pools for () {
            fn add_to(&self, _: &mut Vec<AnyPool>) {}
        }
    };
    ($first:ident $(, $rest:ident)*) => {
        impl<$first: Pools $(, $rest: Pools)*> Pools for ($first, $($rest,)*) {
            #[allow(non_snake_case, reason = "a field is named as its type")]
            fn add_to(&self, pools: &mut Vec<AnyPool>) {
                let ($first, $($rest,)*) = self;
                $first.add_to(pools);
                $($rest.add_to(pools);)*
            }
        }
        pools_of_tuples!($($rest),*);
    };
}

pools_of_tuples!(A, B, C, D, E, F, G, H);
