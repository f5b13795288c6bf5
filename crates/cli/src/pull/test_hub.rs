//! A hub on this machine, for tests.

#![allow(dead_code)] // unit tests and tests of the command each use a part

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;

/// The commit that every revision is.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// Path and query, as sent.
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
}

impl Request {
    /// First byte wanted.
    pub fn from(&self) -> usize {
        let range = self.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        range.map_or(0, |from| from.parse().expect("a number"))
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body that are sent before the connection breaks.
    pub sent: usize,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), sent: usize::MAX }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// The server; it runs until the process ends.
pub struct TestHub {
    pub endpoint: String,
    pub asked: Arc<Mutex<Vec<Request>>>,
}

impl TestHub {
    /// Answers every request by `answer`; `None` hangs up.
    pub fn start(mut answer: impl FnMut(&Request) -> Option<Answer> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read(&stream) else { continue };
                let answer = answer(&request);
                log.lock().unwrap().push(request);
                if let Some(answer) = answer {
                    send(&mut stream, &answer);
                }
            }
        });
        Self { endpoint, asked }
    }

    /// The paths asked for so far.
    pub fn paths(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|request| request.path.clone()).collect()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Request { path, headers })
}

fn send(stream: &mut TcpStream, answer: &Answer) {
    let mut head = format!("HTTP/1.1 {} x\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "Connection: close\r\n\r\n";
    // The client may have heard enough.
    let body = &answer.body[..answer.sent.min(answer.body.len())];
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// A file of a repository.
#[derive(Clone, Debug)]
pub struct TestFile {
    pub path: String,
    pub contents: Vec<u8>,
    /// Whether it lies in large-file storage.
    pub large: bool,
}

pub fn file(path: &str, contents: impl Into<Vec<u8>>) -> TestFile {
    TestFile { path: path.to_owned(), contents: contents.into(), large: false }
}

pub fn large(path: &str, contents: impl Into<Vec<u8>>) -> TestFile {
    TestFile { large: true, ..file(path, contents) }
}

impl TestFile {
    /// The name git gives its contents.
    pub fn blob(&self) -> String {
        use sha1::{Digest as _, Sha1};
        let hash = Sha1::new_with_prefix(format!("blob {}\0", self.contents.len())).chain_update(&self.contents);
        sherry::io::hex(&hash.finalize())
    }

    pub fn sha256(&self) -> String {
        use sha2::{Digest as _, Sha256};
        sherry::io::hex(&Sha256::digest(&self.contents))
    }

    fn entry(&self) -> serde_json::Value {
        let mut entry = json!({ "type": "file", "path": self.path, "size": self.contents.len(), "oid": self.blob() });
        if self.large {
            // The size and the name of the pointer file, as the hub says them.
            entry["size"] = json!(135);
            entry["lfs"] = json!({ "oid": self.sha256(), "size": self.contents.len(), "pointerSize": 135 });
        }
        entry
    }
}

/// Answers for one repository, "o/n", with `page` files per page of its listing. `kind` is "models" or "datasets".
pub fn repository(
    kind: &str,
    files: Vec<TestFile>,
    page: usize,
) -> impl FnMut(&Request) -> Option<Answer> + Send + use<> {
    let api = format!("/api/{kind}/o/n");
    let resolve = format!("{}/o/n/resolve/{COMMIT}/", if kind == "datasets" { "/datasets" } else { "" });
    move |request| {
        let path = request.path.as_str();
        if path.starts_with(&format!("{api}/revision/")) {
            return Some(Answer::new(200, json!({ "sha": COMMIT }).to_string()));
        }
        if let Some(query) = path.strip_prefix(&format!("{api}/tree/{COMMIT}?recursive=true")) {
            let from: usize = query.strip_prefix("&cursor=").map_or(0, |cursor| cursor.parse().unwrap());
            let to = files.len().min(from + page);
            let mut entries: Vec<_> = files[from..to].iter().map(TestFile::entry).collect();
            entries.push(json!({ "type": "directory", "path": "d", "oid": COMMIT, "size": 0 }));
            let answer = Answer::new(200, json!(entries).to_string());
            let next = format!("<http://elsewhere{api}/tree/{COMMIT}?recursive=true&cursor={to}>; rel=\"next\"");
            return Some(if to < files.len() { answer.with("Link", next) } else { answer });
        }
        let name = path.strip_prefix(&resolve).map(unescaped);
        let found = name.and_then(|name| files.iter().find(|file| file.path == name));
        let Some(found) = found else { return Some(Answer::new(404, "")) };
        let (from, size) = (request.from(), found.contents.len());
        Some(match found.contents.get(from..) {
            Some(_) if from == 0 => Answer::new(200, found.contents.clone()),
            Some(rest) if !rest.is_empty() => {
                Answer::new(206, rest).with("Content-Range", format!("bytes {from}-{}/{size}", size - 1))
            }
            _ => Answer::new(416, "no such range"),
        })
    }
}

/// A path as it was before it was escaped.
fn unescaped(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let code = if byte == b'%' { [rest.next(), rest.next()] } else { [None; 2] };
        bytes.push(match code {
            [Some(high), Some(low)] => {
                u8::from_str_radix(&format!("{}{}", char::from(high), char::from(low)), 16).unwrap()
            }
            _ => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}
