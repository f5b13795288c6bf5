//! A small Hugging Face hub client: which commit a revision is, which files it has.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{Response, Uri, header};

use super::address::{escaped, next_page, redirected, same_origin};
use super::{HubError, Settings};

/// An unreachable hub must be noticed soon, since there can be another way to the model.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// A server that says nothing for so long has forgotten us.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 10;
/// A page of a listing takes some hundred kilobytes; more is a broken or hostile server.
const MAX_ANSWER: u64 = 16 << 20;
/// Pages and files of a listing. The largest repositories have some 100,000 files.
const MAX_PAGES: usize = 2000;
const MAX_FILES: usize = 500_000;

/// How a file is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Of the contents, for files in large-file storage.
    Sha256(String),
    /// The name that git gives the contents, for all others.
    GitBlob(String),
    /// The hub did not say.
    None,
}

/// One file of a hub repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path inside the repository, as the hub says it: possibly no name to use here.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub checksum: Checksum,
}

/// A repository on the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repo<'a> {
    /// A model, "owner/name".
    Model(&'a str),
    /// A data set, "owner/name".
    Dataset(&'a str),
}

impl Repo<'_> {
    pub fn name(&self) -> &str {
        match self {
            Self::Model(name) | Self::Dataset(name) => name,
        }
    }

    /// Where the hub answers questions about it.
    fn api(&self) -> String {
        match self {
            Self::Model(name) => format!("api/models/{name}"),
            Self::Dataset(name) => format!("api/datasets/{name}"),
        }
    }

    /// Where its files are.
    pub fn files(&self) -> String {
        match self {
            Self::Model(name) => (*name).to_string(),
            Self::Dataset(name) => format!("datasets/{name}"),
        }
    }

    /// Its folder in the hub's cache.
    pub fn cache_name(&self) -> String {
        let kind = match self {
            Self::Model(_) => "models",
            Self::Dataset(_) => "datasets",
        };
        format!("{kind}--{}", self.name().replace('/', "--"))
    }
}

