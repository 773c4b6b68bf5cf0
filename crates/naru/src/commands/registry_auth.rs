//! Credentials for registries: `login`, `logout`, and where pulls and pushes find what was stored.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use naru_api::models::AuthConfig;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::config;

/// The key under which Docker Hub's credentials are kept.
const HUB: &str = "https://index.docker.io/v1/";

/// The `X-Registry-Auth` of credentials.
pub fn encode(auth: &AuthConfig) -> String {
    URL_SAFE.encode(serde_json::to_vec(auth).expect("strings always serialise"))
}

/// The header for a registry's host; empty when nothing is known. A helper that fails is nobody.
pub fn header_for(cx: Cx, domain: &str) -> String {
    let key = if matches!(domain, "docker.io" | "index.docker.io") { HUB } else { domain };
    match find(cx, key) {
        Some(auth) => encode(&auth),
        None => String::new(),
    }
}

/// The credentials for a registry, for questions that the client asks itself.
pub fn credentials_for(cx: Cx, domain: &str) -> naru_registry::Credentials {
    let key = if domain == "docker.io" { HUB } else { domain };
    let auth = find(cx, key).unwrap_or_default();
    naru_registry::Credentials {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identitytoken,
        registry_token: auth.registrytoken,
    }
}

/// All credentials that are known, by registry, as `X-Registry-Config` carries them.
pub fn all(cx: Cx) -> String {
    let config = cx.config();
    let keys = config.auths.keys().chain(config.cred_helpers.keys());
    let known: BTreeMap<&String, AuthConfig> = keys.filter_map(|key| Some((key, find(cx, key)?))).collect();
    URL_SAFE.encode(serde_json::to_vec(&known).expect("strings always serialise"))
}

fn find(cx: Cx, key: &str) -> Option<AuthConfig> {
    let config = cx.config();
    // What the environment says counts more than what is stored.
    if let Some(auth) = from_environment().and_then(|auths| decoded(auths.get(key)?)) {
        return Some(AuthConfig { serveraddress: key.to_owned(), ..auth });
    }
    if let Some(helper) = helper(cx, key) {
        return helper_get(&helper, key);
    }
    let bare =
        |text: &str| text.trim_start_matches("https://").trim_start_matches("http://").split('/').next().unwrap_or_default().to_owned();
    let (name, stored) = config.auths.get_key_value(key).or_else(|| config.auths.iter().find(|(stored, _)| bare(stored) == bare(key)))?;
    decoded(stored).map(|auth| AuthConfig { serveraddress: name.clone(), ..auth })
}

/// Credentials with the name and password of their `auth`.
fn decoded(stored: &AuthConfig) -> Option<AuthConfig> {
    let mut auth = stored.clone();
    if !auth.auth.is_empty() {
        let text = String::from_utf8(STANDARD.decode(auth.auth.trim_end_matches('\0')).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        (auth.username, auth.password) = (user.to_owned(), password.trim_end_matches('\0').to_owned());
        auth.auth = String::new();
    }
    Some(auth)
}

/// `DOCKER_AUTH_CONFIG`: the `auths` of a configuration, for programs that run without one.
fn from_environment() -> Option<BTreeMap<String, AuthConfig>> {
    #[derive(serde::Deserialize)]
    struct Given {
        #[serde(default)]
        auths: BTreeMap<String, AuthConfig>,
    }
    let text = std::env::var("DOCKER_AUTH_CONFIG").ok().filter(|text| !text.is_empty())?;
    match serde_json::from_str::<Given>(&text) {
        Ok(given) => Some(given.auths),
        Err(error) => {
            crate::output::error_line(&format!("WARNING: DOCKER_AUTH_CONFIG is not used, it does not parse: {error}"));
            None
        }
    }
}

fn helper(cx: Cx, key: &str) -> Option<String> {
    let config = cx.config();
    let name = config.cred_helpers.get(key).cloned().or_else(|| Some(config.creds_store.clone()))?;
    (!name.is_empty()).then(|| format!("docker-credential-{name}"))
}

/// Runs a credential helper; when it fails, what it says on its standard output is the reason.
fn call_helper(program: &str, verb: &str, input: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{program}: {error}");
    let mut child =
        Command::new(program).arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(failed)?;
    // One that ends without reading says why by its status.
    child.stdin.take().expect("it was asked for").write_all(input).ok();
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("{program}: {}, it says: {}", output.status, String::from_utf8_lossy(&output.stdout).trim()))
}

