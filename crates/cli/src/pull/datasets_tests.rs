use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use sherry::NoProgress;

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one data set, answering `requests` requests; gives its address and what it was asked for.
fn serve(files: &'static [(&'static str, &'static str)], requests: usize) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().take(requests) {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            lines.by_ref().find(|line| line.as_ref().is_ok_and(String::is_empty));
            let path = request.split(' ').nth(1).unwrap().to_string();
            let body = if path == "/api/datasets/o/n/revision/refs%2Fconvert%2Fparquet" {
                Some(format!(r#"{{"sha": "{COMMIT}"}}"#))
            } else if path == format!("/api/datasets/o/n/tree/{COMMIT}?recursive=true") {
                let entries: Vec<String> = files
                    .iter()
                    .map(|(name, text)| format!(r#"{{"type":"file","path":"{name}","size":{}}}"#, text.len()))
                    .collect();
                Some(format!("[{}]", entries.join(",")))
            } else {
                let name = path.strip_prefix(&format!("/datasets/o/n/resolve/{COMMIT}/"));
                name.and_then(|name| files.iter().find(|(file, _)| *file == name)).map(|(_, text)| (*text).to_string())
            };
            log.lock().unwrap().push(path);
            let (status, body) = body.map_or(("404 Not Found", String::new()), |body| ("200 OK", body));
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        }
    });
    (endpoint, asked)
}

const FILES: &[(&str, &str)] = &[
    ("README.md", "text"),
    ("a/test/0000.parquet", "a-test"),
    ("a/train/0000.parquet", "a-train-0"),
    ("a/train/0001.parquet", "a-train-1"),
    ("b/test/0000.parquet", "b-test"),
];

#[test]
fn splits_are_fetched_once_and_found_again() {
    let place = tempfile::tempdir().unwrap();
    let cache = DataCache { root: place.path().join("hub") };
    assert_eq!(cache.snapshot("o/n"), None);
    let (endpoint, asked) = serve(FILES, 7);
    let hub = Hub::new(&endpoint, None);
    let folder = cache.fetch(&hub, "o/n", Some("a"), Some(&["test"]), &NoProgress).unwrap();
    assert_eq!(cache.snapshot("o/n"), Some(folder.clone()));
    assert_eq!(fs::read_to_string(folder.join("a/test/0000.parquet")).unwrap(), "a-test");
    assert!(!folder.join("a/train").exists() && !folder.join("b").exists());
    // The training split comes later; what is there is not fetched again.
    assert_eq!(cache.fetch(&hub, "o/n", Some("a"), None, &NoProgress).unwrap(), folder);
    assert_eq!(fs::read_to_string(folder.join("a/train/0001.parquet")).unwrap(), "a-train-1");
    assert_eq!(asked.lock().unwrap().iter().filter(|path| path.contains("test/0000")).count(), 1);
    assert!(!folder.with_file_name(format!("{COMMIT}.part")).exists());
}

#[test]
fn an_unfinished_split_is_not_there() {
    let place = tempfile::tempdir().unwrap();
    let cache = DataCache { root: place.path().to_path_buf() };
    // Commit, listing and the first of two files; then the hub is gone.
    let (endpoint, _) = serve(FILES, 3);
    let hub = Hub::new(&endpoint, None);
    let error = cache.fetch(&hub, "o/n", Some("a"), Some(&["train"]), &NoProgress).unwrap_err();
    assert!(format!("{error:#}").contains("data set o/n: "), "{error:#}");
    assert_eq!(cache.snapshot("o/n"), None);
    let (endpoint, asked) = serve(FILES, 3);
    let folder = cache.fetch(&Hub::new(&endpoint, None), "o/n", Some("a"), Some(&["train"]), &NoProgress).unwrap();
    assert_eq!(fs::read_dir(folder.join("a/train")).unwrap().count(), 2);
    assert!(!asked.lock().unwrap().iter().any(|path| path.contains("0000")), "the first file was there");
}

#[test]
fn what_the_hub_lacks_is_named() {
    let place = tempfile::tempdir().unwrap();
    let cache = DataCache { root: place.path().to_path_buf() };
    let (endpoint, _) = serve(FILES, 3);
    let hub = Hub::new(&endpoint, None);
    let error = cache.fetch(&hub, "o/n", Some("c"), Some(&["test"]), &NoProgress).unwrap_err().to_string();
    assert!(error.contains("data set o/n, configuration c, split test: the hub has no Parquet files"), "{error}");
    let error = cache.fetch(&hub, "o/other", None, None, &NoProgress).unwrap_err();
    assert!(format!("{error:#}").contains("o/other: the hub answered 404"), "{error:#}");
    assert!(cache.snapshot("o/n").is_none() && cache.snapshot("o/other").is_none());
}
