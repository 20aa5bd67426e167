//! A page that shows the pools of an application while they work.

mod action;
mod origin;
mod page;
mod pools;

use std::fmt;
use std::rc::Rc;

use actix_web::dev::{AppService, HttpServiceFactory};
use actix_web::guard::{Guard, GuardContext};
use actix_web::middleware::DefaultHeaders;
use actix_web::{HttpRequest, HttpResponse, Resource, Scope, web};

use super::Pools;
use action::{Target, Verb};
use page::Nonce;
use pools::{Asked, ShownPools};

/// What a [`dashboard()`] shows of the last failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Detail {
    /// When a call failed, its name, the kind of the failure and the number of the worker.
    #[default]
    Kind,
    /// All lines of the failure as `{:#}` prints it. They include the text of a panic, its backtrace, and what the worker
    /// printed and logged last, so they may include what users of the application have sent.
    Lines,
}

/// Makes a page that shows pools while they work: their workers with the calls that run, who holds them, the queue, rates
/// and times of the last minutes, and the last failures.
///
/// Give it to `App::service`, or to that of a scope. The page is one document without any other request but that for its
/// data, once a second while it is visible. The viewers of all threads share one snapshot of a pool a second. It works
/// behind a prefix that a proxy removes, and with HTTP/2.
///
/// ```no_run
/// use actix_web::{App, HttpServer};
/// use forkpool::prelude::*;
/// use forkpool::web;
///
/// # fn serve<W: Worker>(pool: PoolHandle<W>) -> std::io::Result<()> {
/// HttpServer::new(move || App::new().service(web::dashboard("/_pool", &pool)));
/// # Ok(())
/// # }
/// ```
///
/// # Who may look
///
/// **The library authenticates no viewer: without a guard of yours, each client that can reach the page sees it.** It shows
/// names of pools and messages, places in the source, process ids and texts of outages, and with [`Detail::Lines`]
/// whatever failures say. Put it where only you come, or behind what the rest of your application has for that:
///
/// ```no_run
/// # use actix_web::{App, guard, middleware::from_fn, web as actix};
/// # use actix_web::{Error, body::MessageBody, dev::{ServiceRequest, ServiceResponse}, middleware::Next};
/// # use forkpool::prelude::*;
/// # fn is_admin(_: &guard::GuardContext<'_>) -> bool { true }
/// # async fn login(r: ServiceRequest, next: Next<impl MessageBody>) -> Result<ServiceResponse<impl MessageBody>, Error> {
/// #     next.call(r).await
/// # }
/// # fn app<W: Worker>(pool: PoolHandle<W>) {
/// // By a guard: the page does not exist for others.
/// App::new().service(
///     forkpool::web::dashboard("/_pool", &pool).guard(guard::fn_guard(is_admin)).guard_viewing(true),
/// );
/// // By a middleware of a scope.
/// App::new().service(
///     actix::scope("/admin").wrap(from_fn(login)).service(forkpool::web::dashboard("/pools", &pool)),
/// );
/// # }
/// ```
///
/// # What viewers may do
///
/// Nothing, unless [`read_only(false)`](Dashboard::read_only) is set; the paths of actions do not exist then. See there for
/// what is asked of a request.
///
/// # Paths
///
/// Below the path of the dashboard, for scripts as well:
///
/// | path | what |
/// |---|---|
/// | `GET snapshot.json` | `pools`: the [`Snapshot`](crate::Snapshot) of each pool, and its `key` in the other paths |
/// | `GET failures.json?pool=KEY&since=NUMBER` | the last failures of this or of each pool that have a higher number |
/// | `POST KEY/workers/NUMBER/drain` | [`recycle`](crate::PoolHandle::recycle) of this worker |
/// | `POST KEY/workers/NUMBER/kill` | [`kill_worker`](crate::PoolHandle::kill_worker) |
/// | `POST KEY/recycle` | [`recycle`](crate::PoolHandle::recycle) of all workers |
/// | `POST KEY/pause`, `POST KEY/resume` | [`pause`](crate::PoolHandle::pause), [`resume`](crate::PoolHandle::resume) |
///
/// The key of a pool is its name; of pools with one name, the second has `-2` behind it. A dashboard does not keep its pools
/// running, and shows them until the application ends.
pub fn dashboard(path: impl Into<String>, pools: impl Pools) -> Dashboard {
    Dashboard {
        path: path.into(),
        pools: ShownPools::of(&pools),
        is_read_only: true,
        guards: Vec::new(),
        guards_viewing: false,
        nonce: Nonce::Own,
        detail: Detail::default(),
    }
}

