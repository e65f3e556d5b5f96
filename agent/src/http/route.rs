//! Which request does what. PURE.

use std::collections::BTreeMap;

use synrail::{model::Admin, status::metrics::Scope};

use super::Side;
use crate::reader::Ask;

/// How many flows are listed if the request does not say, and at most.
pub const FLOWS: std::ops::RangeInclusive<usize> = 100..=1000;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The page.
    Page,
    /// Whether this process answers.
    Alive,
    /// The description of all this.
    Description,
    /// What the server has done and refused.
    Counters,
    /// A snapshot.
    Read(Ask),
    /// An operator's word about backends.
    Admin(Admin),
    /// To end flows.
    Kill,
    /// A configuration file.
    Apply {
        /// Whether the differences are only told.
        dry_run: bool,
        /// Whether it may take away what is in use.
        allow_removal: bool,
    },
}

/// Why a request does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// There is no such path.
    NotFound,
    /// The path takes another method: this one.
    Method(&'static str),
    /// It is done by the Unix socket alone.
    UnixOnly,
    /// The query is wrong.
    Query(String),
}

/// A path, its method, and where it exists.
pub struct Route {
    /// `GET`, which stands for `HEAD` too, or `POST`.
    pub method: &'static str,
    /// The path.
    pub path: &'static str,
    /// Whether it exists by the Unix socket alone.
    pub unix_only: bool,
    /// The names that a query may have.
    pub query: &'static [&'static str],
    action: fn(&mut Query) -> Result<Action, String>,
}

const fn get(
    path: &'static str,
    query: &'static [&'static str],
    action: fn(&mut Query) -> Result<Action, String>,
) -> Route {
    Route { method: "GET", path, unix_only: false, query, action }
}

const fn post(
    path: &'static str,
    query: &'static [&'static str],
    action: fn(&mut Query) -> Result<Action, String>,
) -> Route {
    Route { method: "POST", path, unix_only: true, query, action }
}

/// All that there is.
pub const ROUTES: [Route; 19] = [
    get("/", &[], |_| Ok(Action::Page)),
    get("/healthz", &[], |_| Ok(Action::Alive)),
    get("/readyz", &[], |_| Ok(Action::Read(Ask::Ready))),
    get("/metrics", &["scope", "format"], metrics),
    get("/api/v1/openapi.json", &[], |_| Ok(Action::Description)),
    get("/api/v1/http", &[], |_| Ok(Action::Counters)),
    get("/api/v1/state", &[], |_| Ok(Action::Read(Ask::State))),
    get("/api/v1/live", &[], |_| Ok(Action::Read(Ask::Live))),
    get("/api/v1/stats", &[], |_| Ok(Action::Read(Ask::Stats))),
    get("/api/v1/services", &[], |_| Ok(Action::Read(Ask::Services))),
    get("/api/v1/backends", &["service"], |query| {
        Ok(Action::Read(Ask::Backends { service: query.one("service")? }))
    }),
    get("/api/v1/health", &[], |_| Ok(Action::Read(Ask::Health))),
    get("/api/v1/which", &["protocol", "source", "sport", "destination", "dport", "fragment"], which),
    Route { unix_only: true, ..get("/api/v1/flows", &["service", "backend", "off_table", "limit"], flows) },
    post("/api/v1/enable", &[], |_| Ok(Action::Admin(Admin::Enabled))),
    post("/api/v1/drain", &[], |_| Ok(Action::Admin(Admin::Draining))),
    post("/api/v1/disable", &[], |_| Ok(Action::Admin(Admin::Disabled))),
    post("/api/v1/kill", &[], |_| Ok(Action::Kill)),
    post("/api/v1/apply", &["dry_run", "allow_removal"], |query| {
        Ok(Action::Apply { dry_run: query.flag("dry_run")?, allow_removal: query.flag("allow_removal")? })
    }),
];

/// Returns what a request asks for.
///
/// # Errors
/// When it asks for nothing that there is, or not here.
pub fn route(method: &str, path: &str, query: &str, side: Side) -> Result<Action, NoRoute> {
    let route = ROUTES.iter().find(|route| route.path == path).ok_or(NoRoute::NotFound)?;
    if route.unix_only && side == Side::Tcp {
        return Err(NoRoute::UnixOnly);
    }
    if method != route.method && (method, route.method) != ("HEAD", "GET") {
        return Err(NoRoute::Method(route.method));
    }
    let mut query = Query::parse(query);
    if let Some(unknown) = query.0.keys().find(|name| !route.query.contains(&name.as_str())) {
        let unknown = unknown.escape_default();
        let known = if route.query.is_empty() { "nothing".to_owned() } else { route.query.join(", ") };
        return Err(NoRoute::Query(format!("there is no \"{unknown}\"; a query may have {known}")));
    }
    (route.action)(&mut query).map_err(NoRoute::Query)
}

/// The values of a query, by name.
struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    fn parse(text: &str) -> Self {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            values.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        Self(values)
    }

    fn all(&mut self, name: &str) -> Vec<String> {
        self.0.remove(name).unwrap_or_default()
    }

    fn one(&mut self, name: &str) -> Result<Option<String>, String> {
        let mut values = self.all(name);
        if values.len() > 1 {
            return Err(format!("{name}: once at most"));
        }
        Ok(values.pop())
    }

    fn flag(&mut self, name: &str) -> Result<bool, String> {
        match self.one(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(format!("{name}: true or false")),
        }
    }
}

