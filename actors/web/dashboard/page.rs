//! The document, and who may run scripts in it.

use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse};

use crate::actors::telemetry::teller;
use crate::sys::random::random_u128;

const DOCUMENT: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Where the nonces of pages come from.
pub(super) enum Nonce {
    /// Each is drawn from the kernel's random numbers.
    Own,
    /// The application says each.
    Given(Box<dyn Fn(&HttpRequest) -> String>),
}

impl Nonce {
    fn next(&self, request: &HttpRequest) -> Option<String> {
        let nonce = match self {
            Nonce::Own => random_u128().ok().map(|number| format!("{number:032x}")),
            Nonce::Given(nonce) => Some(nonce(request)),
        };
        nonce.filter(|nonce| is_nonce(nonce))
    }

    /// Returns the response with the page.
    pub(super) fn page(&self, request: &HttpRequest) -> HttpResponse {
        let Some(nonce) = self.next(request) else {
            teller::tell(|| {
                tracing::error!(target: "forkpool::web",
                    "a dashboard has no nonce for its page: csp_nonce returned characters that a nonce cannot have, or the system has no random numbers");
            });
            return text(StatusCode::INTERNAL_SERVER_ERROR, "the page has no nonce; the log says why");
        };
        let policy = format!(
            "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
             connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        );
        HttpResponse::Ok()
            .content_type(ContentType::html())
            .insert_header(("content-security-policy", policy))
            .body(document(&nonce))
    }
}

/// Whether a text can be a nonce; it is written into a header and into attributes.
fn is_nonce(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_=".contains(&byte);
    (1..=256).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// Returns the page with its style, its script and this nonce for both.
fn document(nonce: &str) -> String {
    let page = DOCUMENT.replace("{nonce}", nonce);
    page.replacen("{style}", STYLE, 1).replacen("{script}", SCRIPT, 1)
}

/// Returns a response of one line.
pub(super) fn text(status: StatusCode, line: &'static str) -> HttpResponse {
    HttpResponse::build(status).content_type(ContentType::plaintext()).body(line)
}

pub(super) fn nothing_here() -> HttpResponse {
    text(StatusCode::NOT_FOUND, "the dashboard has nothing at this path")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is read in full before anything is shown, also on a slow line.
    #[test]
    fn the_page_is_small() {
        let page = document(&"0".repeat(32));
        assert!(page.len() < 60_000, "{} bytes", page.len());
    }

    #[test]
    fn the_page_has_all_its_parts_and_asks_no_other_host() {
        let page = document("abc");
        assert!(["{nonce}", "{style}", "{script}"].iter().all(|place| !page.contains(place)));
        assert_eq!(page.matches("nonce=\"abc\"").count(), 2);
        assert_eq!(page.matches("</script").count(), 1, "the script would end early");
        let hosts = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!hosts.contains("://") && !hosts.contains("innerHTML"), "an address, or text that is parsed");
    }

    #[test]
    fn a_nonce_cannot_end_an_attribute_or_a_header() {
        for (text, expected) in [
            ("n0nce+/-_==", true),
            ("", false),
            ("a\"b", false),
            ("a'b", false),
            ("a;b", false),
            ("a b", false),
            ("a\r\nb", false),
            ("é", false),
        ] {
            assert_eq!(is_nonce(text), expected, "{text:?}");
        }
    }
}
