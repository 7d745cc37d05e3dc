//! Callers: tokens, roles and tenants.

use std::fs;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::path::Path;

use axum::extract::FromRequestParts;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName};
use hyper::http::request::Parts;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use wasmill_protocol::command::{Command, Refusal};
use wasmill_protocol::tenant::{Role, Token};
use wasmill_protocol::{Digest, TenantName};

use super::App;
use super::body::header_text;
use super::held::Asker;
use super::problem::{Code, Fault, Handled};
use super::read_twice;
use super::tenant_limits::RequestPermit;
use super::trace;
use wasmill_scheduler::directory::Directory;
use wasmill_scheduler::handle::Handle;

/// Names the tenant that an admin acts for.
pub(super) const TENANT_HEADER: HeaderName = HeaderName::from_static("wasmill-tenant");

/// The sender of a request, with a place among the tenant's requests under way.
#[derive(Debug)]
pub(super) struct Caller {
    /// The tenant that is acted for.
    pub(super) tenant: TenantName,
    /// Its role.
    pub(super) role: Role,
    place: Option<RequestPermit>,
}

impl Caller {
    /// Refuses roles that may do less than `role`.
    pub(super) fn at_least(&self, role: Role) -> Handled<()> {
        // Roles are ordered from the mightiest down.
        if self.role <= role {
            return Ok(());
        }
        let needed = match role {
            Role::Admin => "admin",
            Role::TenantAdmin => "tenant_admin",
            Role::Submit => "submit",
            Role::Read => "read",
        };
        Err(Fault::new(Code::Forbidden, format!("this needs a token of role `{needed}` or above")))
    }

    /// Becomes one that waits: it gives up its place among the requests for one among the waiting,
    /// of which there are more.
    pub(super) fn wait(&mut self, app: &App) -> Handled<RequestPermit> {
        let waiting = app.tenant_limits.wait(&self.tenant)?;
        self.place = None;
        Ok(waiting)
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Handled<Self> {
        let directory = &app.handle.shared().directory;
        // A text that is no token is not looked for.
        bearer(&parts.headers)?;
        let (tenant, role) = read_twice::twice(app, || identify(&parts.headers, directory)).await?;
        trace::identified(parts, &tenant);
        if let Some(asker) = parts.extensions.get::<Asker>() {
            asker.is(&tenant);
        }
        let place = app.tenant_limits.request(&tenant)?;
        Ok(Self { tenant, role, place: Some(place) })
    }
}

/// The least role that a handler asks of its callers.
pub(super) trait LeastRole {
    /// Which it is.
    const ROLE: Role;
}

/// Asks for [`Role::Admin`].
#[derive(Debug)]
pub(super) struct Admin;
/// Asks for [`Role::TenantAdmin`].
#[derive(Debug)]
pub(super) struct TenantAdmin;
/// Asks for [`Role::Submit`].
#[derive(Debug)]
pub(super) struct Submit;
/// Asks for [`Role::Read`].
#[derive(Debug)]
pub(super) struct Read;

impl LeastRole for Admin {
    const ROLE: Role = Role::Admin;
}

impl LeastRole for TenantAdmin {
    const ROLE: Role = Role::TenantAdmin;
}

impl LeastRole for Submit {
    const ROLE: Role = Role::Submit;
}

impl LeastRole for Read {
    const ROLE: Role = Role::Read;
}

/// A caller of role `R` or above. A handler names the role where it takes its caller, so none can
/// forget to ask.
#[derive(Debug)]
pub(super) struct CallerAs<R> {
    /// The caller.
    pub(super) caller: Caller,
    role: PhantomData<R>,
}

impl<R> Deref for CallerAs<R> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl<R> DerefMut for CallerAs<R> {
    fn deref_mut(&mut self) -> &mut Caller {
        &mut self.caller
    }
}

impl<R: LeastRole> FromRequestParts<App> for CallerAs<R> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Handled<Self> {
        let caller = Caller::from_request_parts(parts, app).await?;
        caller.at_least(R::ROLE)?;
        Ok(Self { caller, role: PhantomData })
    }
}

/// The hash of the token that a request presents.
fn bearer(headers: &HeaderMap) -> Handled<Digest> {
    let unauthorized = || Fault::plain(Code::Unauthorized);
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(unauthorized()) };
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(unauthorized)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unauthorized());
    }
    Ok(token_hash(token.trim()))
}

/// The tenant and role of a request.
fn identify(headers: &HeaderMap, directory: &Directory) -> Handled<(TenantName, Role)> {
    let unauthorized = || Fault::plain(Code::Unauthorized);
    let hash = bearer(headers)?;
    let contents = directory.read();
    let (token, _) = contents.tokens.get(&hash).ok_or_else(unauthorized)?;
    if !same(&token.hash, &hash) {
        return Err(unauthorized());
    }
    let Some(asked) = header_text(headers, &TENANT_HEADER)? else {
        let tenant = if token.role == Role::Admin { TenantName::default_tenant() } else { token.tenant.clone() };
        return Ok((tenant, token.role));
    };
    let known = contents.tenants.get_key_value(asked.as_str()).map(|(name, _)| name);
    match known {
        Some(name) if token.role == Role::Admin || *name == token.tenant => Ok((name.clone(), token.role)),
        // Somebody else's tenant looks like one that does not exist.
        _ => Err(Fault::plain(Code::TenantUnknown).field(TENANT_HEADER.as_str())),
    }
}

