//! How the page looks: in the light and in the dark, wide and on a phone. `FORKPOOL_WRITE_DOCS=1` writes the pictures of the
//! documentation.

use std::time::Duration;

use actix_web::{App, HttpServer, guard};
use forkpool::prelude::*;
use forkpool::web::{Detail, dashboard};
use serde_json::json;

use crate::chromium::Browser;
use crate::harness::*;
use crate::service::Service;

/// Calls a pool without a pause: short calls, long ones, and some that fail.
async fn load(pool: PoolHandle<Probe>) {
    for round in 0_u64.. {
        let long = Duration::from_millis(5 + round * 7 % 40);
        let short: Vec<_> = (0..40).map(|_| pool.send(EchoText("hello".to_owned()))).collect();
        let slow =
            [pool.send(Slow(long, round)), pool.send(Slow(long * 2, round)), pool.send(Slow(long, round))];
        // What they come to is of no interest here.
        for call in short {
            let _ = call.await;
        }
        for call in slow {
            let _ = call.await;
        }
        match round % 40 {
            13 => drop(pool.send(Panic("no such invoice".to_owned())).await),
            33 => drop(pool.send(Exit(3)).await),
            _ => {}
        }
    }
}

/// Nothing is cut: no element is wider than the window.
#[test]
fn a_busy_pool_is_readable_at_any_width() {
    run(async {
        let Some(browser) = Browser::start().await else { return };
        let writes = std::env::var_os("FORKPOOL_WRITE_DOCS").is_some();
        let pool =
            pool().name("invoices").workers(4..=4).max_memory(1 << 40).start().expect("the pool starts");
        settled(&pool, 4).await;
        let shown = pool.clone();
        let service = Service::start(move |listener| {
            let app = move || {
                let all = dashboard("/_pool", &shown).read_only(false).guard(guard::fn_guard(|_| true));
                App::new().service(all.show_dossiers(Detail::Lines))
            };
            Ok(HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run())
        });
        let long = pool.checkout().start();
        let gate = Scratch::path();
        long.do_send(AwaitFile(gate.get().to_owned()));
        let load = actix_rt::spawn(load(pool.clone()));
        browser.open(&format!("http://{}/_pool", service.address)).await;
        let samples = if writes { 90 } else { 2 };
        let points = format!(
            "return document.querySelectorAll('li').length > 1 && document.body.innerText.includes('AwaitFile') && \
             document.querySelectorAll('path')[2].getAttribute('d').split('L').length > {samples}"
        );
        let patience = Duration::from_secs(200);
        within(patience, "a busy pool", async {
            while browser.run(&points).await != json!(true) {
                actix_rt::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        for (name, width, scheme) in [("dashboard", 1200, "light"), ("dashboard-dark", 400, "dark")] {
            let picture = picture(&browser, width, scheme).await;
            assert!(picture.starts_with(b"\x89PNG"));
            if writes {
                let path = format!("{}/../../docs/{name}.png", env!("CARGO_MANIFEST_DIR"));
                std::fs::write(path, picture).expect("the documentation is there");
            }
        }
        load.abort();
        std::fs::write(gate.get(), "").expect("a file");
        assert_eq!(browser.console().await, Vec::<String>::new());
        browser.end().await;
        service.stop().await;
    });
}

async fn resize(browser: &Browser, width: u64, height: u64) {
    let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
    browser.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
}

/// Checks that nothing is cut at this width, and returns a picture.
async fn picture(browser: &Browser, width: u64, scheme: &str) -> Vec<u8> {
    let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
    browser.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    let mut height = 800;
    for _ in 0..2 {
        resize(browser, width, height).await;
        let whole = browser.run("return document.documentElement.scrollHeight").await;
        height = whole.as_u64().expect("a height");
    }
    let wider = "return [...document.querySelectorAll('body *')].filter((node) => \
        !node.closest('.unseen, thead, svg') && node.getBoundingClientRect().right > innerWidth + 0.5)\
        .map((node) => node.outerHTML.slice(0, 80))";
    assert_eq!(browser.run(wider).await, json!([]), "at {width}");
    assert_eq!(browser.run("return innerWidth").await, json!(width));
    // Of the long page of a phone, what is seen of it first.
    resize(browser, width, height.min(1400)).await;
    bounded("a picture", browser.page.screenshot()).await.expect("a picture")
}
