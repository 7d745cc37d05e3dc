//! Requests by their routes.

use std::sync::OnceLock;
use std::time::Duration;

use hyper::{Method, StatusCode, Uri};
use matchit::Router;
use wasmill_metrics::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, LATENCY_BUCKETS_S, Registry, counters, histograms,
};

/// The label of requests that no route takes.
const NO_ROUTE: &str = "none";

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Clients can invent methods: a label has a bounded set of values.
const METHODS: [(Method, &str); 6] = [
    (Method::GET, "GET"),
    (Method::HEAD, "HEAD"),
    (Method::POST, "POST"),
    (Method::PUT, "PUT"),
    (Method::PATCH, "PATCH"),
    (Method::DELETE, "DELETE"),
];
const METHOD_OTHER: &str = "other";

/// Counts requests. Everything that has a label is looked up once and then at hand.
pub(super) struct Requests {
    answered: IntCounterVec,
    seconds: HistogramVec,
    paths: Router<usize>,
    /// In the order of `paths`, by method; the last method stands for all others.
    routes: Vec<[Route; METHODS.len() + 1]>,
    none: Route,
}

/// One method of one path.
#[derive(Default)]
struct Route {
    label: String,
    answered: [OnceLock<IntCounter>; CLASSES.len()],
    seconds: OnceLock<Histogram>,
}

/// What a request is counted as.
#[derive(Clone, Copy)]
pub(crate) struct Counted<'a> {
    route: &'a Route,
    /// Whether the client asks to wait for something: how long that takes says nothing of this server.
    waits: bool,
}

impl Requests {
    /// Registers everything. `paths` are those of the routes, with `{name}` for what varies.
    ///
    /// # Panics
    ///
    /// When two paths cannot be told apart.
    pub(super) fn new<'a>(registry: &Registry, paths: impl IntoIterator<Item = &'a str>) -> Self {
        let mut router = Router::new();
        let mut routes = Vec::new();
        for path in paths {
            router.insert(path, routes.len()).expect("paths of routes differ");
            let methods = METHODS.iter().map(|(_, name)| *name).chain([METHOD_OTHER]);
            let mut of_path: [Route; METHODS.len() + 1] = Default::default();
            for (route, method) in of_path.iter_mut().zip(methods) {
                route.label = format!("{method} {path}");
            }
            routes.push(of_path);
        }
        Self {
            answered: counters(
                registry,
                "wasmill_http_requests_total",
                "Requests answered, by route and status class.",
                &["route", "class"],
            ),
            seconds: histograms(
                registry,
                "wasmill_http_request_seconds",
                "Time from a request's headers to those of its answer, by route; requests that ask to wait are left out.",
                &LATENCY_BUCKETS_S,
                &["route"],
            ),
            paths: router,
            routes,
            none: Route { label: NO_ROUTE.to_owned(), ..Route::default() },
        }
    }

    /// What a request is counted as.
    pub(super) fn counted(&self, method: &Method, uri: &Uri) -> Counted<'_> {
        let route = self.paths.at(uri.path()).map_or(&self.none, |found| {
            let known = METHODS.iter().position(|(known, _)| known == method);
            &self.routes[*found.value][known.unwrap_or(METHODS.len())]
        });
        let query = uri.query().unwrap_or_default();
        let waits = query.split('&').any(|pair| pair.starts_with("wait_ms=") || pair.starts_with("follow="));
        Counted { route, waits }
    }

    /// Counts an answer.
    pub(super) fn answered(&self, counted: Counted<'_>, status: StatusCode, took: Duration) {
        // A path that has no such method is no route.
        let route = if status == StatusCode::METHOD_NOT_ALLOWED { &self.none } else { counted.route };
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        let answered =
            route.answered[class].get_or_init(|| self.answered.with_label_values(&[&*route.label, CLASSES[class]]));
        answered.inc();
        if !counted.waits {
            let seconds = route.seconds.get_or_init(|| self.seconds.with_label_values(&[&*route.label]));
            seconds.observe(took.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmill_metrics::Page;

    use super::*;

    fn check(asked: &[(&str, &str, u16)], expect: &[&str]) {
        let registry = Registry::new();
        let requests = Requests::new(&registry, ["/v1/tasks", "/v1/tasks/{id}", "/v1/run/{module}"]);
        for (method, uri, status) in asked {
            let counted = requests.counted(&method.parse().unwrap(), &uri.parse().unwrap());
            requests.answered(counted, StatusCode::from_u16(*status).unwrap(), Duration::from_millis(1));
        }
        let page = Page::of(&registry).into_text();
        let is_shown = |line: &&str| {
            line.starts_with("wasmill_http_requests_total") || line.starts_with("wasmill_http_request_seconds_count")
        };
        let lines: Vec<&str> = page.lines().filter(is_shown).collect();
        assert_eq!(lines, expect);
    }

    #[test]
    fn requests_count_for_their_route_and_the_class_of_their_answer() {
        check(
            &[("GET", "/v1/tasks/1?x=y", 200), ("GET", "/v1/tasks/2", 404), ("POST", "/v1/tasks", 201)],
            &[
                "wasmill_http_request_seconds_count{route=\"GET /v1/tasks/{id}\"} 2",
                "wasmill_http_request_seconds_count{route=\"POST /v1/tasks\"} 1",
                "wasmill_http_requests_total{class=\"2xx\",route=\"GET /v1/tasks/{id}\"} 1",
                "wasmill_http_requests_total{class=\"2xx\",route=\"POST /v1/tasks\"} 1",
                "wasmill_http_requests_total{class=\"4xx\",route=\"GET /v1/tasks/{id}\"} 1",
            ],
        );
    }

    #[test]
    fn how_long_a_client_asked_to_wait_is_not_measured() {
        check(
            &[("GET", "/v1/tasks/1?wait_ms=10", 200)],
            &["wasmill_http_requests_total{class=\"2xx\",route=\"GET /v1/tasks/{id}\"} 1"],
        );
    }

    #[test]
    fn labels_are_bounded_whatever_clients_ask() {
        check(
            &[
                ("GET", "/nothing/1", 404),
                ("GET", "/nothing/2", 404),
                ("BREW", "/v1/tasks", 405),
                ("STEW", "/v1/tasks", 405),
                ("DELETE", "/v1/run/x", 405),
            ],
            &[
                "wasmill_http_request_seconds_count{route=\"none\"} 5",
                "wasmill_http_requests_total{class=\"4xx\",route=\"none\"} 5",
            ],
        );
        check(
            &[("BREW", "/v1/tasks", 200)],
            &[
                "wasmill_http_request_seconds_count{route=\"other /v1/tasks\"} 1",
                "wasmill_http_requests_total{class=\"2xx\",route=\"other /v1/tasks\"} 1",
            ],
        );
    }
}
