//! Whether the description of the API says what there is: paths, methods, queries, and the shapes of answers.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::collections::BTreeSet;

use common::{get, in_world, post};
use lbagent::http::route::ROUTES;
use serde_json::{Value, json};

fn description() -> Value {
    serde_json::from_str(include_str!("../src/http/openapi.json")).unwrap()
}

#[test]
fn paths_methods_and_queries_are_those_of_the_code() {
    let description = description();
    let paths = description["paths"].as_object().unwrap();
    let described: BTreeSet<(String, String)> = paths
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(|method| (path.clone(), method.to_uppercase()))
        })
        .collect();
    let there = ROUTES.iter().map(|route| (route.path.to_owned(), route.method.to_owned()));
    assert_eq!(described, there.collect());
    for route in &ROUTES {
        let operation = &paths[route.path][route.method.to_lowercase()];
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = parameters.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, route.query, "{}", route.path);
        let text = operation.to_string();
        assert_eq!(text.contains("Unix socket alone"), route.unix_only, "{}", route.path);
    }
}

/// Complains about what a value has that its schema does not, and the other way round.
fn fits(all: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = all.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name}"));
        return fits(all, schema, value, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let one = any.iter().find(|one| (one["type"] == "null") == value.is_null());
        return fits(all, one.unwrap_or_else(|| panic!("{at}: {value}")), value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = &schema["type"];
    let known = kinds == kind || kinds.as_array().is_some_and(|kinds| kinds.contains(&json!(kind)));
    assert!(known, "{at}: {value} is no {kinds}");
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(value), "{at}: {value}");
    }
    match value {
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                let of = schema["prefixItems"].get(n).unwrap_or(&schema["items"]);
                fits(all, of, item, &format!("{at}[{n}]"));
            }
        }
        Value::Object(fields) => {
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(fields.contains_key(name.as_str().unwrap()), "{at}: no {name}");
            }
            for (name, field) in fields {
                let at = format!("{at}.{name}");
                match (schema["properties"].get(name), &schema["additionalProperties"]) {
                    (Some(of), _) => fits(all, of, field, &at),
                    (None, Value::Bool(true)) => {}
                    (None, of @ Value::Object(_)) => fits(all, of, field, &at),
                    (None, other) => panic!("{at} is not described ({other})"),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn answers_have_the_shapes_that_are_described() {
    in_world(|world| async move {
        let all = description();
        let order = r#"{"service":"web","backends":["s1"],"reason":"disk","runtime":true}"#;
        let which =
            "?protocol=tcp&source=203.0.113.1&sport=4000&destination=198.51.100.1&dport=80&fragment=true";
        // What is ordered first is in the answers that follow.
        for route in ROUTES.iter().rev() {
            let query = if route.path == "/api/v1/which" { which } else { "" };
            let path = format!("{}{query}", route.path);
            let got = match (route.method, route.path) {
                ("GET", _) => world.unix(&get(&path)).await,
                (_, "/api/v1/apply") => world.unix(&post(&path, "application/toml", "[balancer]")).await,
                (_, "/api/v1/enable") => {
                    let refused =
                        world.unix(&post(&path, "application/json", r#"{"backends":["s9"]}"#)).await;
                    assert_eq!(refused.status, 422);
                    refused
                }
                _ => world.unix(&post(&path, "application/json", order)).await,
            };
            let operation = &all["paths"][route.path][route.method.to_lowercase()];
            let answer = operation["responses"].get(got.status.to_string());
            let contents =
                answer.unwrap_or(&operation["responses"]["default"])["content"].as_object().unwrap();
            let (media, content) = contents.iter().next().unwrap();
            assert!(got.has(&format!("content-type: {media}")), "{path}: {}", got.head);
            if media.ends_with("json") {
                fits(&all, &content["schema"], &got.json(), route.path);
            } else {
                assert_eq!(content["schema"]["type"], "string");
            }
        }
        for wrong in ["/api/v1/nothing", "/api/v1/state?x=1"] {
            let got = world.tcp(&get(wrong)).await;
            fits(&all, &json!({ "$ref": "#/components/schemas/Problem" }), &got.json(), wrong);
        }
    });
}
