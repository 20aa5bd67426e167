//! A browser of a test's own, driven by chromedriver.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::harness::*;

/// A browser, and the folder of its profile.
pub struct Browser {
    pub page: Client,
    driver: Child,
    profile: Scratch,
}

/// A command of chromedriver that is not in the standard.
#[derive(Debug)]
struct Extension(&'static str, Value);

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.1.to_string()))
    }
}

impl Browser {
    /// Starts a browser; `None`, with the reason on standard error, if there is none on this machine.
    pub async fn start() -> Option<Self> {
        let is_missing = |program: &&&str| {
            let mut command = Command::new(program);
            let version = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            !version.status().is_ok_and(|status| status.success())
        };
        if let Some(missing) = ["chromium", "chromedriver"].iter().find(is_missing) {
            eprintln!("skipped: {missing} is not installed (Debian: chromium, chromium-driver)");
            return None;
        }
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let port = port_of(&mut driver);
        let profile = Scratch::path();
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities(&profile));
        let address = format!("http://127.0.0.1:{port}");
        let page = bounded("a browser", builder.connect(&address)).await.expect("a session");
        Some(Browser { page, driver, profile })
    }

    /// Ends the browser, and waits until its last process is gone.
    pub async fn end(mut self) {
        let browser = descendants(self.driver.id());
        bounded("the end of the session", self.page.close()).await.expect("it ends");
        for pid in browser {
            gone(pid).await;
        }
        self.driver.kill().expect("it runs");
        self.driver.wait().expect("it is a child");
        // It may have been removed by the browser.
        let _ = std::fs::remove_dir_all(self.profile.get());
    }

    pub async fn open(&self, address: &str) {
        bounded("a page", self.page.goto(address)).await.expect("the page loads");
    }

    /// Runs a script in the page.
    pub async fn run(&self, script: &str) -> Value {
        bounded("a script", self.page.execute(script, Vec::new())).await.expect("the script runs")
    }

    /// Runs a script in the page whose last expression is a promise.
    pub async fn run_async(&self, promise: &str) -> Value {
        let script =
            format!("const done = arguments[0]; ({promise}).then(done, (error) => done(String(error)));");
        bounded("a script", self.page.execute_async(&script, Vec::new())).await.expect("the script runs")
    }

    /// Waits until a script of the page returns `true`.
    pub async fn sees(&self, what: &str, script: &str) {
        let patience = std::time::Instant::now() + PATIENCE;
        while self.run(script).await != json!(true) {
            if std::time::Instant::now() >= patience {
                let text = self.run("return document.body.innerText").await;
                panic!("still waiting until {what}; the page shows {text}");
            }
            actix_rt::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub async fn click(&self, selector: &str) {
        let found = bounded("an element", self.page.find(Locator::XPath(selector))).await;
        let element = found.unwrap_or_else(|error| panic!("{selector}: {error}"));
        bounded("a click", element.click()).await.unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    /// Sends a command of the DevTools protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.extension("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// What the console has shown since the last time, as far as it is no mere message.
    pub async fn console(&self) -> Vec<String> {
        self.log("browser").await.iter().map(|entry| entry["message"].to_string()).collect()
    }

    /// The addresses that were asked since the last time.
    pub async fn requests(&self) -> Vec<String> {
        let entries = self.log("performance").await;
        let messages = entries.iter().filter_map(|entry| entry["message"].as_str());
        let events = messages.filter_map(|text| serde_json::from_str::<Value>(text).ok());
        let sent = events.filter(|event| event["message"]["method"] == "Network.requestWillBeSent");
        let address = |event: Value| Some(event["message"]["params"]["request"]["url"].as_str()?.to_owned());
        sent.filter_map(address).collect()
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.extension("se/log", json!({ "type": kind })).await;
        log.as_array().cloned().expect("a list")
    }

    async fn extension(&self, path: &'static str, parameters: Value) -> Value {
        let command = self.page.issue_cmd(Extension(path, parameters));
        bounded("an answer of the driver", command).await.expect("the driver knows it")
    }
}

/// Reads the port that the driver has chosen.
fn port_of(driver: &mut Child) -> u16 {
    let output = BufReader::new(driver.stdout.take().expect("it is a pipe"));
    let port = output.lines().map_while(Result::ok).find_map(|line| {
        let port = line.split("started successfully on port ").nth(1)?;
        port.trim_end_matches('.').parse().ok()
    });
    port.expect("chromedriver says its port")
}

fn capabilities(profile: &Scratch) -> serde_json::Map<String, Value> {
    let profile = format!("--user-data-dir={}", profile.get().display());
    let arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        &profile,
    ];
    let capabilities = json!({
        "goog:chromeOptions": { "args": arguments },
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
    });
    capabilities.as_object().cloned().expect("an object")
}
