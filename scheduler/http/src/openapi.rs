//! The routes, and their description as OpenAPI 3.1.

mod refine;
mod shapes;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes as RawBytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wasmill_api::Problem;
use wasmill_protocol::limits::Caps;

use super::auth::{CallerAs, Read};
use super::problem::{Code, Fault, Handled};
use super::query::NoParameters;
use super::{App, actions, aliases, metrics, modules, run, submit, system, tasks, tenants, tokens};

use shapes::problem_responses;
pub(super) use shapes::{
    AliasPath, AttemptParams, BodyProblems, Bytes, Conflict, DigestCursor, HostPath, ModulePath, NameCursor, Nothing,
    PageParams, RunParams, TaskCursor, TaskFilterParams, TaskPath, TenantPath, TokenPath, Unknown, WaitParams,
};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Wasmill",
        description = "Runs WebAssembly tasks for many tenants. Errors are `application/problem+json` with a stable `code`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(Problem)),
    security(("token" = [])),
    tags(
        (name = "tasks", description = "Submit, run, look at and stop tasks"),
        (name = "modules", description = "Upload modules and name them"),
        (name = "tenants", description = "Tenants and their tokens"),
        (name = "system", description = "Hosts, status, health and metrics")
    )
)]
struct Base;

/// Every route, with the fallbacks.
pub(super) fn router(app: &App) -> Router {
    let (router, _) = routes_with_description().split_for_parts();
    router
        .fallback(async || Fault::plain(Code::NotFound))
        .method_not_allowed_fallback(async || Fault::plain(Code::MethodNotAllowed))
        .with_state(app.clone())
}

/// The paths of all routes, with `{name}` for what varies.
pub(super) fn paths() -> Vec<String> {
    routes_with_description().into_openapi().paths.paths.into_keys().collect()
}

fn routes_with_description() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Base::openapi())
        .routes(routes!(tasks::list, submit::submit))
        .routes(routes!(tasks::get, actions::patch))
        .routes(routes!(tasks::input))
        .routes(routes!(tasks::checkpoint))
        .routes(routes!(tasks::output))
        .routes(routes!(tasks::logs))
        .routes(routes!(tasks::events))
        .routes(routes!(actions::cancel))
        .routes(routes!(actions::retry))
        .routes(routes!(run::run))
        .routes(routes!(modules::list, modules::upload))
        .routes(routes!(modules::describe, modules::delete))
        .routes(routes!(modules::content))
        .routes(routes!(aliases::list))
        .routes(routes!(aliases::describe, aliases::put, aliases::delete))
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::describe, tenants::change, tenants::delete))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::describe, tokens::delete))
        .routes(routes!(system::hosts))
        .routes(routes!(system::drain))
        .routes(routes!(system::undrain))
        .routes(routes!(system::status))
        .routes(routes!(system::livez))
        .routes(routes!(system::readyz))
        .routes(routes!(metrics::metrics))
        .routes(routes!(description))
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "system", operation_id = "get_openapi",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
async fn description(State(app): State<App>, _: CallerAs<Read>, _: NoParameters) -> Handled {
    let json = RawBytes::from(document(&app.config.caps, &app.config.version));
    let mut response = Response::new(Body::from(json));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The description as JSON, with the caps of this installation as bounds.
pub fn document(caps: &Caps, version: &str) -> String {
    let api = routes_with_description().into_openapi();
    let mut api = serde_json::to_value(&api).expect("the description is made of texts and numbers");
    api["info"]["version"] = version.into();
    api["components"]["securitySchemes"]["token"] =
        json!({"type": "http", "scheme": "bearer", "description": "A token of this server: `wm_` and 43 characters."});
    refine::refine(&mut api, caps);
    for (path, item) in api["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            if METHODS.contains(&method.as_str()) {
                add_common_problems(path, &mut operation["responses"]);
            }
        }
    }
    api.to_string()
}

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

/// The problems that every call can answer with.
fn add_common_problems(path: &str, responses: &mut Value) {
    let statuses: &[u16] = match path {
        "/livez" => &[],
        "/readyz" => &[503],
        _ => &[400, 401, 403, 404, 414, 422, 429, 500, 503, 507],
    };
    for (status, response) in problem_responses(statuses) {
        if responses.get(&status).is_none() {
            responses[status] = serde_json::to_value(response).expect("a response is made of texts");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn described() -> Value {
        serde_json::from_str(&document(&Caps::default(), "1.2.3")).unwrap()
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let api = described();
        let text = api.to_string();
        let references: BTreeSet<&str> =
            text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(references.contains("/components/schemas/TaskDoc"));
        for reference in references {
            assert!(api.pointer(reference).is_some(), "{reference}");
        }
    }

    #[test]
    fn calls_have_names_of_their_own_and_document_their_problems() {
        let api = described();
        let mut names = BTreeSet::new();
        for (path, item) in api["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
                assert!(operation["summary"].is_string(), "{method} {path}");
                let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
                let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path").count();
                assert_eq!(in_path, path.matches('{').count(), "{method} {path}");
                if path.starts_with("/v1/") {
                    assert!(operation["responses"]["401"].is_object(), "{method} {path}");
                }
            }
        }
        assert!(names.len() >= 30);
    }

    #[test]
    fn settings_become_bounds() {
        let api = described();
        assert_eq!(api["info"]["version"], "1.2.3");
        let limits = &api["components"]["schemas"]["LimitsAsked"]["properties"];
        assert_eq!(limits["cpu_ms"]["maximum"], Caps::default().cpu_ms);
    }
}
