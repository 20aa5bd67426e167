//! The dashboard in a real browser. Without chromium and chromedriver each test prints `skipped`.

mod chromium;
mod dashboard;
#[path = "../harness/mod.rs"]
mod harness;
mod pictures;
#[allow(dead_code, reason = "requests are the browser's")]
#[path = "../web/service.rs"]
mod service;
