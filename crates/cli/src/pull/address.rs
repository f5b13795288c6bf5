//! Addresses and names: what may be asked of whom, and what a remote name may be called here.

use std::fmt::Write as _;

use ureq::http::Uri;

/// `text` as one part of an address: everything but letters, digits and `-._~` is escaped.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // writing to a string cannot fail
        }
    }
    out
}

/// A path of several parts.
pub fn escaped_path(path: &str) -> String {
    path.split('/').map(escaped).collect::<Vec<_>>().join("/")
}

/// Scheme, host and port.
type Origin = (String, String, u16);

fn origin(uri: &Uri) -> Option<Origin> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// Whether both are the same server: only then may one learn what is meant for the other.
pub fn same_origin(a: &Uri, b: &Uri) -> bool {
    origin(a).is_some() && origin(a) == origin(b)
}

/// Where the answer of `from` with the header `Location: to` leads.
///
/// # Errors
/// It is no address, or one where what was encrypted would no longer be.
pub fn redirected(from: &Uri, to: &str) -> Result<Uri, String> {
    let problem = || format!("leads to '{to}', which is no address");
    let (scheme, authority) = (from.scheme_str().unwrap_or("https"), from.authority().map_or("", |a| a.as_str()));
    let target = if to.contains("://") {
        to.to_owned()
    } else if to.starts_with("//") {
        format!("{scheme}:{to}")
    } else if to.starts_with('/') {
        format!("{scheme}://{authority}{to}")
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{to}")
    };
    // What follows '#' is for browsers.
    let uri: Uri = target.split('#').next().unwrap_or_default().parse().map_err(|_| problem())?;
    match origin(&uri) {
        Some((new, ..)) if new == "https" || new == "http" && scheme == "http" => Ok(uri),
        Some((new, ..)) if new == "http" => Err(format!("leads to '{to}', from https to http")),
        _ => Err(problem()),
    }
}

/// The address of the next page in a `Link` header: `<https://...>; rel="next"`.
pub fn next_page(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        });
        is_next.then_some(address)
    })
}

/// Names that Windows keeps for devices, with any ending.
const DEVICES: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9", "lpt1", "lpt2",
    "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

/// Whether a remote name can be a file below a folder of ours, on every system.
pub fn is_plain_path(path: &str) -> bool {
    let plain = |part: &str| {
        let stem = part.split('.').next().unwrap_or_default().trim_end().to_ascii_lowercase();
        // Windows drops points and blanks at the end: such a name is another one there. This includes "." and "..".
        !part.is_empty() && !part.ends_with(['.', ' ']) && !DEVICES.contains(&stem.as_str())
    };
    path.len() <= 1024
        && !path.contains(['\\', ':', '*', '?', '"', '<', '>', '|'])
        && !path.chars().any(char::is_control)
        && path.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_addresses_are_escaped() {
        assert_eq!(escaped("refs/convert/parquet"), "refs%2Fconvert%2Fparquet");
        assert_eq!(escaped("a b%#?&+é~-._"), "a%20b%25%23%3F%26%2B%C3%A9~-._");
        assert_eq!(escaped_path("sub dir/100%#1.bin"), "sub%20dir/100%25%231.bin");
    }

    #[test]
    fn redirects_are_followed_where_they_lead() {
        let from: Uri = "https://hub.example/a/b?c=d".parse().unwrap();
        let to = |to: &str| redirected(&from, to).map(|uri| uri.to_string());
        assert_eq!(to("/x?y").unwrap(), "https://hub.example/x?y");
        assert_eq!(to("x").unwrap(), "https://hub.example/a/x");
        assert_eq!(to("//other/x").unwrap(), "https://other/x");
        assert_eq!(to("https://other:8443/x#part").unwrap(), "https://other:8443/x");
        assert!(to("http://hub.example/x").unwrap_err().contains("from https to http"));
        for bad in ["file:///etc/passwd", "https://", "ftp://x/y", "\u{7}"] {
            assert!(to(bad).is_err(), "{bad}");
        }
        let plain: Uri = "http://hub.example/".parse().unwrap();
        assert!(redirected(&plain, "http://other/").is_ok() && redirected(&plain, "https://other/").is_ok());
    }

    #[test]
    fn servers_are_told_apart() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://hub.example/a", "https://HUB.example:443/b"));
        for other in ["https://hub.example.evil/", "https://hub.example:444/", "http://hub.example/", "https://hub/"] {
            assert!(!same("https://hub.example/", other), "{other}");
        }
        assert!(!same("/a", "/b"));
    }

    #[test]
    fn the_next_page_is_found() {
        assert_eq!(next_page(r#"<https://x/y?cursor=1>; rel="next""#), Some("https://x/y?cursor=1"));
        assert_eq!(next_page(r#"<https://x/a>; rel="prev", <https://x/b>; title=t; rel=next"#), Some("https://x/b"));
        for none in ["", "<https://x>", r#"<https://x>; rel="last""#, "rel=next", "<; rel=next"] {
            assert_eq!(next_page(none), None, "{none}");
        }
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let long = "x".repeat(1025);
        for bad in [
            "../x",
            "/etc/passwd",
            "a/../../b",
            "a\\b",
            "c:x",
            "",
            "a//b",
            "./a",
            "a/",
            "..",
            "a/..",
            "nul",
            "AUX.json",
            "x/com1.bin",
            "lpt9 .txt",
            "a.",
            "a ",
            "a\0b",
            "a\nb",
            "\\\\server\\share",
            "a*",
            "a?",
            "<a",
            &long,
        ] {
            assert!(!is_plain_path(bad), "{bad:?}");
        }
        for good in ["onnx/model.json", "a..b", ".gitattributes", "con-x", "console.txt", "é/漢.bin", "a b"] {
            assert!(is_plain_path(good), "{good}");
        }
    }
}
