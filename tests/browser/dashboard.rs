//! What a viewer sees and does, and what pages of other origins cannot do.

use std::net::{SocketAddr, TcpListener};

use actix_web::{App, HttpServer, guard, web};
use forkpool::prelude::*;
use forkpool::web::dashboard;
use serde_json::json;

use crate::chromium::Browser;
use crate::harness::*;
use crate::service::Service;

/// Serves a dashboard with actions, and an empty page.
fn serve(pool: &PoolHandle<Probe>, at: Option<SocketAddr>) -> Service {
    let pool = pool.clone();
    Service::start(move |free| {
        let listener = at.map_or(Ok(free), TcpListener::bind)?;
        let app = move || {
            let all = dashboard("/_pool", &pool).read_only(false).guard(guard::fn_guard(|_| true));
            let empty = web::get().to(async || web::Html::new("<!doctype html><title>empty</title>"));
            App::new().service(web::scope("/ops").service(all)).route("/empty", empty)
        };
        Ok(HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run())
    })
}

/// M3: the worker of the running call is killed by its button, and another one takes its place. A name that looks like a
/// script is a text, the console is silent, and no other host is asked.
#[test]
fn a_viewer_sees_a_running_call_and_kills_its_worker() {
    run(async {
        let Some(browser) = Browser::start().await else { return };
        let name = "<script>alert(1)<img src=x onerror=alert(2)>";
        let pool = pool().name(name).workers(2..=2).start().expect("the pool starts");
        settled(&pool, 2).await;
        let journal = Scratch::path();
        let call = pool.send(Task(0, journal.get().to_owned(), None, Act::Spin));
        // One that was only written to the worker would run on the next one.
        until("it runs", || !journal.lines().is_empty()).await;
        let mut workers = pool.snapshot().workers.into_iter();
        let victim = workers.find(|worker| worker.call == Some("Task")).expect("it runs");
        let service = serve(&pool, None);
        let origin = format!("http://{}/", service.address);
        browser.open(&format!("{origin}ops/_pool")).await;
        let row = format!(
            "const row = [...document.querySelectorAll('tbody tr')].find((row) => row.children[1].innerText === '{}');",
            victim.pid
        );
        browser
            .sees("the call is shown", &format!("{row} return !!row && row.innerText.includes('Task')"))
            .await;
        assert_eq!(browser.run("return document.querySelector('h2').textContent").await, json!(name));
        assert_eq!(
            browser.run("return document.querySelectorAll('img, section script').length").await,
            json!(0)
        );
        let kill = format!("//tr[td[normalize-space()='{}']]//button[starts-with(., 'Kill')]", victim.pid);
        browser.click(&kill).await;
        browser.click("//dialog[@open]//button[@id='yes']").await;
        let failure = answer(call).await.expect_err("its worker is killed");
        assert_eq!(failure.kind(), FailureKind::Aborted);
        gone(victim.pid).await;
        browser
            .sees(
                "it is told",
                "return document.querySelector('[role=status]').innerText.includes('the worker is killed')",
            )
            .await;
        let rows = "const rows = [...document.querySelector('section table').querySelectorAll('tbody tr:not(.gone)')];";
        let others = format!(
            "{rows} return rows.length === 2 && rows.every((row) => row.children[1].innerText !== '{}' \
             && row.innerText.includes('idle'))",
            victim.pid
        );
        browser.sees("another worker is there", &others).await;
        assert_eq!(browser.console().await, Vec::<String>::new());
        let asked = browser.requests().await;
        assert!(asked.iter().any(|address| address.ends_with("/ops/_pool/snapshot.json")), "{asked:?}");
        // The browser opens a page of its own first.
        let expected = [origin.as_str(), "data:", "chrome:", "chrome-untrusted:"];
        let elsewhere = |address: &&String| !expected.iter().any(|start| address.starts_with(start));
        assert_eq!(asked.iter().filter(elsewhere).collect::<Vec<_>>(), Vec::<&String>::new());
        browser.end().await;
        service.stop().await;
    });
}