/// A hub.
pub struct Hub {
    settings: Settings,
    agent: ureq::Agent,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: Option<u64>,
    oid: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Hub {
    /// The hub of these settings.
    pub fn new(settings: Settings) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .timeout_recv_response(Some(READ_TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0) // followed here, for the sake of the token
            .user_agent(concat!("sherry/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Self { settings, agent }
    }

    /// What opens the gated or private repository that `url` is about: its terms, which a person accepts, and a token of
    /// that person. Asked by strangers, the hub says the same of repositories that do not exist.
    fn way_in(&self, url: &str) -> String {
        let endpoint = &self.settings.endpoint;
        let path = url.strip_prefix(endpoint).unwrap_or_default().trim_start_matches('/');
        let path = path.strip_prefix("api/").map_or(path, |path| path.strip_prefix("models/").unwrap_or(path));
        let parts = if path.starts_with("datasets/") { 3 } else { 2 };
        let page: Vec<&str> = path.split('/').take(parts).collect();
        let terms = format!("accept its terms at {endpoint}/{}", page.join("/"));
        match self.settings.token {
            Some(_) => format!(
                " (private or gated, and the token in HF_TOKEN or of `hf auth login` does not open it: {terms}, and let \
                 the token read gated repositories)"
            ),
            None => format!(
                " (private, gated, or not there, and no token was given: {terms}, make a token at \
                 {endpoint}/settings/tokens, and type: HF_TOKEN=hf_... sherry pull ...)"
            ),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is at `url`, from byte `from` on. `what` stands in errors.
    pub fn get(&self, url: &str, from: u64, what: &str) -> Result<Response<ureq::Body>, HubError> {
        if self.settings.offline {
            return Err(HubError::Offline { what: what.to_owned() });
        }
        let bad = |problem: String| HubError::BadAnswer { what: what.to_owned(), problem };
        let home: Uri = self.settings.endpoint.parse().map_err(|_| bad("HF_ENDPOINT is no address".to_owned()))?;
        let mut uri: Uri = url.parse().map_err(|_| bad(format!("'{url}' is no address")))?;
        for _ in 0..MAX_REDIRECTS {
            let mut request = self.agent.get(&uri);
            // Large files lie on other servers, which must not learn it.
            if let Some(token) = self.settings.token.as_ref().filter(|_| same_origin(&uri, &home)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| match error {
                ureq::Error::Http(_) | ureq::Error::BadUri(_) | ureq::Error::Protocol(_) => bad(error.to_string()),
                error => self.unreachable(error.to_string()),
            })?;
            match response.status().as_u16() {
                200 | 206 => return Ok(response),
                416 if from > 0 => return Ok(response),
                301 | 302 | 303 | 307 | 308 => {
                    let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
                    uri = redirected(&uri, to.unwrap_or_default()).map_err(bad)?;
                }
                status => {
                    let hint = match status {
                        401 | 403 => &self.way_in(url),
                        404 => " (no such repository, revision or file)",
                        429 => " (too many requests: try again later)",
                        500.. => " (the hub is in trouble: try again later)",
                        _ => "",
                    };
                    return Err(HubError::Status { what: what.to_owned(), status, hint: hint.to_owned() });
                }
            }
        }
        Err(bad(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// The hub did not answer, or broke off.
    pub fn unreachable(&self, reason: String) -> HubError {
        HubError::Unreachable { endpoint: self.settings.endpoint.clone(), reason }
    }

    /// The commit that `revision` of `repo` is now. What is asked by commit does not change while it is read.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn commit(&self, repo: Repo<'_>, revision: &str) -> Result<String, HubError> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
        }
        let url = format!("{}/{}/revision/{}", self.settings.endpoint, repo.api(), escaped(revision));
        let text = self.text(self.get(&url, 0, repo.name())?, repo)?;
        let commit = serde_json::from_str::<Info>(&text).map(|info| info.sha).unwrap_or_default();
        if !is_hex(&commit, 40) {
            let problem = format!("no commit is named for revision {revision}");
            return Err(HubError::BadAnswer { what: repo.name().to_owned(), problem });
        }
        Ok(commit)
    }

    fn text(&self, response: Response<ureq::Body>, repo: Repo<'_>) -> Result<String, HubError> {
        let bad = |problem: String| HubError::BadAnswer { what: repo.name().to_owned(), problem };
        let mut bytes = Vec::new();
        let body = response.into_body().into_reader();
        body.take(MAX_ANSWER + 1).read_to_end(&mut bytes).map_err(|error| self.unreachable(error.to_string()))?;
        if bytes.len() as u64 > MAX_ANSWER {
            return Err(bad(format!("an answer of more than {MAX_ANSWER} bytes")));
        }
        String::from_utf8(bytes).map_err(|_| bad("an answer that is not UTF-8".to_owned()))
    }

    /// All files of `repo` at `commit`.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn list(&self, repo: Repo<'_>, commit: &str) -> Result<Vec<RemoteFile>, HubError> {
        let bad = |problem: String| HubError::BadAnswer { what: repo.name().to_owned(), problem };
        let endpoint = &self.settings.endpoint;
        let mut url = format!("{endpoint}/{}/tree/{}?recursive=true", repo.api(), escaped(commit));
        let mut files = Vec::new();
        for _ in 0..MAX_PAGES {
            let response = self.get(&url, 0, repo.name())?;
            let next = response.headers().get(header::LINK).and_then(|link| next_page(link.to_str().ok()?));
            let next = next.map(|next| self.on_our_hub(next)).transpose().map_err(bad)?;
            let text = self.text(response, repo)?;
            let entries: Vec<Entry> =
                serde_json::from_str(&text).map_err(|e| bad(format!("not a file listing: {e}")))?;
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                files.push(entry.into_file().map_err(bad)?);
            }
            if files.len() > MAX_FILES {
                return Err(bad(format!("more than {MAX_FILES} files")));
            }
            match next {
                Some(next) => url = next,
                None => return Ok(files),
            }
        }
        Err(bad(format!("a listing of more than {MAX_PAGES} pages")))
    }

    /// `link` on the hub we ask. A mirror may give the addresses of the original.
    fn on_our_hub(&self, link: &str) -> Result<String, String> {
        let problem = || format!("the next page of the listing is at '{link}', which is no address");
        let uri: Uri = link.parse().map_err(|_| problem())?;
        let home: Uri = self.settings.endpoint.parse().map_err(|_| problem())?;
        if same_origin(&uri, &home) {
            return Ok(link.to_owned());
        }
        let place = uri.path_and_query().ok_or_else(problem)?;
        Ok(format!("{}{place}", self.settings.endpoint))
    }
}

impl Entry {
    fn into_file(self) -> Result<RemoteFile, String> {
        let Self { path, size, oid, lfs, .. } = self;
        let strange = |kind: &str| format!("file {path:?}: {kind} that is none");
        let (size, checksum) = match (lfs, oid) {
            (Some(lfs), _) if is_hex(&lfs.oid, 64) => (Some(lfs.size), Checksum::Sha256(lfs.oid)),
            (Some(_), _) => return Err(strange("a SHA-256")),
            (None, Some(oid)) if is_hex(&oid, 40) => (size, Checksum::GitBlob(oid)),
            (None, Some(_)) => return Err(strange("an object id")),
            (None, None) => (size, Checksum::None),
        };
        let size = size.ok_or_else(|| strange("a size"))?;
        Ok(RemoteFile { path, size, checksum })
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
