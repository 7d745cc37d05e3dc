//! Uploading a module: streamed to a blob while it is hashed, looked at, stored, and only then
//! known.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use bytes::{Bytes, BytesMut};
use hyper::header::HeaderName;
use hyper::{HeaderMap, StatusCode, Uri};
use sha2::{Digest as _, Sha256};
use wasmill_api::catalog::is_alias;
use wasmill_api::{FieldError, ModuleDoc, check};
use wasmill_fabric::{BlobError, BlobWriter};
use wasmill_protocol::command::{Command, Done, QuotaKind, Refusal};
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::{Digest, TenantName};

use crate::App;
use crate::auth::{CallerAs, Submit};
use crate::body::{BodyReader, header_text, media_type};
use crate::gate::{GateError, Upload, UploadBytes};
use crate::json;
use crate::memory::MemoryTaken;
use crate::problem::{Code, Fault, Handled};
use crate::query::Parameters;

/// The digest that the client expects.
const DIGEST_HEADER: HeaderName = HeaderName::from_static("wasmill-digest");

/// Upload a module.
///
/// The body is the bytes of a `.wasm` file. A module that this tenant has already is answered with
/// 200.
#[utoipa::path(post, path = "/v1/modules", tag = "modules", operation_id = "upload_module",
    params(
        ("alias" = Option<String>, Query, description = "Point this alias at the module"),
        ("name" = Option<String>, Query, description = "What the file is called: what a command finds as its own name when its task \
            names neither a program nor an alias", min_length = 1, max_length = 256),
        ("Wasmill-Digest" = Option<String>, Header, description = "Must be the digest of the body")),
    request_body(content(
        (crate::openapi::Bytes = "application/wasm"),
        (crate::openapi::Bytes = "application/octet-stream"))),
    responses(
        (status = 200, description = "The tenant had it already", body = ModuleDoc),
        (status = 201, description = "It is stored", body = ModuleDoc),
        crate::openapi::Conflict, crate::openapi::BodyProblems))]
pub(crate) async fn upload(
    State(app): State<App>,
    caller: CallerAs<Submit>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let mut parameters = Parameters::of(&uri)?;
    let alias = parameters.text("alias")?;
    let name = parameters.text("name")?;
    parameters.finish()?;
    check_alias(alias.as_deref())?;
    check::file_name(name.as_deref())?;
    let claimed = claimed_digest(&headers)?;
    if media_type(&headers).is_some_and(|media_type| media_type.starts_with("multipart/")) {
        return Err(Fault::new(Code::UnsupportedMediaType, "send the bytes themselves as the body, not a form"));
    }
    let bound = Bound::of(&app, &caller.tenant);
    let reader = BodyReader::new(&headers, body, bound.bytes_max, bound.too_large, app.config.body_pace);
    let received = match reader {
        Ok(reader) => receive(&app, &caller.tenant, reader).await,
        Err(fault) => Err(fault),
    };
    let received = received.map_err(|fault| bound.explained(fault))?;
    if let Some(claimed) = claimed.filter(|claimed| *claimed != received.digest) {
        let detail = format!("the body has the digest {}, not {claimed}", received.digest);
        return Err(Fault::new(Code::DigestMismatch, detail).field(DIGEST_HEADER.as_str()));
    }
    let created = keep(&app, &caller.tenant, received, Names { alias, name }).await?;
    let (digest, status) = created;
    let contents = app.handle.shared().directory.read();
    let Some((info, at)) = contents.module(&caller.tenant, digest) else {
        return Err(Fault::new(Code::ModuleUnknown, "the module was deleted at the same moment"));
    };
    let document = ModuleDoc::new(info, *at);
    drop(contents);
    Ok(json::answer(status, &document))
}

/// How large an upload of a tenant can be.
struct Bound {
    bytes_max: u64,
    too_large: Code,
    /// The leader's refusal of a larger one, where that is why.
    refusal: Option<Refusal>,
}

impl Bound {
    /// The cap of a module, or what is left of the tenant's quotas. A module that it has already
    /// may come again, however little is left.
    fn of(app: &App, tenant: &TenantName) -> Self {
        let cap = Self { bytes_max: app.config.caps.module_bytes, too_large: Code::ModuleTooLarge, refusal: None };
        let contents = app.handle.shared().directory.read();
        let Some(quotas) = contents.tenants.get(tenant).map(|(tenant, _)| tenant.quotas) else { return cap };
        let sizes = || contents.modules.get(tenant).into_iter().flatten().map(|(_, (module, _))| module.bytes);
        let (quota, limit, left) = match (quotas.modules, quotas.module_bytes) {
            (Some(limit), _) if sizes().count() as u64 >= limit => (QuotaKind::Modules, limit, 0),
            (_, Some(limit)) => (QuotaKind::ModuleBytes, limit, limit.saturating_sub(sizes().sum())),
            (_, None) => return cap,
        };
        let bytes_max = left.max(sizes().max().unwrap_or(0));
        if bytes_max >= cap.bytes_max {
            return cap;
        }
        Self { bytes_max, too_large: Code::ModuleQuota, refusal: Some(Refusal::Quota { quota, limit }) }
    }

    fn explained(self, fault: Fault) -> Fault {
        match self.refusal {
            Some(refusal) if fault.code() == self.too_large => refusal.into(),
            _ => fault,
        }
    }
}

fn check_alias(alias: Option<&str>) -> Handled<()> {
    match alias {
        Some(alias) if !is_alias(alias) => {
            let detail = "is not an alias: `name` or `name:version` of a-z, 0-9, `-`, `_`, `.` is expected";
            Err(FieldError::invalid("alias", detail).into())
        }
        _ => Ok(()),
    }
}

