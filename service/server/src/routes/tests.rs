//! The table of routes, walked over a real socket, and held against `docs/http.md`.

use std::fmt::Write;

use super::*;
use crate::error::kind;
use crate::tests::{problem, starting};

fn url(addr: std::net::SocketAddr, path: &str) -> String {
    // What stands for a segment that varies is any text.
    format!("http://{addr}{}", path.replace(['{', '}'], "x"))
}

#[tokio::test]
async fn every_route_is_there_and_asks_for_a_token_first() {
    let (_dir, _, _sender, addr, token) = starting().await;
    let client = reqwest::Client::new();
    for route in &ROUTES {
        let name = route.name;
        // Too long for the server: whoever reads it first does not answer 401.
        let request = || client.request(route.method.clone(), url(addr, route.path)).body("x".repeat(2_000));
        let anonymous = request().send().await.expect("a response");
        let with_token = request().bearer_auth(&token).send().await.expect("a response");
        assert!(!matches!(with_token.status().as_u16(), 401 | 404 | 405), "{name}: {}", with_token.status());
        if let Handler::Token(_) = route.handler {
            assert!(anonymous.headers().contains_key("www-authenticate"), "{name}");
            let (status, document) = problem(anonymous).await;
            assert_eq!((status, document["type"].as_str()), (401, Some("/problems/sign-in-required")), "{name}");
        } else {
            assert_ne!(anonymous.status(), 401, "{name}");
        }
    }
}

#[tokio::test]
async fn other_methods_are_told_which_ones_there_are() {
    let (_dir, _, _sender, addr, _) = starting().await;
    let client = reqwest::Client::new();
    for path in paths() {
        let methods = allow(path);
        assert!(!methods.contains("TRACE") && !methods.is_empty(), "{path}");
        let response = client.request(Method::TRACE, url(addr, path)).send().await.expect("a response");
        assert_eq!(response.headers()["allow"], methods.as_str(), "{path}");
        let (status, document) = problem(response).await;
        assert_eq!((status, document["type"].as_str()), (405, Some("/problems/method-not-allowed")), "{path}");
        assert!(document["detail"].as_str().is_some_and(|detail| detail.contains(&methods)), "{document}");
    }
    let head = client.head(url(addr, "/healthz")).send().await.expect("a response");
    assert_eq!(head.status(), 200, "HEAD goes where GET goes");
}

#[tokio::test]
async fn only_paths_of_the_table_are_labels() {
    let (_dir, _, _sender, addr, _) = starting().await;
    let client = reqwest::Client::new();
    let missing = client.get(url(addr, "/api/v1/invented")).send().await.expect("a response");
    let (status, document) = problem(missing).await;
    assert_eq!((status, document["type"].as_str()), (404, Some("/problems/not-found")));
    for route in &ROUTES {
        assert!(document["hint"].as_str().is_some_and(|hint| hint.contains(route.path)), "{document}");
        assert_eq!(path(route.path), Some(route.path));
    }
    client.request(Method::TRACE, url(addr, "/healthz")).send().await.expect("a response");
    let metrics = client.get(url(addr, "/metrics")).send().await.expect("a response").text().await.expect("text");
    assert!(metrics.contains(r#"route="other",status="404""#), "{metrics}");
    assert!(metrics.contains(r#"route="/healthz",status="405""#), "{metrics}");
    assert!(!metrics.contains("invented"), "{metrics}");
}

#[test]
fn the_table_is_in_order() {
    let mut names: Vec<_> = ROUTES.iter().map(|route| route.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ROUTES.len(), "names are unique");
    let mut all = paths();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "entries of one path stand together");
    for route in &ROUTES {
        filter(&route.method);
    }
}

/// The tables of `docs/http.md`, as the code has them.
fn tables() -> [String; 2] {
    let types = |types: &[&str]| match types {
        [] => "none".to_owned(),
        types => types.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    };
    let mut routes = "| route | token | what it does | body | response |\n|---|---|---|---|---|\n".to_owned();
    for route in &ROUTES {
        let token = if matches!(route.handler, Handler::Token(_)) { "yes" } else { "no" };
        let (takes, gives) = (types(route.takes), types(route.gives));
        let Route { method, path, summary, .. } = route;
        writeln!(routes, "| `{method} {path}` | {token} | {summary} | {takes} | {gives} |").expect("a text");
    }
    let mut errors = "| type | status | title |\n|---|---|---|\n".to_owned();
    for kind in kind::ALL {
        writeln!(errors, "| `{}` | {} | {} |", kind.uri(), kind.status, kind.title).expect("a text");
    }
    [routes, errors]
}

#[test]
fn the_page_is_in_step_with_the_tables() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/http.md")).expect("the page");
    for table in tables() {
        // With the empty line around it, so that no row is there beyond the table's.
        assert!(page.contains(&format!("\n\n{table}\n")), "docs/http.md does not have this table:\n\n{table}");
    }
}
