//! The table of routes: everything that HTTP offers, one entry each. The router, the metrics' labels, the 404's hint, the
//! 405's `Allow`, authentication and `docs/http.md` come from it.

use std::sync::LazyLock;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware;
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter};
use futures::future::BoxFuture;

use crate::auth::Caller;
use crate::error::{HttpError, kind};
use crate::{HttpState, export, health, request, sql};

/// The future of a handler.
pub(crate) type Handling = BoxFuture<'static, Result<Response, HttpError>>;

/// Who may call a route, and what handles the request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Handler {
    /// Everybody.
    Open(fn(HttpState, Request) -> Handling),
    /// Whoever has a token. It is looked at before anything else of the request, its body above all.
    Token(fn(HttpState, Caller, Request) -> Handling),
}

/// One thing that HTTP offers.
#[derive(Debug)]
#[cfg_attr(not(test), allow(dead_code, reason = "OpenAPI will be made of the texts; docs/http.md's test reads them"))]
pub(crate) struct Route {
    /// `GET` takes `HEAD` as well.
    pub(crate) method: Method,
    /// As axum writes it, with `{name}` for a segment that varies.
    pub(crate) path: &'static str,
    /// A name for programs, unique.
    pub(crate) name: &'static str,
    /// What it does, in one sentence without a full stop.
    pub(crate) summary: &'static str,
    /// Media types of the body; empty where there is none.
    pub(crate) takes: &'static [&'static str],
    /// Media types of the response. Errors are problem documents everywhere.
    pub(crate) gives: &'static [&'static str],
    pub(crate) handler: Handler,
}

/// All routes. To add one, add an entry.
pub(crate) static ROUTES: [Route; 6] = [
    Route {
        method: Method::POST,
        path: "/api/v1/sql",
        name: "sql",
        summary: "Runs one SQL query; `Accept` chooses the media type of the result",
        takes: &["text/plain", "application/sql", "application/json"],
        gives: &["application/json", "application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream"],
        handler: Handler::Token(|state, caller, request| Box::pin(sql::post(state, caller, request))),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/export",
        name: "export",
        summary: "Exports all readings of a range of time and of some loggers, however many",
        takes: &[],
        gives: &["text/csv"],
        handler: Handler::Token(|state, caller, request| Box::pin(export::get(state, caller, request))),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/export",
        name: "export-by-post",
        summary: "The same, with the parameters as members of a JSON object",
        takes: &["application/json"],
        gives: &["text/csv"],
        handler: Handler::Token(|state, caller, request| Box::pin(export::post(state, caller, request))),
    },
    Route {
        method: Method::GET,
        path: "/healthz",
        name: "live",
        summary: "Answers as long as the process lives",
        takes: &[],
        gives: &["text/plain"],
        handler: Handler::Open(|_, _| Box::pin(health::live())),
    },
    Route {
        method: Method::GET,
        path: "/readyz",
        name: "ready",
        summary: "Answers 200 if recovery is over and frames are taken, and otherwise 503 with the reasons",
        takes: &[],
        gives: &["application/json"],
        handler: Handler::Open(|state, _| Box::pin(health::ready(state))),
    },
    Route {
        method: Method::GET,
        path: "/metrics",
        name: "metrics",
        summary: "Returns the process's metrics in the text format of Prometheus",
        takes: &[],
        gives: &["text/plain"],
        handler: Handler::Open(|state, _| Box::pin(health::metrics(state))),
    },
];

/// The paths of the table, each once.
fn paths() -> Vec<&'static str> {
    let mut paths: Vec<&'static str> = ROUTES.iter().map(|route| route.path).collect();
    paths.dedup();
    paths
}

/// The path of the table that reads like this one.
pub(crate) fn path(matched: &str) -> Option<&'static str> {
    ROUTES.iter().map(|route| route.path).find(|path| *path == matched)
}

/// The methods that a path takes, as `Allow` lists them.
pub(crate) fn allow(path: &str) -> String {
    let mut methods = Vec::new();
    for route in ROUTES.iter().filter(|route| route.path == path) {
        methods.push(route.method.as_str());
        if route.method == Method::GET {
            methods.push("HEAD");
        }
    }
    methods.join(", ")
}

/// The router that the table describes.
pub(crate) fn router(state: HttpState) -> Router {
    let mut router = Router::new();
    for path in paths() {
        let mut methods =
            MethodRouter::new().fallback(move || async move { HttpError::method_not_allowed(allow(path)) });
        for route in ROUTES.iter().filter(|route| route.path == path) {
            let filter = filter(&route.method);
            methods = methods.on(filter, move |State(state): State<HttpState>, request: Request| async move {
                call(&route.handler, state, request).await
            });
        }
        router = router.route(path, methods);
    }
    router.fallback(not_found).layer(middleware::from_fn(request::handle)).with_state(state)
}

/// # Panics
/// On a method that axum does not know, which the table's own test rules out.
fn filter(method: &Method) -> MethodFilter {
    let filter = MethodFilter::try_from(method.clone()).expect("the table has methods of HTTP");
    if *method == Method::GET { filter.or(MethodFilter::HEAD) } else { filter }
}

async fn call(handler: &Handler, state: HttpState, request: Request) -> Result<Response, HttpError> {
    match handler {
        Handler::Open(handle) => handle(state, request).await,
        Handler::Token(handle) => {
            let caller = Caller::authenticate(&state, request.headers()).await?;
            handle(state, caller, request).await
        }
    }
}

async fn not_found() -> HttpError {
    static HINT: LazyLock<String> = LazyLock::new(|| {
        let routes: Vec<String> = ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
        format!("there are: {}", routes.join(", "))
    });
    HttpError::new(&kind::NOT_FOUND, "there is nothing at this path").hint(HINT.as_str())
}

#[cfg(test)]
mod tests;