fn metrics(query: &mut Query) -> Result<Action, String> {
    let scope = |name: &String| {
        Scope::named(name).ok_or_else(|| {
            let known: Vec<&str> = Scope::ALL.iter().map(|scope| scope.name()).collect();
            format!("scope: one of {}", known.join(", "))
        })
    };
    let scopes = query.all("scope").iter().map(scope).collect::<Result<_, _>>()?;
    let openmetrics = match query.one("format")?.as_deref() {
        None | Some("openmetrics") => true,
        Some("prometheus") => false,
        Some(_) => return Err("format: openmetrics or prometheus".to_owned()),
    };
    Ok(Action::Read(Ask::Metrics { openmetrics, scopes }))
}

fn which(query: &mut Query) -> Result<Action, String> {
    let mut word = |name: &str, default: Option<&str>| {
        let value = query.one(name)?;
        value.or_else(|| default.map(ToOwned::to_owned)).ok_or_else(|| format!("{name}: needed"))
    };
    let words = [
        word("protocol", None)?,
        word("source", None)?,
        word("sport", Some("-"))?,
        word("destination", None)?,
        word("dport", Some("-"))?,
    ];
    Ok(Action::Read(Ask::Which { words, fragment: query.flag("fragment")? }))
}

fn flows(query: &mut Query) -> Result<Action, String> {
    let limit = match query.one("limit")? {
        None => *FLOWS.start(),
        Some(text) => {
            let limit = text.parse().ok().filter(|limit| (1..=*FLOWS.end()).contains(limit));
            limit.ok_or_else(|| format!("limit: a number from 1 to {}", FLOWS.end()))?
        }
    };
    Ok(Action::Read(Ask::Flows {
        service: query.one("service")?,
        backends: query.all("backend"),
        off_table: query.flag("off_table")?,
        limit,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_stands_once_and_what_changes_is_for_the_socket() {
        let mut paths: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), ROUTES.len());
        for Route { method, path, unix_only, .. } in ROUTES {
            assert!(method == "GET" || unix_only, "{path}");
            let here = route(method, path, "", Side::Unix);
            assert!(!matches!(here, Err(NoRoute::UnixOnly | NoRoute::NotFound)), "{path}: {here:?}");
            if unix_only {
                for method in ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"] {
                    assert_eq!(route(method, path, "", Side::Tcp), Err(NoRoute::UnixOnly), "{path}");
                }
            }
        }
    }

    #[test]
    fn other_paths_methods_and_queries_are_refused() {
        for path in
            ["", "*", "/metrics/", "/api/v1/", "/api/v2/state", "//", "/../etc/passwd", "/API/v1/state"]
        {
            assert_eq!(route("GET", path, "", Side::Unix), Err(NoRoute::NotFound), "{path}");
        }
        assert_eq!(route("POST", "/metrics", "", Side::Tcp), Err(NoRoute::Method("GET")));
        assert_eq!(route("GET", "/api/v1/drain", "", Side::Unix), Err(NoRoute::Method("POST")));
        assert_eq!(route("HEAD", "/healthz", "", Side::Tcp), Ok(Action::Alive));
        for (path, query) in [
            ("/healthz", "x=1"),
            ("/metrics", "scope=all"),
            ("/metrics", "format=xml"),
            ("/api/v1/which", "protocol=tcp"),
            ("/api/v1/flows", "limit=0"),
            ("/api/v1/flows", "limit=1001"),
            ("/api/v1/flows", "off_table=yes"),
            ("/api/v1/backends", "service=a&service=b"),
        ] {
            assert!(
                matches!(route("GET", path, query, Side::Unix), Err(NoRoute::Query(_))),
                "{path}?{query}"
            );
        }
    }

    #[test]
    fn queries_become_questions() {
        let asked = |path, query| match route("GET", path, query, Side::Unix) {
            Ok(Action::Read(ask)) => ask,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            asked("/metrics", "scope=lbd&scope=packets&format=prometheus"),
            Ask::Metrics { openmetrics: false, scopes: vec![Scope::Lbd, Scope::Packets] }
        );
        let words = ["tcp", "2001:db8::1", "4000", "2001:db8::2", "80"].map(str::to_owned);
        let query = "protocol=tcp&source=2001%3Adb8%3A%3A1&sport=4000&destination=2001:db8::2&dport=80";
        assert_eq!(asked("/api/v1/which", query), Ask::Which { words, fragment: false });
        assert_eq!(
            asked("/api/v1/flows", "service=web&backend=s1&backend=s2"),
            Ask::Flows {
                service: Some("web".to_owned()),
                backends: vec!["s1".to_owned(), "s2".to_owned()],
                off_table: false,
                limit: 100
            }
        );
        let apply = route("POST", "/api/v1/apply", "dry_run=true", Side::Unix);
        assert_eq!(apply, Ok(Action::Apply { dry_run: true, allow_removal: false }));
    }
}
