//! A small Hugging Face hub client: list a repository, download files with resume and checksum.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use sherry::Progress;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// An unreachable hub must be noticed soon, since there can be another way to the model.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// Listings are small; more is a broken or hostile server.
const LISTING_LIMIT: u64 = 16 << 20;

/// Why the hub did not deliver.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No connection: no network, wrong endpoint, blocked.
    #[error("cannot reach the model hub at {endpoint}: {reason}")]
    Unreachable { endpoint: String, reason: String },
    /// The hub answered with an error status.
    #[error("{what}: the hub answered {status}{hint}")]
    Status { what: String, status: u16, hint: &'static str },
    /// The answer makes no sense.
    #[error("{what}: {problem}")]
    BadAnswer { what: String, problem: String },
    /// The file arrived, but it is not the one that was announced.
    #[error("{file}: {problem}; the partial download was removed, run the command again")]
    Corrupt { file: String, problem: String },
    /// Writing to disk failed.
    #[error("{}: cannot write: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
    /// Ctrl-C; the partial file stays for the next try.
    #[error("interrupted; run the command again to continue where it stopped")]
    Interrupted,
}

/// One file of a hub repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path inside the repository, without traversal.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Known for large files.
    pub sha256: Option<String>,
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
    fn name(&self) -> &str {
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
    fn files(&self) -> String {
        match self {
            Self::Model(name) => (*name).to_string(),
            Self::Dataset(name) => format!("datasets/{name}"),
        }
    }
}

