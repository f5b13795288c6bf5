//! What the environment says about the hub, as Python's `huggingface_hub` reads it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where the hub is, who we are to it, and where its files are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `HF_ENDPOINT`, for example a mirror, without a slash at its end.
    pub endpoint: String,
    /// `HF_TOKEN`, else what is in the file `HF_TOKEN_PATH` or `token` in `HF_HOME`; none with
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN`.
    pub token: Option<String>,
    /// `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or in `~/.cache/huggingface`; none when no home folder is named.
    pub cache: Option<PathBuf>,
    /// `HF_HUB_OFFLINE`: nothing is asked of the hub.
    pub offline: bool,
}

impl Settings {
    /// Those of this process.
    ///
    /// # Errors
    /// A variable holds what cannot be used.
    pub fn from_env() -> Result<Self> {
        Self::new(&|name| std::env::var_os(name))
    }

    fn new(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |names: &[&str]| names.iter().find_map(|name| given(name)?.into_string().ok());
        let home = given("HOME").or_else(|| given("USERPROFILE")).map(PathBuf::from);
        let folder = |name: &str| given(name).map(|value| expanded(PathBuf::from(value), home.as_deref()));
        let hub_home = folder("HF_HOME").or_else(|| {
            let cache = folder("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
            cache.map(|cache| cache.join("huggingface"))
        });
        let cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        let is_set = |name: &str| {
            text(&[name]).is_some_and(|value| matches!(&value.to_ascii_uppercase()[..], "1" | "ON" | "YES" | "TRUE"))
        };

        let endpoint = text(&["HF_ENDPOINT"]).unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        if !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            bail!("HF_ENDPOINT is '{endpoint}': expected an address that begins with https:// or http://");
        }
        let file = || folder("HF_TOKEN_PATH").or_else(|| Some(hub_home.as_ref()?.join("token")));
        let token = match text(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
            _ if is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") => None,
            Some(token) => Some(token),
            None => file().and_then(|path| fs::read_to_string(path).ok()),
        };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            bail!("the token for the hub (HF_TOKEN) holds characters that no token has");
        }
        Ok(Self {
            endpoint,
            token,
            cache: cache.or_else(|| hub_home.map(|home| home.join("hub"))),
            offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
        })
    }
}

/// `~` at the beginning is the home folder.
fn expanded(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::new(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_environment_is_read_as_by_other_tools() {
        let of = |variables: &[(&str, &str)]| settings(variables).unwrap();
        let nothing = of(&[]);
        assert_eq!((nothing.endpoint.as_str(), nothing.token, nothing.cache), (DEFAULT_ENDPOINT, None, None));
        assert!(!nothing.offline);
        let cache = |variables: &[(&str, &str)]| of(variables).cache.unwrap();
        assert_eq!(cache(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "~/hf")]), Path::new("/h/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")]), Path::new("/old"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/hf")]), Path::new("/c"));
        for (value, offline) in [("1", true), ("true", true), ("Yes", true), ("on", true), ("0", false), ("off", false)]
        {
            assert_eq!(of(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
            assert_eq!(of(&[("TRANSFORMERS_OFFLINE", value)]).offline, offline, "{value}");
        }
        assert_eq!(of(&[("HF_ENDPOINT", "http://mirror:8080/hub/ ")]).endpoint, "http://mirror:8080/hub");
        for bad in ["mirror", "ftp://mirror", "//mirror"] {
            assert!(settings(&[("HF_ENDPOINT", bad)]).unwrap_err().to_string().contains("HF_ENDPOINT"), "{bad}");
        }
    }

    #[test]
    fn the_token_comes_from_the_environment_or_a_file() {
        let place = tempfile::tempdir().unwrap();
        let home = place.path().to_str().unwrap();
        let other = format!("{home}/other");
        fs::write(place.path().join("token"), "hf_file\n").unwrap();
        fs::write(&other, "hf_other").unwrap();
        let token = |variables: &[(&str, &str)]| settings(variables).unwrap().token;
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN_PATH", &other)]).as_deref(), Some("hf_other"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " hf_env\n")]).as_deref(), Some("hf_env"));
        assert_eq!(token(&[("HUGGING_FACE_HUB_TOKEN", "hf_old")]).as_deref(), Some("hf_old"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        let error = settings(&[("HF_TOKEN", "a\r\nHost: evil")]).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("evil"), "{error}");
    }
}