fn helper_get(program: &str, key: &str) -> Option<AuthConfig> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Stored {
        username: String,
        secret: String,
    }
    let stored: Stored = serde_json::from_slice(&call_helper(program, "get", key.as_bytes()).ok()?).ok()?;
    let mut auth = AuthConfig { serveraddress: key.to_owned(), ..AuthConfig::default() };
    if stored.username == "<token>" {
        auth.identitytoken = stored.secret;
    } else {
        (auth.username, auth.password) = (stored.username, stored.secret);
    }
    Some(auth)
}

#[derive(Debug, clap::Args)]
pub struct LoginOptions {
    /// Password or personal access token
    #[arg(short = 'p', long, value_name = "string")]
    password: Option<String>,
    /// Read the password from STDIN
    #[arg(long)]
    password_stdin: bool,
    /// User name
    #[arg(short = 'u', long, value_name = "string")]
    username: Option<String>,
    args: Vec<String>,
}

pub const LOGIN: Verb = verb!(
    LoginOptions,
    login,
    ["login"],
    "[OPTIONS] [SERVER]",
    "Authenticate to a registry",
    Arguments::AtMost(1),
    "{} login -u me --password-stdin registry.example < token"
);

async fn login(cx: Cx, options: LoginOptions) -> Result<i32> {
    let server = options.args.first().map(|server| server.trim_start_matches("https://").trim_end_matches('/').to_owned());
    let key = match server.as_deref() {
        None | Some("docker.io" | "index.docker.io" | "index.docker.io/v1") => HUB.to_owned(),
        Some(server) => server.to_owned(),
    };
    if options.password_stdin && options.password.is_some() {
        return Err(Failure::message("conflicting options: cannot specify both --password and --password-stdin"));
    }
    if options.password_stdin && options.username.as_deref().unwrap_or_default().is_empty() {
        return Err(Failure::message("the --password-stdin option requires --username to be set"));
    }
    if options.password.is_some() {
        crate::output::error_line("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    let (username, password) = credentials(cx, &options, &key)?;
    let auth = AuthConfig { username, password, serveraddress: key.clone(), ..AuthConfig::default() };
    let answer = cx.client()?.login(&auth).await?;
    let mut stored = auth;
    if !answer.identity_token.is_empty() {
        stored.password = String::new();
        stored.identitytoken = answer.identity_token;
    }
    store(cx, &key, &stored)?;
    if !answer.status.is_empty() {
        crate::output::line(&answer.status)?;
    }
    Ok(0)
}

fn credentials(cx: Cx, options: &LoginOptions, key: &str) -> Result<(String, String)> {
    if options.password_stdin {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::stdin(), &mut text)?;
        return Ok((options.username.clone().unwrap_or_default(), text.trim_end_matches(['\r', '\n']).to_owned()));
    }
    if options.username.is_none()
        && options.password.is_none()
        && let Some(known) = find(cx, key).filter(|known| !known.password.is_empty())
    {
        crate::output::error_line(&format!("Authenticating with existing credentials... [Username: {}]", known.username));
        return Ok((known.username, known.password));
    }
    if (options.username.is_none() || options.password.is_none()) && !crate::stream::terminal::stdin_is_terminal() {
        return Err(Failure::message("Error: Cannot perform an interactive login from a non TTY device"));
    }
    let username = match &options.username {
        Some(username) => username.clone(),
        None => ask("Username: ", true)?,
    };
    if username.is_empty() {
        return Err(Failure::message("username is required"));
    }
    let password = match &options.password {
        Some(password) => password.clone(),
        None => ask("Password: ", false)?,
    };
    if password.is_empty() {
        return Err(Failure::message("password is required"));
    }
    Ok((username, password))
}

/// Asks on the terminal; without echo for secrets.
fn ask(question: &str, echo: bool) -> Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    crate::output::write(question.as_bytes())?;
    let saved = if echo { None } else { tcgetattr(std::io::stdin()).ok() };
    if let Some(saved) = &saved {
        let mut silent = saved.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Now, &silent).map_err(std::io::Error::from)?;
    }
    let mut answer = String::new();
    let outcome = std::io::stdin().read_line(&mut answer);
    if let Some(saved) = saved {
        tcsetattr(std::io::stdin(), OptionalActions::Now, &saved).map_err(std::io::Error::from)?;
        crate::output::line("")?;
    }
    outcome?;
    Ok(answer.trim().to_owned())
}