/// A hub endpoint. `HF_ENDPOINT` and `HF_TOKEN` are honoured.
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    agent: ureq::Agent,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Hub {
    /// The endpoint named by the environment, or the public hub.
    pub fn from_env() -> Self {
        let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| DEFAULT_ENDPOINT.into());
        Self::new(&endpoint, std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()))
    }

    /// A hub at `endpoint`, for example a mirror.
    pub fn new(endpoint: &str, token: Option<String>) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .user_agent(concat!("sherry/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Self { endpoint: endpoint.trim_end_matches('/').to_string(), token, agent }
    }

    fn get(&self, url: &str, range_from: u64, what: &str) -> Result<ureq::http::Response<ureq::Body>, HubError> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if range_from > 0 {
            request = request.header("Range", format!("bytes={range_from}-"));
        }
        let response = request
            .call()
            .map_err(|e| HubError::Unreachable { endpoint: self.endpoint.clone(), reason: e.to_string() })?;
        match response.status().as_u16() {
            200 | 206 => Ok(response),
            416 if range_from > 0 => Ok(response),
            status => {
                let hint = match status {
                    401 | 403 => " (private or gated: accept its terms on the hub and set HF_TOKEN)",
                    404 => " (no such repository, revision or file)",
                    429 => " (too many requests: try again later)",
                    _ => "",
                };
                Err(HubError::Status { what: what.to_string(), status, hint })
            }
        }
    }

    /// The commit that `revision` of `repo` is now.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn commit(&self, repo: Repo<'_>, revision: &str) -> Result<String, HubError> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
        }
        let text = self.ask(repo, &format!("revision/{}", escaped(revision)))?;
        let commit = serde_json::from_str::<Info>(&text).map(|info| info.sha).unwrap_or_default();
        if commit.len() != 40 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let problem = format!("no commit is named for revision {revision}");
            return Err(HubError::BadAnswer { what: repo.name().to_string(), problem });
        }
        Ok(commit)
    }

    /// An answer of the hub about `repo`.
    fn ask(&self, repo: Repo<'_>, question: &str) -> Result<String, HubError> {
        let url = format!("{}/{}/{question}", self.endpoint, repo.api());
        let mut text = String::new();
        let body = self.get(&url, 0, repo.name())?.into_body();
        body.into_reader()
            .take(LISTING_LIMIT)
            .read_to_string(&mut text)
            .map_err(|error| HubError::BadAnswer { what: repo.name().to_string(), problem: error.to_string() })?;
        Ok(text)
    }

    /// The files of `repo` at `revision`.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn list(&self, repo: Repo<'_>, revision: &str) -> Result<Vec<RemoteFile>, HubError> {
        let bad = |problem: String| HubError::BadAnswer { what: repo.name().to_string(), problem };
        let text = self.ask(repo, &format!("tree/{}?recursive=true", escaped(revision)))?;
        let entries: Vec<Entry> = serde_json::from_str(&text).map_err(|e| bad(format!("not a file listing: {e}")))?;
        entries
            .into_iter()
            .filter(|entry| entry.kind == "file")
            .map(|entry| {
                if !is_plain_path(&entry.path) {
                    return Err(bad(format!("file name {:?} leaves the folder", entry.path)));
                }
                let size = entry.lfs.as_ref().map(|lfs| lfs.size).or(entry.size).unwrap_or(0);
                Ok(RemoteFile { path: entry.path, size, sha256: entry.lfs.map(|lfs| lfs.oid) })
            })
            .collect()
    }

    /// Downloads `file` into `folder`, continuing an earlier partial download, and checks size and checksum.
    ///
    /// # Errors
    /// [`HubError`]; the partial file stays unless it proved wrong.
    pub fn download(
        &self,
        repo: Repo<'_>,
        revision: &str,
        file: &RemoteFile,
        folder: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        let target = folder.join(&file.path);
        let disk = |path: &Path| {
            let path = path.to_path_buf();
            move |source| HubError::Disk { path, source }
        };
        if fs::metadata(&target).is_ok_and(|meta| meta.len() == file.size) && matches_checksum(&target, file) {
            return Ok(target);
        }
        let parent = target.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(disk(parent))?;
        let part = partial_name(&target);
        let mut have = fs::metadata(&part).map_or(0, |meta| meta.len());
        if have > file.size {
            have = 0;
        }
        if have < file.size || file.size == 0 {
            let url = format!("{}/{}/resolve/{}/{}", self.endpoint, repo.files(), escaped(revision), file.path);
            let response = self.get(&url, have, &file.path)?;
            let resumed = response.status().as_u16() == 206;
            if !resumed {
                have = 0;
            }
            let mut options = OpenOptions::new();
            let mut out = options.create(true).write(true).truncate(!resumed).append(resumed).open(&part);
            if !resumed && out.is_err() {
                out = File::create(&part);
            }
            let mut out = out.map_err(disk(&part))?;
            progress.start(&file.path, file.size);
            progress.advance(have);
            let copied = copy(response.into_body().into_reader(), &mut out, file.size - have, progress);
            progress.finish();
            match copied {
                Ok(()) => out.sync_all().map_err(disk(&part))?,
                Err(CopyError::Interrupted) => return Err(HubError::Interrupted),
                Err(CopyError::Write(source)) => return Err(HubError::Disk { path: part, source }),
                Err(CopyError::Read(reason)) => {
                    return Err(HubError::Unreachable {
                        endpoint: self.endpoint.clone(),
                        reason: format!("{} broke off ({reason}); run the command again to continue", file.path),
                    });
                }
            }
        }
        let size = fs::metadata(&part).map_err(disk(&part))?.len();
        let problem = if size != file.size {
            Some(format!("{size} bytes arrived, {} were announced", file.size))
        } else if !matches_checksum(&part, file) {
            Some("the SHA-256 checksum does not match".to_string())
        } else {
            None
        };
        if let Some(problem) = problem {
            let _ = fs::remove_file(&part);
            return Err(HubError::Corrupt { file: file.path.clone(), problem });
        }
        fs::rename(&part, &target).map_err(disk(&target))?;
        Ok(target)
    }
}

enum CopyError {
    Interrupted,
    Read(io::Error),
    Write(io::Error),
}

fn copy(mut from: impl Read, to: &mut File, limit: u64, progress: &dyn Progress) -> Result<(), CopyError> {
    let mut buffer = vec![0; 1 << 18];
    let mut left = limit;
    loop {
        if progress.is_cancelled() {
            return Err(CopyError::Interrupted);
        }
        let n = from.read(&mut buffer).map_err(CopyError::Read)?;
        if n == 0 || left == 0 {
            return Ok(());
        }
        // A server that sends more than announced must not fill the disk.
        let n = n.min(usize::try_from(left).unwrap_or(usize::MAX));
        to.write_all(&buffer[..n]).map_err(CopyError::Write)?;
        left -= n as u64;
        progress.advance(n as u64);
    }
}

