//! The chat page: files inside the program. `app.js` is what a person can do; it draws with `view.js`, keeps conversations with
//! `talks.js` and asks through `server.js`.

use axum::http::{HeaderName, header};
use axum::response::IntoResponse;

/// Nothing but our own origin; no script, style or element from anywhere else, nor from text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// Paths with what is there.
const FILES: [(&str, &str, &str); 9] = [
    ("/", "text/html; charset=utf-8", include_str!("index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("app.js")),
    ("/server.js", "text/javascript; charset=utf-8", include_str!("server.js")),
    ("/talks.js", "text/javascript; charset=utf-8", include_str!("talks.js")),
    ("/view.js", "text/javascript; charset=utf-8", include_str!("view.js")),
    ("/markdown.js", "text/javascript; charset=utf-8", include_str!("markdown.js")),
    ("/highlight.js", "text/javascript; charset=utf-8", include_str!("highlight.js")),
    ("/favicon.svg", "image/svg+xml", include_str!("favicon.svg")),
];

/// The paths of the page.
pub fn paths() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(path, ..)| *path)
}

/// The file at `path`.
pub fn file(path: &str) -> Option<impl IntoResponse + use<>> {
    let (_, ty, text) = FILES.iter().find(|(known, ..)| *known == path)?;
    let headers = [
        (header::CONTENT_TYPE, *ty),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    Some((headers, *text))
}
