//! Which host a request may be for, and from which page one that changes anything may come. PURE.

use std::net::IpAddr;

/// Reports whether a `Host` is one of ours: an address, `localhost`, or one of these names, with any port.
#[must_use]
pub fn is_our_host(host: &str, names: &[String]) -> bool {
    let name = without_port(host);
    let literal = name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(name);
    literal.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // The last part of an IPv6 address is no port.
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
        }
        _ => host,
    }
}

/// What a browser says about the page that a request comes from. Other programs say nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct From<'a> {
    /// `Host`.
    pub host: &'a str,
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// `Sec-Fetch-Site`.
    pub site: Option<&'a str>,
}

impl From<'_> {
    /// Reports whether it comes from our own page, or from no page.
    #[must_use]
    pub fn is_our_page(&self) -> bool {
        let origin = self.origin.is_none_or(|origin| {
            // A tunnel to the socket may begin with TLS elsewhere.
            let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            host.is_some_and(|host| host.eq_ignore_ascii_case(self.host))
        });
        origin && self.site.is_none_or(|site| matches!(site, "same-origin" | "none"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_stranger_is_no_host_of_ours() {
        let names = ["lb1.example.net".to_owned()];
        for ours in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:9469",
            "[::1]",
            "[2001:db8::1]:80",
            "10.1.2.3",
            "lb1.Example.net:9",
        ] {
            assert!(is_our_host(ours, &names), "{ours}");
        }
        for other in [
            "",
            "evil.example",
            "evil.example:9469",
            "localhost.evil.example",
            "lb1.example.net.evil",
            "127.0.0.1.evil",
            "a:b:80",
            ":80",
            "127.0.0.1:x",
        ] {
            assert!(!is_our_host(other, &names), "{other}");
        }
    }

    #[test]
    fn what_changes_comes_from_our_page_or_from_no_page() {
        let from = |origin, site| From { host: "localhost:8080", origin, site }.is_our_page();
        assert!(from(None, None), "curl");
        assert!(from(Some("http://localhost:8080"), Some("same-origin")));
        for (origin, site) in [
            (Some("http://evil.example"), None),
            (Some("http://localhost:9090"), None),
            (Some("null"), None),
            (None, Some("cross-site")),
            (Some("http://localhost:8080"), Some("same-site")),
        ] {
            assert!(!from(origin, site), "{origin:?} {site:?}");
        }
    }
}
