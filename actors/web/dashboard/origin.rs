//! Whether a request comes from the page itself.

use actix_web::HttpRequest;
use actix_web::http::header::{HOST, ORIGIN};

/// What refuses requests of other sites, each as the line that says why.
///
/// # References
///
/// - [Fetch Metadata](https://www.w3.org/TR/fetch-metadata/), `Sec-Fetch-Site`
/// - [RFC 6454](https://www.rfc-editor.org/rfc/rfc6454), `Origin`
pub(super) fn check(request: &HttpRequest) -> Result<(), &'static str> {
    let sites = request.headers().get_all("sec-fetch-site");
    if sites.into_iter().any(|site| site.as_bytes() != b"same-origin") {
        return Err("the request is of another site: its Sec-Fetch-Site is not same-origin");
    }
    let mut origins = request.headers().get_all(ORIGIN).peekable();
    if origins.peek().is_none() {
        return Ok(());
    }
    let host = host_of(request).ok_or("the request names no host to compare its Origin with")?;
    let is_own = |origin: &str| names_host(origin, host);
    if origins.all(|origin| origin.to_str().is_ok_and(is_own)) {
        Ok(())
    } else {
        Err(
            "the request is of another site: its Origin is not the host that it names; a proxy has to pass Host on",
        )
    }
}

/// Returns the only host that the request names.
fn host_of(request: &HttpRequest) -> Option<&str> {
    // HTTP/2 has it in the pseudo-header `:authority`, and HTTP/1 in a line that is the whole address.
    if let Some(authority) = request.uri().authority() {
        return Some(authority.as_str());
    }
    let mut hosts = request.headers().get_all(HOST);
    let host = hosts.next().and_then(|host| host.to_str().ok());
    host.filter(|_| hosts.next().is_none())
}

/// Whether an origin is that of this host, on the port that its scheme has if it names none.
fn names_host(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let plain = |name: &str| name.strip_suffix(port).unwrap_or(name).to_ascii_lowercase();
    !authority.is_empty() && plain(authority) == plain(host)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    /// M3
    #[test]
    fn only_the_host_itself_is_the_same_origin() {
        for (headers, expected) in [
            (vec![], true),
            (vec![("sec-fetch-site", "same-origin")], true),
            (vec![("sec-fetch-site", "none")], false),
            (vec![("sec-fetch-site", "same-site")], false),
            (vec![("sec-fetch-site", "cross-site")], false),
            (vec![("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], false),
            (vec![("origin", "http://app.test:8080")], true),
            (vec![("origin", "https://APP.test:8080")], true),
            (vec![("origin", "http://app.test")], false),
            (vec![("origin", "http://app.test:80")], false),
            (vec![("origin", "http://evil.test:8080")], false),
            (vec![("origin", "http://app.test.evil.test:8080")], false),
            (vec![("origin", "http://app.test:8080@evil.test")], false),
            (vec![("origin", "ftp://app.test:8080")], false),
            (vec![("origin", "null")], false),
            (vec![("origin", "")], false),
            (vec![("origin", "http://")], false),
            (vec![("origin", "http://app.test:8080"), ("origin", "http://evil.test")], false),
            (vec![("origin", "http://app.test:8080"), ("sec-fetch-site", "cross-site")], false),
        ] {
            let request = TestRequest::post().insert_header(("host", "app.test:8080"));
            let request = headers.iter().fold(request, |request, header| request.append_header(*header));
            assert_eq!(check(&request.to_http_request()).is_ok(), expected, "{headers:?}");
        }
    }

    /// M3
    #[test]
    fn a_port_that_goes_without_saying_may_be_said() {
        assert!(names_host("https://app.test", "app.test:443"));
        assert!(names_host("http://app.test:80", "app.test"));
        assert!(!names_host("https://app.test", "app.test:80"));
        assert!(names_host("http://[::1]:8080", "[::1]:8080"));
    }

    /// M3: a request line with a whole address counts for more than `Host`, and two hosts are none.
    #[test]
    fn a_request_names_one_host() {
        let origin = ("origin", "http://app.test");
        let whole = TestRequest::with_uri("http://app.test/_pool/p/pause").insert_header(origin);
        assert!(check(&whole.insert_header(("host", "other.test")).to_http_request()).is_ok());
        let two =
            TestRequest::post().append_header(("host", "app.test")).append_header(("host", "evil.test"));
        assert!(check(&two.insert_header(origin).to_http_request()).is_err());
        assert!(check(&TestRequest::post().insert_header(origin).to_http_request()).is_err());
    }
}