/// A revision as one part of an address.
fn escaped(revision: &str) -> String {
    revision.replace('/', "%2F")
}

fn partial_name(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    target.with_file_name(name)
}

fn matches_checksum(path: &Path, file: &RemoteFile) -> bool {
    match &file.sha256 {
        Some(expected) => sha256_file(path).is_ok_and(|found| found.eq_ignore_ascii_case(expected)),
        None => true,
    }
}

/// The SHA-256 of a file as lower-case hex.
pub fn sha256_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..n]);
    }
}

/// Whether a remote name stays inside the target folder.
fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', ':', '\0'])
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::Arc;

    use sherry::NoProgress;

    use super::*;

    /// A hub with one repository, one file; understands Range. `cut` ends the first transfer early.
    fn serve(content: Arc<Vec<u8>>, sha: String, cut: usize, requests: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut first = true;
            for stream in listener.incoming().take(requests) {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let request = lines.next().unwrap().unwrap();
                let mut from = 0;
                for line in lines.by_ref() {
                    let line = line.unwrap().to_ascii_lowercase();
                    if let Some(range) = line.strip_prefix("range: bytes=") {
                        from = range.trim_end_matches('-').parse().unwrap();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                if request.contains("/api/models/") {
                    let json = format!(
                        r#"[{{"type":"directory","path":"d"}},{{"type":"file","path":"m.bin","size":9,"lfs":{{"oid":"{sha}","size":{}}}}}]"#,
                        content.len()
                    );
                    let head =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", json.len());
                    stream.write_all(head.as_bytes()).unwrap();
                    stream.write_all(json.as_bytes()).unwrap();
                    continue;
                }
                let body = &content[from..];
                let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).unwrap();
                let end = if first { cut.min(body.len()) } else { body.len() };
                first = false;
                let _ = stream.write_all(&body[..end]);
            }
        });
        endpoint
    }

    fn sha(content: &[u8]) -> String {
        Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn a_broken_download_resumes_and_verifies() {
        let content: Arc<Vec<u8>> = Arc::new((0..300_000u32).map(|i| ((i * 7) >> 3) as u8).collect());
        let endpoint = serve(Arc::clone(&content), sha(&content), 100_000, 3);
        let folder = tempfile::tempdir().unwrap();
        let hub = Hub::new(&endpoint, None);
        let files = hub.list(Repo::Model("o/n"), "main").unwrap();
        assert_eq!(files.len(), 1);
        let error = hub.download(Repo::Model("o/n"), "main", &files[0], folder.path(), &NoProgress).unwrap_err();
        assert!(error.to_string().contains("m.bin broke off"), "{error}");
        assert_eq!(fs::metadata(folder.path().join("m.bin.part")).unwrap().len(), 100_000);
        let path = hub.download(Repo::Model("o/n"), "main", &files[0], folder.path(), &NoProgress).unwrap();
        assert_eq!(fs::read(path).unwrap(), *content);
        assert!(!folder.path().join("m.bin.part").exists());
    }

    #[test]
    fn a_wrong_checksum_is_refused_and_removed() {
        let content = Arc::new(vec![1u8; 5000]);
        let endpoint = serve(Arc::clone(&content), sha(b"something else"), usize::MAX, 2);
        let folder = tempfile::tempdir().unwrap();
        let hub = Hub::new(&endpoint, None);
        let files = hub.list(Repo::Model("o/n"), "main").unwrap();
        let error = hub.download(Repo::Model("o/n"), "main", &files[0], folder.path(), &NoProgress).unwrap_err();
        assert!(error.to_string().contains("m.bin: the SHA-256 checksum does not match"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_unreachable_hub_is_told_apart() {
        let error = Hub::new("http://127.0.0.1:1", None).list(Repo::Model("o/n"), "main").unwrap_err();
        assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        for bad in ["../x", "/etc/passwd", "a/../../b", "a\\b", "c:x", ""] {
            assert!(!is_plain_path(bad), "{bad}");
        }
        assert!(is_plain_path("onnx/model.json"));
    }
}