/// M3: a browser cannot be made to act by a page of another origin, nor by a form.
#[test]
fn pages_of_other_origins_pause_nothing() {
    run(async {
        let Some(browser) = Browser::start().await else { return };
        let pool = pool_of_one();
        settled(&pool, 1).await;
        let (service, other) = (serve(&pool, None), serve(&pool, None));
        let pause = format!("http://{}/ops/_pool/{}/pause", service.address, pool.name());
        let simple = format!(
            "fetch('{pause}', {{ method: 'POST', mode: 'no-cors', body: '{{}}' }}).then((r) => r.type)"
        );
        let as_page = format!(
            "fetch('{pause}', {{ method: 'POST', body: '{{}}', \
             headers: {{ 'content-type': 'application/json', 'x-forkpool': '1' }} }}).then((r) => r.status)"
        );
        // Another port is another origin of the same site; another name is another site.
        for page in
            [format!("http://{}", other.address), format!("http://localhost:{}", service.address.port())]
        {
            browser.open(&format!("{page}/empty")).await;
            keep_events();
            // The first one is sent and refused; the second one would need a permission, and is not sent.
            for request in [&simple, &as_page] {
                let refused = browser.run_async(request).await;
                assert!(
                    refused.as_str().is_some_and(|text| text.starts_with("TypeError")),
                    "{page}: {refused}"
                );
            }
            until("the refusal is logged", || !events("forkpool::web").is_empty()).await;
            let logged = events("forkpool::web");
            assert_eq!((logged.len(), logged[0].field("status")), (1, "415"), "{logged:?}");
            let form = format!(
                "const form = document.createElement('form'); form.method = 'post'; form.action = '{pause}'; \
                 document.body.append(form); form.submit(); return true"
            );
            browser.run(&form).await;
            browser
                .sees("the form is refused", "return document.body.innerText.includes('application/json')")
                .await;
            assert!(!pool.snapshot().paused, "{page}");
        }
        browser.open(&format!("http://{}/empty", service.address)).await;
        for (headers, status) in [
            ("{ 'content-type': 'text/plain', 'x-forkpool': '1' }", 415),
            ("{ 'content-type': 'application/json' }", 403),
        ] {
            let sent = format!(
                "fetch('{pause}', {{ method: 'POST', body: '{{}}', headers: {headers} }}).then((r) => r.status)"
            );
            assert_eq!(browser.run_async(&sent).await, json!(status), "{headers}");
        }
        assert!(!pool.snapshot().paused);
        assert_eq!(browser.run_async(&as_page).await, json!(200), "the page's own request is good");
        assert!(pool.snapshot().paused);
        browser.end().await;
        service.stop().await;
        other.stop().await;
    });
}

/// The page says that the application is away, comes back with it by itself, and says that a pool has stopped.
#[test]
fn the_page_comes_back_with_the_application() {
    run(async {
        let Some(browser) = Browser::start().await else { return };
        let pool = pool_of_one();
        settled(&pool, 1).await;
        let service = serve(&pool, None);
        let address = service.address;
        browser.open(&format!("http://{address}/ops/_pool/")).await;
        let connection = |text: &str| {
            format!("return document.getElementById('connection').innerText.startsWith('{text}')")
        };
        browser.sees("it shows the pool", &connection("As of")).await;
        service.stop().await;
        browser.sees("the application is away", &connection("No answer since")).await;
        let service = serve(&pool, Some(address));
        browser.sees("the application is back", &connection("As of")).await;
        bounded("the end", pool.stop(std::time::Duration::ZERO)).await;
        browser
            .sees("the pool has stopped", "return document.body.innerText.includes('This pool has stopped.')")
            .await;
        browser.end().await;
        service.stop().await;
    });
}
