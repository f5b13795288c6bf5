//! Who may ask: API keys, the `Host` under which the server was called, the `Origin` of the page that calls.
//!
//! A server on loopback is reachable by every web page that its user visits. `Host` stops DNS rebinding (a page whose
//! own name is made to point here); `Origin` stops pages of other sites, also those that send "simple" requests, which
//! no preflight guards.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::App;
use crate::config::{Config, Listen};
use crate::error::ApiError;
use crate::keys::Keys;
use crate::page;

/// Who asks: the name of an API key, or the address of the other side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client(pub Arc<str>);

/// The address of the other side of a connection; put into requests by the accept loop.
#[derive(Clone, Debug)]
pub struct Peer(pub Arc<str>);

/// Paths that need no key: whether the server lives, and the page (which asks for the key itself).
fn is_public(path: &str) -> bool {
    page::paths().chain(["/health", "/v1/health", "/livez"]).any(|known| known == path)
}

/// Refuses requests that may not ask, and lets web pages of listed origins read the answers.
pub async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    if let Err(error) = check_host(&app.config, app.port, headers) {
        return error.into_response();
    }
    let origin = match check_origin(&app.config, headers) {
        Ok(origin) => origin,
        Err(error) => return error.into_response(),
    };
    let mut response = if request.method() == Method::OPTIONS && origin.is_some() {
        preflight()
    } else {
        match client(&app.config.keys, &request) {
            Ok(client) => {
                request.extensions_mut().insert(client);
                next.run(request).await
            }
            Err(error) => error.into_response(),
        }
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id, retry-after"));
    }
    response
}

fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, x-api-key"),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

fn client(keys: &Keys, request: &Request) -> Result<Client, ApiError> {
    let peer = request.extensions().get::<Peer>().map_or_else(|| Arc::from("unknown"), |peer| Arc::clone(&peer.0));
    if keys.is_empty() || is_public(request.uri().path()) {
        return Ok(Client(peer));
    }
    let headers = request.headers();
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let key = bearer.or_else(|| text(header::HeaderName::from_static("x-api-key")));
    let name = key.and_then(|key| keys.find(key)).ok_or_else(ApiError::unauthorized)?;
    Ok(Client(Arc::from(name)))
}

/// The name in a `Host` header without its port; `None` when it is none.
fn host_name(host: &str) -> Option<&str> {
    let name = match host.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) = rest.split_once(']')?;
            if !(after.is_empty() || after.starts_with(':')) {
                return None;
            }
            &host[..inside.len() + 2]
        }
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    (!name.is_empty()).then_some(name)
}

fn check_host(config: &Config, port: u16, headers: &HeaderMap) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).and_then(host_name);
    let (Some(host), None) = (host, hosts.next()) else {
        return Err(ApiError::invalid("", "a request needs one Host header"));
    };
    // Beyond this machine and with keys, the key decides.
    if !(config.listen.is_local() || config.keys.is_empty()) {
        return Ok(());
    }
    let bound = match &config.listen {
        Listen::Tcp(address) => Some(address.ip().to_string()),
        Listen::Unix(_) => None,
    };
    let host = host.to_ascii_lowercase();
    let known = ["localhost", "127.0.0.1", "[::1]"].contains(&host.as_str())
        || bound.is_some_and(|bound| host.trim_matches(['[', ']']) == bound)
        || config.allow_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(&host));
    if known {
        return Ok(());
    }
    let message = format!("the server was called as '{}' on port {port}; --allow-host permits a name", shown(&host));
    Err(ApiError::forbidden("host_not_allowed", message))
}

/// `Ok(None)`: no web page asks, or our own; `Ok(Some(origin))`: a page that may.
fn check_origin(config: &Config, headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(None) };
    let text = origin.to_str().unwrap_or_default();
    let own = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if own.is_some_and(|own| text.strip_prefix("http://").or(text.strip_prefix("https://")) == Some(own)) {
        return Ok(None);
    }
    if config.cors_origins.iter().any(|allowed| allowed == text) {
        return Ok(Some(origin.clone()));
    }
    let message = format!("pages of '{}' may not use this server; --cors-origin permits an origin", shown(text));
    Err(ApiError::forbidden("origin_not_allowed", message))
}

/// A name from a request as it can stand in a message.
fn shown(text: &str) -> String {
    text.chars().take(64).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_their_port_and_nothing_else() {
        for (host, name) in [
            ("localhost", Some("localhost")),
            ("localhost:8080", Some("localhost")),
            ("[::1]", Some("[::1]")),
            ("[::1]:80", Some("[::1]")),
            ("[::1]x", None),
            ("", None),
            (":80", None),
            ("[::1", None),
        ] {
            assert_eq!(host_name(host), name, "{host}");
        }
    }
}
