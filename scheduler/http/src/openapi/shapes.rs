//! Parameters and answers that many calls share, as the description shows them.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::openapi::response::Response;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoParams, IntoResponses, ToSchema};
use wasmill_api::PROBLEM_JSON;

/// Bytes of any kind.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "the description only looks at the type")]
pub(crate) struct Bytes(Vec<u8>);

/// A document without fields.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

macro_rules! path_parameter {
    ($name:ident, $field:ident, $doc:literal, $($schema:tt)*) => {
        #[derive(IntoParams)]
        #[into_params(parameter_in = Path)]
        #[allow(dead_code, reason = "the description only looks at the type")]
        pub(crate) struct $name {
            #[doc = $doc]
            #[param($($schema)*)]
            $field: String,
        }
    };
}

path_parameter!(
    AliasPath,
    name,
    "`NAME` or `NAME:VERSION`.",
    pattern = "^(?!sha256:)[a-z0-9][a-z0-9._-]{0,62}(:[a-z0-9][a-z0-9._-]{0,62})?$"
);
path_parameter!(TenantPath, name, "The name of a tenant.", pattern = "^[a-z0-9][a-z0-9._-]{0,62}$");
path_parameter!(TokenPath, id, "The id of a token.", min_length = 1);
path_parameter!(TaskPath, id, "The id of a task.", format = "uuid");
path_parameter!(HostPath, id, "The id of a host.", min_length = 1);
path_parameter!(ModulePath, module, "A digest or an alias.", min_length = 1, max_length = 127);

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the description only looks at the type")]
pub(crate) struct PageParams {
    /// Entries of the page; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
}

macro_rules! cursor {
    ($name:ident, $($schema:tt)*) => {
        #[derive(IntoParams)]
        #[into_params(parameter_in = Query)]
        #[allow(dead_code, reason = "the description only looks at the type")]
        pub(crate) struct $name {
            /// The `next` of the page before.
            #[param($($schema)*)]
            cursor: Option<String>,
        }
    };
}

cursor!(NameCursor, min_length = 1);
cursor!(DigestCursor, pattern = "^sha256:[0-9a-f]{64}$");
cursor!(TaskCursor, pattern = "^[0-7][0-9a-f]{15}$");

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the description only looks at the type")]
pub(crate) struct WaitParams {
    /// How long to wait for the end of the task.
    #[param(minimum = 0, maximum = 60000)]
    wait_ms: Option<u64>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the description only looks at the type")]
pub(crate) struct AttemptParams {
    /// Which attempt; the latest when absent.
    #[param(minimum = 1)]
    attempt: Option<u32>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the description only looks at the type")]
pub(crate) struct RunParams {
    /// CPU time in milliseconds.
    #[param(minimum = 1)]
    cpu_ms: Option<u64>,
    /// Fuel in wasmtime's units.
    #[param(minimum = 1)]
    fuel: Option<u64>,
    /// Bytes of all memories and tables together.
    #[param(minimum = 1)]
    memory_bytes: Option<u64>,
    /// Milliseconds from the start of the attempt to its end.
    #[param(minimum = 1)]
    wall_ms: Option<u64>,
    /// The largest output in bytes.
    #[param(minimum = 0)]
    output_bytes: Option<u64>,
    /// Higher first, among the tasks of its tenant.
    #[param(minimum = -100, maximum = 100)]
    priority: Option<i64>,
    /// Arguments of a command, one each.
    #[param(explode, style = Form)]
    arg: Option<Vec<String>>,
    /// The name that a command finds as its own; without it the alias of the path, else what the
    /// file was called at its upload, else `module`.
    #[param(min_length = 1, max_length = 256)]
    program: Option<String>,
    /// Exit codes of a command that are success, with commas between them; `0` without it.
    #[param(pattern = "^[0-9]{1,3}(,[0-9]{1,3})*$")]
    ok_exit: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the description only looks at the type")]
pub(crate) struct TaskFilterParams {
    /// In one of these states.
    #[param(explode, style = Form)]
    state: Option<Vec<wasmill_protocol::TaskState>>,
    /// Of this module: a digest or an alias.
    #[param(min_length = 1, max_length = 127)]
    module: Option<String>,
    /// Of exactly this name.
    name: Option<String>,
    /// With all of these labels, each as `key=value`.
    #[param(explode, style = Form)]
    label: Option<Vec<String>>,
    /// Of this job. Tasks cannot belong to jobs yet, so nothing matches.
    job: Option<String>,
    /// Created later than this.
    #[param(format = DateTime)]
    created_after: Option<String>,
    /// Created earlier than this.
    #[param(format = DateTime)]
    created_before: Option<String>,
    /// With their results; only as `application/x-ndjson`.
    output: Option<bool>,
}

macro_rules! problems {
    ($(#[$doc:meta])* $name:ident $statuses:expr) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                problem_responses(&$statuses).map(|(status, response)| (status, RefOr::T(response))).collect()
            }
        }
    };
}

problems!(
    /// The named thing does not exist, or belongs to somebody else.
    Unknown [404]
);
problems!(
    /// It exists, but not in the right state.
    Conflict [409]
);
problems!(
    /// Calls that read a body.
    BodyProblems [408, 413, 415]
);

/// Answers with a problem, by status.
pub(super) fn problem_responses(statuses: &[u16]) -> impl Iterator<Item = (String, Response)> + '_ {
    statuses.iter().map(|status| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().description(described(*status)).content(PROBLEM_JSON, content).build();
        (status.to_string(), response)
    })
}

fn described(status: u16) -> &'static str {
    match status {
        400 => "Malformed",
        401 => "No valid token",
        403 => "The token's role does not allow it",
        404 => "Unknown, or somebody else's",
        408 => "The body came too slowly",
        409 => "Not in this state",
        413 => "Too large",
        414 => "The path with its query is too long",
        415 => "Of the wrong type",
        422 => "Understood but refused",
        429 => "Too much at once; `Retry-After` says when to try again",
        503 => "Not now; `Retry-After` says when to try again",
        507 => "The disk is full",
        _ => "A fault of the server",
    }
}