fn store(cx: Cx, key: &str, auth: &AuthConfig) -> Result<()> {
    if let Some(program) = helper(cx, key) {
        let (user, secret) =
            if auth.identitytoken.is_empty() { (auth.username.as_str(), &auth.password) } else { ("<token>", &auth.identitytoken) };
        let input = serde_json::json!({ "ServerURL": key, "Username": user, "Secret": secret }).to_string();
        call_helper(&program, "store", input.as_bytes())
            .map_err(|reason| Failure::message(format!("error saving credentials: error storing credentials: {reason}")))?;
        // The helper has the secret; that there is one is known without asking it.
        return set_auth(cx, key, serde_json::Map::new());
    }
    // What is there already is neither written nor warned of again.
    let same = |known: &AuthConfig| {
        (&known.username, &known.password, &known.identitytoken) == (&auth.username, &auth.password, &auth.identitytoken)
    };
    if cx.config().auths.contains_key(key) && find(cx, key).as_ref().is_some_and(same) {
        return Ok(());
    }
    let path = cx.config_directory().join("config.json");
    crate::output::error_line(&format!(
        "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning.\n",
        path.display()
    ));
    let mut entry = serde_json::Map::new();
    entry.insert("auth".to_owned(), STANDARD.encode(format!("{}:{}", auth.username, auth.password)).into());
    if !auth.identitytoken.is_empty() {
        entry.insert("identitytoken".to_owned(), auth.identitytoken.clone().into());
    }
    set_auth(cx, key, entry)
}

fn set_auth(cx: Cx, key: &str, entry: serde_json::Map<String, serde_json::Value>) -> Result<()> {
    config::edit(cx.config_directory(), |document| {
        let auths = document.entry("auths").or_insert_with(|| serde_json::Map::new().into());
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(key.to_owned(), entry.into());
        }
    })
}

#[derive(Debug, clap::Args)]
pub struct LogoutOptions {
    args: Vec<String>,
}

pub const LOGOUT: Verb =
    verb!(LogoutOptions, logout, ["logout"], "[SERVER]", "Log out from a registry", Arguments::AtMost(1), "{} logout registry.example");

async fn logout(cx: Cx, options: LogoutOptions) -> Result<i32> {
    let key = match options.args.first().map(String::as_str) {
        None | Some("docker.io" | "index.docker.io") => HUB.to_owned(),
        Some(server) => server.trim_start_matches("https://").trim_end_matches('/').to_owned(),
    };
    let helper = helper(cx, &key);
    crate::output::line(&format!("Removing login credentials for {key}"))?;
    if let Some(program) = helper
        && let Err(reason) = call_helper(&program, "erase", key.as_bytes())
    {
        crate::output::error_line(&format!("WARNING: could not erase credentials: {reason}"));
    }
    config::edit(cx.config_directory(), |document| {
        if let Some(auths) = document.get_mut("auths").and_then(serde_json::Value::as_object_mut) {
            auths.remove(&key);
        }
    })?;
    Ok(0)
}