/// The page of [`dashboard()`], and its options.
#[must_use = "a dashboard is there once it is given to App::service"]
pub struct Dashboard {
    path: String,
    pools: ShownPools,
    is_read_only: bool,
    guards: Vec<Box<dyn Guard>>,
    guards_viewing: bool,
    nonce: Nonce,
    detail: Detail,
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard")
            .field("path", &self.path)
            .field("is_read_only", &self.is_read_only)
            .field("detail", &self.detail)
            .finish_non_exhaustive()
    }
}

impl Dashboard {
    /// Sets whether viewers can change nothing. Default: `true`, and the paths of actions do not exist.
    ///
    /// With `false` there has to be a [`guard`](Self::guard), which decides who may act. An action is a POST with
    /// `content-type: application/json` and a header `x-forkpool` of any value. Another origin cannot send these without
    /// asking first, and gets no permission. A `Sec-Fetch-Site` must be `same-origin`, and an `Origin` must name the host
    /// that the request names, so a proxy in front has to pass `Host` on. Everything else is refused with a line that says
    /// why. Each action, also one that is refused, is logged with the address of its peer.
    ///
    /// # Panics
    ///
    /// The application panics at its start if there is no guard.
    pub fn read_only(mut self, is_read_only: bool) -> Self {
        self.is_read_only = is_read_only;
        self
    }

    /// Adds a guard that decides who may act; of several, all have to agree. Default: none.
    ///
    /// A guard should look at what proves who the client is, such as a session or a token. The address of the peer alone
    /// is no proof: a page of another site can have a browser on the same machine send requests.
    ///
    /// # Panics
    ///
    /// The application panics at its start if the guard has nothing to guard: a read-only dashboard needs
    /// [`guard_viewing`](Self::guard_viewing).
    pub fn guard(mut self, guard: impl Guard + 'static) -> Self {
        self.guards.push(Box::new(guard));
        self
    }

    /// Sets whether the guards decide on all requests, not on actions alone. Default: `false`. The page does not exist for
    /// clients that they refuse.
    ///
    /// # Panics
    ///
    /// The application panics at its start if this is set and there is no guard.
    pub fn guard_viewing(mut self, guards_viewing: bool) -> Self {
        self.guards_viewing = guards_viewing;
        self
    }

    /// Sets where the nonce of the page comes from, for applications that set `Content-Security-Policy` themselves. Default:
    /// 128 random bits of the kernel for each response.
    ///
    /// The header of the page names the same nonce. A nonce has letters, digits and `+/-_=`; with any other the page is
    /// answered 500, and the log says so.
    pub fn csp_nonce(mut self, nonce: impl Fn(&HttpRequest) -> String + 'static) -> Self {
        self.nonce = Nonce::Given(Box::new(nonce));
        self
    }

    /// Sets what is shown of the last failures. Default: [`Detail::Kind`].
    pub fn show_dossiers(mut self, detail: Detail) -> Self {
        self.detail = detail;
        self
    }

