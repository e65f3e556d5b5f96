//! What operators order, as requests of lbd. PURE.

use serde::Deserialize;
use synrail::{
    model::{Admin, Name, Override, Remark},
    ops::{LINE_BYTES_MAX, Request},
};

use super::route::Action;

/// Which backends are meant, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// Of this service, or of every service that has a backend of that name.
    #[serde(default)]
    service: Option<Name>,
    backends: Vec<Name>,
    #[serde(default)]
    reason: Option<Remark>,
    /// Whether it ends with the region.
    #[serde(default)]
    runtime: bool,
}

/// Returns the media type that the body of an order has; `None` if it is no order.
#[must_use]
pub fn media(action: &Action) -> Option<&'static str> {
    match action {
        Action::Admin(_) | Action::Kill => Some("application/json"),
        Action::Apply { .. } => Some("application/toml"),
        Action::Page | Action::Alive | Action::Description | Action::Counters | Action::Read(_) => None,
    }
}

/// Returns the request that an order with this body is.
///
/// # Errors
/// What is wrong with the body.
pub fn request(action: &Action, body: &[u8], by: &str, unix_seconds: u64) -> Result<Request, String> {
    let by = Remark::new(by).unwrap_or_else(|| Override::unattributed(Admin::Enabled).by);
    let order = || {
        let order: Order = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if order.backends.is_empty() { Err("backends: at least one".to_owned()) } else { Ok(order) }
    };
    let request = match action {
        Action::Admin(admin) => {
            let Order { service, backends: names, reason, runtime } = order()?;
            let order = Override { admin: *admin, reason, by, since: Override::time(unix_seconds), runtime };
            Request::Admin { service, names, order }
        }
        Action::Kill => {
            let Order { service, backends: names, .. } = order()?;
            Request::Kill { service, names, by }
        }
        Action::Apply { dry_run, allow_removal } => {
            let text = std::str::from_utf8(body).map_err(|_| "the file is not UTF-8".to_owned())?;
            let (dry_run, allow_removal) = (*dry_run, *allow_removal);
            Request::Apply { text: text.to_owned(), dry_run, allow_removal, by }
        }
        Action::Page | Action::Alive | Action::Description | Action::Counters | Action::Read(_) => {
            return Err("not an order".to_owned());
        }
    };
    let fits = serde_json::to_string(&request).is_ok_and(|line| line.len() < LINE_BYTES_MAX);
    if fits { Ok(request) } else { Err(format!("more than {LINE_BYTES_MAX} bytes for lbd")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_name_backends_and_their_user() {
        let body = br#"{"service":"web","backends":["s1","s2"],"reason":"disk"}"#;
        let Ok(Request::Admin { service, names, order }) =
            request(&Action::Admin(Admin::Draining), body, "alice", 5)
        else {
            panic!("it is an order");
        };
        assert_eq!((service.unwrap().as_str(), names.len()), ("web", 2));
        assert_eq!(order.to_string(), "draining by alice since 1970-01-01T00:00:05Z: disk");
        assert!(matches!(
            request(&Action::Kill, br#"{"backends":["s1"]}"#, "alice", 5),
            Ok(Request::Kill { .. })
        ));
        let apply = Action::Apply { dry_run: true, allow_removal: false };
        assert!(matches!(request(&apply, b"[balancer]", "a", 5), Ok(Request::Apply { dry_run: true, .. })));
        for bad in [
            "",
            "[]",
            r#"{"backends":[]}"#,
            r#"{"backends":["a b"]}"#,
            r#"{"backend":"s1"}"#,
            r#"{"backends":["s1"],"reason":"a\nb"}"#,
            r#"{"backends":["s1"],"admin":"enabled"}"#,
        ] {
            assert!(request(&Action::Admin(Admin::Draining), bad.as_bytes(), "a", 5).is_err(), "{bad}");
        }
        assert!(request(&apply, b"\xff", "a", 5).is_err());
        assert!(request(&apply, &vec![1; 2 << 20], "a", 5).is_err(), "it grows as JSON");
    }
}
