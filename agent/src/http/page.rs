//! The page: one file, with what it needs in it.

use std::hash::{BuildHasher as _, RandomState};

use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue},
};

use super::{Side, serve::with};

const PAGE: &str = include_str!("page.html");
/// Where the page says by which side it was asked for.
const SIDE: &str = "data-side=\"\"";
/// Where the nonce stands: a browser runs no other script, and takes no other style.
const NONCE: &str = "nonce=\"\"";

/// Returns the page.
pub(super) fn answer(side: Side) -> Response<Full<Bytes>> {
    // The keys of the hasher are random, and secret.
    let number = |n: u8| RandomState::new().hash_one(n);
    let nonce = format!("{:016x}{:016x}", number(0), number(1));
    let side = match side {
        Side::Unix => "data-side=\"unix\"",
        Side::Tcp => "data-side=\"tcp\"",
    };
    let page = PAGE.replace(SIDE, side).replace(NONCE, &format!("nonce=\"{nonce}\""));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut answer = with(StatusCode::OK, "text/html; charset=utf-8", Bytes::from(page));
    let headers = answer.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_all_that_it_needs_in_it() {
        assert_eq!((PAGE.matches(SIDE).count(), PAGE.matches(NONCE).count()), (1, 2));
        for outside in [
            "http://",
            "https://",
            "@import",
            "url(",
            " src=",
            "<link rel=\"stylesheet\"",
            "innerHTML",
            " style=\"",
            " onclick=\"",
        ] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        let nonce = |side| answer(side).headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert_ne!(nonce(Side::Unix), nonce(Side::Unix));
    }
}