    fn check(&self) {
        let path = &self.path;
        assert!(
            self.is_read_only || !self.guards.is_empty(),
            "a dashboard with actions needs a guard that says who may act; add it: \
             forkpool::web::dashboard({path:?}, …).read_only(false).guard(actix_web::guard::fn_guard(is_admin))"
        );
        assert!(
            !self.guards_viewing || !self.guards.is_empty(),
            "there is no guard of the views; add it: \
             forkpool::web::dashboard({path:?}, …).guard_viewing(true).guard(actix_web::guard::fn_guard(is_admin))"
        );
        assert!(
            !self.is_read_only || self.guards_viewing || self.guards.is_empty(),
            "the guard of a read-only dashboard guards nothing; to have it guard the views, write: \
             forkpool::web::dashboard({path:?}, …).guard(…).guard_viewing(true)"
        );
    }
}

/// All guards of a dashboard.
struct All(Vec<Box<dyn Guard>>);

impl Guard for All {
    fn check(&self, context: &GuardContext<'_>) -> bool {
        self.0.iter().all(|guard| guard.check(context))
    }
}

impl HttpServiceFactory for Dashboard {
    fn register(self, config: &mut AppService) {
        self.check();
        let Dashboard { path, pools, is_read_only, guards, guards_viewing, nonce, detail } = self;
        let guards: Rc<dyn Guard> = Rc::new(All(guards));
        let view = Rc::new(pools.view(!is_read_only, detail));
        let nonce = Rc::new(nonce);
        let mut scope = web::scope(&path)
            .service(document("", &nonce))
            .service(document("/", &nonce))
            .service(snapshot(&view))
            .service(failures(&view));
        if !is_read_only {
            scope = actions(scope, &view, &guards);
        }
        if guards_viewing {
            scope = scope.guard(guards);
        }
        let scope = scope.default_service(web::to(async || page::nothing_here()));
        scope.wrap(default_headers()).register(config);
    }
}

/// What all responses say, unless they say otherwise.
fn default_headers() -> DefaultHeaders {
    DefaultHeaders::new()
        .add(("content-security-policy", "default-src 'none'; frame-ancestors 'none'"))
        .add(("x-content-type-options", "nosniff"))
        .add(("cache-control", "no-store"))
        .add(("referrer-policy", "no-referrer"))
        .add(("cross-origin-resource-policy", "same-origin"))
}

fn document(path: &str, nonce: &Rc<Nonce>) -> Resource {
    let nonce = nonce.clone();
    web::resource(path).get(move |request: HttpRequest| {
        let response = nonce.page(&request);
        async move { response }
    })
}

fn snapshot(view: &Rc<pools::View>) -> Resource {
    let view = view.clone();
    web::resource("/snapshot.json").get(move || {
        let response = view.snapshot();
        async move { response }
    })
}

fn failures(view: &Rc<pools::View>) -> Resource {
    let view = view.clone();
    web::resource("/failures.json").get(move |asked: web::Query<Asked>| {
        let view = view.clone();
        async move { view.failures(&asked).await }
    })
}

fn actions(scope: Scope, view: &Rc<pools::View>, guards: &Rc<dyn Guard>) -> Scope {
    let paths = [
        ("/{pool}/workers/{number}/drain", Verb::Drain),
        ("/{pool}/workers/{number}/kill", Verb::Kill),
        ("/{pool}/recycle", Verb::Recycle),
        ("/{pool}/pause", Verb::Pause),
        ("/{pool}/resume", Verb::Resume),
    ];
    paths.into_iter().fold(scope, |scope, (path, verb)| {
        let (view, guards) = (view.clone(), guards.clone());
        let allowed = move |request: HttpRequest, target: web::Path<Target>| {
            let response = action::act(&view, verb, &request, &target);
            async move { response }
        };
        let refused = move |request: HttpRequest, target: web::Path<Target>| {
            let response = action::refuse_by_guard(verb, &request, &target);
            async move { response }
        };
        let resource = web::resource(path)
            .route(web::post().guard(guards).to(allowed))
            .route(web::post().to(refused))
            .default_service(web::to(async || -> HttpResponse { action::not_a_post() }));
        scope.service(resource)
    })
}