/// The hash of a token, which alone is stored.
pub(super) fn token_hash(text: &str) -> Digest {
    Digest(Sha256::digest(text.as_bytes()).into())
}

/// Compares without stopping at the first difference. The hash of a guess tells nothing about the
/// guess, so even the lookup before leaks nothing that helps; this keeps it so if the lookup ever
/// changes.
fn same(left: &Digest, right: &Digest) -> bool {
    left.0.iter().zip(&right.0).fold(0, |difference, (left, right)| difference | (left ^ right)) == 0
}

/// The text of a new token: 256 random bits.
pub(super) fn new_token_text() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// The id of a new token, which is not secret.
pub(super) fn new_token_id() -> Result<String, getrandom::Error> {
    Ok(format!("tok_{:016x}", getrandom::u64()?))
}

const TOKEN_PREFIX: &str = "wm_";
/// A token that somebody has thought up is at least this long.
const TOKEN_CHARACTERS_MIN: usize = 20;

/// The first admin token could not be made.
#[derive(Debug, Error)]
pub enum BootstrapError {
    /// The file cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// The action that was attempted.
        action: &'static str,
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file holds no token.
    #[error("{path} holds no token: one line of at least {TOKEN_CHARACTERS_MIN} characters is expected")]
    NoToken {
        /// Which file.
        path: String,
    },
    /// No randomness.
    #[error("cannot draw a token")]
    Random(#[from] getrandom::Error),
    /// The leader did not accept it.
    #[error("cannot store the admin token: {0:?}")]
    Refused(Refusal),
}

impl BootstrapError {
    /// Whether the same can succeed a moment later, because a leader is missing or busy. A step
    /// that was done already is found then.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Refused(Refusal::NotLeader | Refusal::OutcomeUnknown | Refusal::Overloaded { .. }))
    }
}

/// Makes sure that `token_file` holds a valid admin token, mode 0600: keeps the one that is there,
/// else makes a new one.
///
/// The file is written before the token becomes valid: a crash in between leaves a file that the
/// next start replaces.
///
/// # Errors
///
/// When the file cannot be read or written, or this node does not lead.
pub async fn bootstrap_admin(handle: &Handle, token_file: &Path) -> Result<(), BootstrapError> {
    let file_error = |action| {
        let path = token_file.display().to_string();
        move |source| BootstrapError::File { action, path, source }
    };
    match fs::read_to_string(token_file) {
        Ok(text) if is_admin(handle, text.trim()) => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(file_error("read")(error)),
    }
    let text = new_token_text()?;
    write_secret(token_file, &text).map_err(file_error("write"))?;
    let token = admin_token(&text)?;
    handle.command(Command::AddToken { token }).await.map_err(BootstrapError::Refused)?;
    Ok(())
}

/// Makes an admin token and writes it into `token_file`, mode 0600, if nobody at all is an
/// administrator yet. Of several nodes that do this at the same time one succeeds: the scheduler
/// decides which.
///
/// # Errors
///
/// As [`bootstrap_admin`].
pub async fn bootstrap_first_admin(handle: &Handle, token_file: &Path) -> Result<(), BootstrapError> {
    let file_error = |action| {
        let path = token_file.display().to_string();
        move |source| BootstrapError::File { action, path, source }
    };
    catch_up(handle).await?;
    let pending = token_file.with_extension("pending");
    if fs::read_to_string(&pending).is_ok_and(|text| is_admin(handle, text.trim())) {
        // This node was stopped in between.
        return fs::rename(&pending, token_file).map_err(file_error("write"));
    }
    let has_admin = handle.shared().directory.read().tokens.values().any(|(token, _)| token.role == Role::Admin);
    if has_admin {
        return Ok(());
    }
    let text = new_token_text()?;
    // A token must not be lost once it is valid: it is in a file before, under a name by which
    // nobody takes it for valid.
    write_secret(&pending, &text).map_err(file_error("write"))?;
    let token = admin_token(&text)?;
    match handle.command(Command::AddFirstToken { token }).await {
        Ok(_) => fs::rename(&pending, token_file).map_err(file_error("write")),
        Err(Refusal::AdminExists) => {
            // It may be ours: the first answer was lost on its way, and the command was asked
            // again.
            catch_up(handle).await?;
            if is_admin(handle, &text) {
                fs::rename(&pending, token_file).map_err(file_error("write"))
            } else {
                fs::remove_file(&pending).map_err(file_error("remove what was written beside"))
            }
        }
        Err(refusal) => Err(BootstrapError::Refused(refusal)),
    }
}