fn claimed_digest(headers: &HeaderMap) -> Handled<Option<Digest>> {
    let Some(text) = header_text(headers, &DIGEST_HEADER)? else { return Ok(None) };
    text.parse().map(Some).map_err(|error: wasmill_protocol::ids::ParseIdError| {
        Fault::new(Code::MalformedDigest, error.to_string()).field(DIGEST_HEADER.as_str())
    })
}

/// Bytes that have all arrived but are not visible yet. Dropping them leaves nothing behind.
struct Received {
    writer: Box<dyn BlobWriter>,
    digest: Digest,
    byte_count: u64,
    /// The bytes, when the writer has no file that the gate could read.
    in_memory: Option<Bytes>,
    /// The memory that they take until they are stored.
    _taken: [MemoryTaken; 2],
}

async fn receive(app: &App, tenant: &TenantName, mut reader: BodyReader) -> Handled<Received> {
    let (mut room, mut memory) = (app.upload_room.of(tenant), app.body_memory.of(tenant));
    let mut writer = app.handle.shared().blobs.create().await?;
    let mut in_memory = writer.local_path().is_none().then(BytesMut::new);
    let mut hasher = Sha256::new();
    let mut byte_count = 0;
    while let Some(chunk) = reader.next().await? {
        hasher.update(&chunk);
        byte_count += chunk.len() as u64;
        room.grow(byte_count)?;
        if let Some(bytes) = &mut in_memory {
            // One that grows by doubling holds at most the old and the new half at once.
            memory.grow(byte_count * 2)?;
            bytes.extend_from_slice(&chunk);
        }
        writer.write(chunk).await?;
    }
    let digest = Digest(hasher.finalize().into());
    Ok(Received { writer, digest, byte_count, in_memory: in_memory.map(BytesMut::freeze), _taken: [room, memory] })
}

/// The names of the module, by its upload.
struct Names {
    alias: Option<String>,
    name: Option<String>,
}

/// Stores the received module unless this tenant has it. The modules of other tenants make no
/// difference: their modules must not be guessable by their digest or by the time that an upload
/// takes.
async fn keep(
    app: &App,
    tenant: &TenantName,
    received: Received,
    Names { alias, name }: Names,
) -> Handled<(Digest, StatusCode)> {
    let digest = received.digest;
    let (known, compile_ms_per_s) = {
        let directory = app.handle.shared().directory.read();
        let quotas = directory.tenants.get(tenant).map(|(tenant, _)| tenant.quotas);
        (directory.module(tenant, digest).is_some(), quotas.and_then(|quotas| quotas.compile_ms_per_s))
    };
    if known {
        if let Some(name) = alias {
            app.handle.command(Command::SetAlias { tenant: tenant.clone(), name, digest }).await?;
        }
        return Ok((digest, StatusCode::OK));
    }
    // Before it is compiled and before it is stored: what is refused leaves nothing.
    let sized = ModuleInfo { digest, bytes: received.byte_count, ..ModuleInfo::default() };
    let command =
        |module| Command::AddModule { tenant: tenant.clone(), module: Arc::new(module), alias: alias.clone() };
    app.handle.check(command(sized)).await?;
    let path = received.writer.local_path().map(Path::to_owned);
    let bytes = match (&received.in_memory, &path) {
        (Some(bytes), _) => UploadBytes::Memory(bytes.clone()),
        (None, Some(path)) => UploadBytes::File(path),
        (None, None) => return Err(Fault::new(Code::Internal, "the uploaded bytes are gone")),
    };
    let info =
        inspect(app, tenant, Upload { digest, byte_count: received.byte_count, compile_ms_per_s, bytes }).await?;
    match received.writer.finish(Box::new(move |stat| stat.digest == digest)).await {
        Ok(_) => {}
        Err(error @ BlobError::Unwanted(_)) => return Err(Fault::internal("store the bytes as they came", &error)),
        Err(error) => return Err(error.into()),
    }
    let info = ModuleInfo { name, ..info };
    match app.handle.command(command(info)).await {
        Ok((_, Done::Created)) => Ok((digest, StatusCode::CREATED)),
        // The same bytes were uploaded at the same moment.
        Ok(_) => Ok((digest, StatusCode::OK)),
        Err(refusal) => {
            if refusal != Refusal::OutcomeUnknown {
                app.handle.shared().read_model.note_unneeded([digest]);
            }
            Err(refusal.into())
        }
    }
}

async fn inspect(app: &App, tenant: &TenantName, upload: Upload<'_>) -> Handled<ModuleInfo> {
    let (digest, bytes) = (upload.digest, upload.byte_count);
    match app.gate.inspect(tenant, upload).await {
        Ok(info) => Ok(ModuleInfo { digest, bytes, ..info }),
        Err(GateError::Rejected(rejection)) => Err(Fault::new(Code::ModuleInvalid, rejection.message)),
        Err(GateError::Busy { retry_ms }) => Err(Fault::plain(Code::CompilerBusy).retry_ms(retry_ms)),
        Err(GateError::OverBudget { retry_ms, ms_per_s }) => {
            let detail =
                format!("the tenant may compile modules for {ms_per_s} ms of each second and has compiled for longer");
            Err(Fault::new(Code::QuotaExceeded, detail).field("compile_ms_per_s").limit(ms_per_s).retry_ms(retry_ms))
        }
        Err(GateError::Fault(reason)) => {
            tracing::error!(%digest, reason, "cannot check a module");
            Err(Fault::new(Code::Internal, "the module could not be checked"))
        }
    }
}
