//! The server, by a Unix socket and by TCP on loopback.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::time::Duration;

use common::{get, in_world, post, send};
use lbagent::http::{
    limits::{CONNECTIONS_MAX, HEADERS_BYTES_MAX, ORDER_BYTES_MAX, PER_SECOND, PER_SOURCE_MAX},
    route::ROUTES,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

#[test]
fn both_sides_show_the_same() {
    in_world(|world| async move {
        for (path, status, media) in [
            ("/", 200, "text/html"),
            ("/healthz", 200, "text/plain"),
            ("/readyz", 503, "application/problem+json"),
            ("/metrics", 200, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
            ("/metrics?format=prometheus&scope=lbd", 200, "text/plain; version=0.0.4"),
            ("/api/v1/openapi.json", 200, "application/json"),
            ("/api/v1/http", 200, "application/json"),
            ("/api/v1/state", 200, "application/json"),
            ("/api/v1/live", 200, "application/json"),
            ("/api/v1/stats", 200, "application/json"),
            ("/api/v1/services", 200, "application/json"),
            ("/api/v1/backends?service=web", 200, "application/json"),
            ("/api/v1/health", 200, "application/json"),
            (
                "/api/v1/which?protocol=tcp&source=203.0.113.1&sport=4000&destination=198.51.100.1&dport=80",
                200,
                "application/json",
            ),
            ("/api/v1/nothing", 404, "application/problem+json"),
            ("/api/v1/backends?service=mail", 404, "application/problem+json"),
            ("/api/v1/state?x=1", 400, "application/problem+json"),
        ] {
            for got in [world.unix(&get(path)).await, world.tcp(&get(path)).await] {
                assert_eq!(got.status, status, "{path}: {}", got.body);
                assert!(got.has(&format!("content-type: {media}")), "{path}: {}", got.head);
                assert!(
                    got.has("x-content-type-options: nosniff")
                        && got.has("content-security-policy: default-src 'none'")
                );
                if media == "application/problem+json" {
                    assert_eq!(got.json()["status"], status, "{path}");
                }
            }
        }
        let state = world.tcp(&get("/api/v1/state")).await;
        let etag = state.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
        let again =
            get("/api/v1/state").replace("Connection", &format!("If-None-Match: {etag}\r\nConnection"));
        let again = world.tcp(&again).await;
        assert_eq!((again.status, &again.body[..]), (304, ""));
        let head = world.tcp(&get("/metrics").replace("GET", "HEAD")).await;
        assert_eq!((head.status, &head.body[..]), (200, ""));
    });
}

/// All that changes something, in every way that a stranger could try.
#[test]
fn strangers_change_nothing() {
    in_world(|world| async move {
        let body = r#"{"backends":["s1"]}"#;
        let before = world.unix(&get("/api/v1/state")).await.body;
        for route in ROUTES.iter().filter(|route| route.unix_only) {
            for method in ["POST", "PUT", "PATCH", "DELETE", "GET", "HEAD", "OPTIONS", "post", "TRACE"] {
                for request in [
                    post(route.path, "application/json", body),
                    post(route.path, "application/toml", "[balancer]"),
                    post(&format!("http://localhost{}", route.path), "application/json", body),
                ] {
                    let got = world.tcp(&request.replacen("POST", method, 1)).await;
                    assert!([400, 403, 429].contains(&got.status), "{method} {}: {}", route.path, got.status);
                    if got.status == 429 {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        }
        // A browser of an operator, on a page of a stranger, at the end of a tunnel to the socket.
        let order = post("/api/v1/drain", "application/json", body);
        let with =
            |headers: &str| order.replace("Connection: close", &format!("{headers}\r\nConnection: close"));
        for (request, status) in [
            (order.replace("Host: localhost", "Host: evil.example"), 421),
            (order.replace("Host: localhost", "Host: evil.example:8080"), 421),
            (order.replace("Host: localhost\r\n", ""), 400),
            (with("Host: localhost"), 421),
            (with("Origin: http://localhost\r\nOrigin: http://evil.example"), 403),
            (with("Origin: http://evil.example"), 403),
            (with("Origin: null"), 403),
            (with("Sec-Fetch-Site: cross-site"), 403),
            (order.replace("application/json", "text/plain"), 415),
            (with("Content-Type: application/json"), 415),
            (order.replace("application/json", "application/x-www-form-urlencoded"), 415),
            (order.replace("POST", "GET"), 405),
            (with("X-HTTP-Method-Override: POST").replace("POST /", "GET /"), 405),
            (post("/api/v1/drain", "application/json", r#"{"backends":["s1"],"by":"root"}"#), 400),
            (post("/api/v1/apply", "application/json", "{}"), 415),
        ] {
            let got = world.unix(&request).await;
            // A request without a host may be refused before it is looked at.
            assert!(
                got.status == status || (status == 400 && got.status == 421),
                "{request}: {}",
                got.status
            );
        }
        for host in ["evil.example", "lb1.example.net.evil.example"] {
            let got = world.tcp(&get("/metrics").replace("localhost", host)).await;
            assert_eq!(got.status, 421);
        }
        assert_eq!(world.unix(&get("/api/v1/state")).await.body, before);
        let counted = world.unix(&get("/api/v1/http")).await.json();
        assert!(counted["refused_forbidden"].as_u64() > Some(50), "{counted}");
        assert_eq!(
            (&counted["orders"], &counted["refused_host"].as_u64().map(|host| host >= 4)),
            (&json!(0), &Some(true))
        );
    });
}

#[test]
fn operators_change_what_gets_new_flows_and_see_it() {
    in_world(|world| async move {
        let order = |path: &str, body: Value| post(path, "application/json", &body.to_string());
        let drain = order("/api/v1/drain", json!({ "service": "web", "backends": ["s1"], "reason": "disk" }));
        let same_page = drain
            .replace("Connection", "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\nConnection")
            .replace("application/json", "Application/JSON; charset=utf-8");
        let got = world.unix(&same_page).await;
        assert_eq!(got.status, 200, "{}", got.body);
        assert!(got.json()["changes"].as_array().is_some_and(|changes| !changes.is_empty()), "{}", got.body);
        let health = world.tcp(&get("/api/v1/health")).await.json();
        assert_eq!(
            (&health["backends"][0]["admin"], &health["backends"][0]["order"]["reason"]),
            (&json!("draining"), &json!("disk"))
        );
        let by = health["backends"][0]["order"]["by"].as_str().unwrap();
        assert!(!by.is_empty() && by != "unknown", "the user of the socket: {by}");
        let unknown = order("/api/v1/enable", json!({ "backends": ["s9"] }));
        let got = world.unix(&unknown).await;
        assert_eq!(got.status, 422, "{}", got.body);
        let kill = order("/api/v1/kill", json!({ "backends": ["s1"] }));
        assert!(world.unix(&kill).await.json()["warnings"][0].as_str().unwrap().starts_with("Kill"));
        let apply = post("/api/v1/apply?dry_run=true", "application/toml", "[balancer]");
        let told = world.unix(&apply).await.json();
        assert!(told["warnings"][0].as_str().unwrap().contains("dry_run: true"), "{told}");
        let counted = world.unix(&get("/api/v1/http")).await.json();
        assert_eq!(counted["orders"], 3);
    });
}

#[test]
fn floods_and_slow_clients_are_bounded_and_counted() {
    in_world(|world| async move {
        let many = (0..PER_SECOND * 3)
            .map(|_| "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .collect::<String>();
        let got = send(TcpStream::connect(world.tcp).await.unwrap(), &(many + &get("/healthz"))).await;
        assert!(got.body.contains("429 Too Many Requests"), "{}", got.body);
        // What one source holds open takes nothing from the socket.
        let mut held = Vec::new();
        for _ in 0..PER_SOURCE_MAX {
            held.push(TcpStream::connect(world.tcp).await.unwrap());
        }
        let mut refused = TcpStream::connect(world.tcp).await.unwrap();
        let mut byte = [0];
        let closed = timeout(Duration::from_secs(30), refused.read(&mut byte)).await.unwrap();
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
        let mut operators = Vec::new();
        for _ in 0..CONNECTIONS_MAX - 1 {
            operators.push(UnixStream::connect(&world.unix).await.unwrap());
        }
        assert_eq!(world.unix(&get("/healthz")).await.status, 200);
        drop((held, operators));
        let long = format!(
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
            "x".repeat(HEADERS_BYTES_MAX)
        );
        let mut got = 0;
        for _ in 0..50 {
            let mut stream = UnixStream::connect(&world.unix).await.unwrap();
            let _ = stream.write_all(long.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await.unwrap();
            let answer = String::from_utf8_lossy(&answer).into_owned();
            got = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
            if got != 0 {
                break;
            }
        }
        assert_eq!(got, 431);
        let body = format!(r#"{{"backends":["s1"],"reason":"{}"}}"#, "x".repeat(ORDER_BYTES_MAX));
        let got = world.unix(&post("/api/v1/drain", "application/json", &body)).await;
        assert_eq!(got.status, 413);
        let counted = world.unix(&get("/api/v1/http")).await.json();
        for name in ["refused_rate", "refused_per_source", "refused_body", "closed"] {
            assert!(counted[name].as_u64() > Some(0), "{name}: {counted}");
        }
    });
}