/// Makes the token in `token_file` a valid admin token, if it is not one yet.
///
/// # Errors
///
/// When the file cannot be read or holds no token, or nobody leads.
pub async fn adopt_admin(handle: &Handle, token_file: &Path) -> Result<(), BootstrapError> {
    let path = || token_file.display().to_string();
    let text = fs::read_to_string(token_file);
    let text = text.map_err(|source| BootstrapError::File { action: "read", path: path(), source })?;
    let text = text.trim();
    if text.len() < TOKEN_CHARACTERS_MIN || text.contains(char::is_whitespace) {
        return Err(BootstrapError::NoToken { path: path() });
    }
    catch_up(handle).await?;
    if is_admin(handle, text) {
        return Ok(());
    }
    match handle.command(Command::AddToken { token: admin_token(text)? }).await {
        // Another node was quicker.
        Ok(_) | Err(Refusal::TokenExists) => Ok(()),
        Err(refusal) => Err(BootstrapError::Refused(refusal)),
    }
}

/// A tenant or a token that this node does not know yet may be there.
async fn catch_up(handle: &Handle) -> Result<(), BootstrapError> {
    handle.catch_up(handle.position()).await.map(drop).map_err(|_| BootstrapError::Refused(Refusal::NotLeader))
}

fn admin_token(text: &str) -> Result<Token, getrandom::Error> {
    Ok(Token {
        id: new_token_id()?,
        tenant: TenantName::default_tenant(),
        name: "made at start".to_owned(),
        role: Role::Admin,
        hash: token_hash(text),
    })
}

fn is_admin(handle: &Handle, text: &str) -> bool {
    let contents = handle.shared().directory.read();
    contents.tokens.get(&token_hash(text)).is_some_and(|(token, _)| token.role == Role::Admin)
}

/// Replaces a file in one step; nobody but its owner can read it at any moment.
fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Temporary files are made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    writeln!(file, "{text}")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use wasmill_protocol::Timestamp;
    use wasmill_protocol::tenant::Tenant;
    use wasmill_record::event::{Event, EventBody};

    use super::*;

    fn directory(tokens: &[(&str, &str, Role)]) -> Directory {
        let directory = Directory::new();
        for (text, tenant, role) in tokens {
            let tenant: TenantName = tenant.parse().unwrap();
            let put = EventBody::TenantPut { tenant: Tenant { name: tenant.clone(), ..Tenant::default() } };
            let token = Token { tenant, role: *role, hash: token_hash(text), ..Token::default() };
            let bodies = [put, EventBody::TokenAdded { token }];
            directory.apply(&bodies.map(|body| Event { at: Timestamp(1), body }));
        }
        directory
    }

    fn asked(directory: &Directory, headers: &[(&'static str, &str)]) -> String {
        let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        match identify(&headers.collect(), directory) {
            Ok((tenant, role)) => format!("{tenant} {role:?}"),
            Err(fault) => fault.code().as_str().to_owned(),
        }
    }

    #[test]
    fn c01_every_wrong_token_is_refused_alike() {
        let directory = directory(&[("good", "acme", Role::Read)]);
        assert_eq!(asked(&directory, &[("authorization", "bearer good")]), "acme Read");
        let wrong = ["", "good", "Bearer", "Bearer ", "Bearer bad", "Basic good", "Bearer good x", "Bearer Good"];
        for value in wrong {
            assert_eq!(asked(&directory, &[("authorization", value)]), "unauthorized", "{value}");
        }
        assert_eq!(asked(&directory, &[]), "unauthorized");
        assert_eq!(
            asked(&directory, &[("authorization", "Bearer good"), ("authorization", "Bearer x")]),
            "unauthorized"
        );
    }

    #[test]
    fn only_admins_act_for_other_tenants() {
        let directory = directory(&[("a", "acme", Role::TenantAdmin), ("b", "other", Role::Admin)]);
        let act = |token: &str, tenant: &str| {
            asked(&directory, &[("authorization", &format!("Bearer {token}")), ("wasmill-tenant", tenant)])
        };
        assert_eq!(asked(&directory, &[("authorization", "Bearer b")]), "default Admin");
        assert_eq!(act("b", "acme"), "acme Admin");
        assert_eq!(act("b", "nobody"), "tenant_unknown");
        assert_eq!(act("a", "acme"), "acme TenantAdmin");
        assert_eq!(act("a", "other"), act("a", "nobody"));
    }

    #[test]
    fn tokens_have_the_documented_form() {
        let text = new_token_text().unwrap();
        assert_eq!(text.len(), 3 + 43);
        assert!(text.starts_with("wm_"));
        assert_ne!(text, new_token_text().unwrap());
    }

    #[test]
    fn secrets_are_replaced_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.token");
        fs::write(&path, "old").unwrap();
        write_secret(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
