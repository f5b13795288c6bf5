//! Keys, clients that go away, full queues.

use std::io::{Read, Write};
use std::time::Duration;

use sherry_server::Keys;

use crate::fixture::Server;

#[test]
fn keys_are_asked_for_where_there_are_any() {
    let server = Server::start(|config| config.keys = Keys::parse("alice:secret\n"));
    let body = br#"{"prompt": "a", "max_tokens": 1}"#;
    let status = |headers: &[(&str, &str)]| server.request("POST", "/v1/completions", headers, body).status;
    assert_eq!(status(&[]), 401);
    assert_eq!(status(&[("Authorization", "Bearer secret")]), 200);
    assert_eq!(status(&[("X-Api-Key", "secret")]), 200);
    for wrong in ["Bearer Secret", "Bearer ", "secret", "Basic secret", "Bearer secretx"] {
        let reply = server.request("POST", "/v1/completions", &[("Authorization", wrong)], body);
        assert_eq!((reply.status, reply.error("code").as_str()), (401, "invalid_api_key"), "{wrong}");
        assert!(reply.head.contains("www-authenticate: bearer"), "{}", reply.head);
    }
    assert_eq!(server.request("POST", "/v1/completions?key=secret", &[], body).status, 401);
    for (path, status) in [("/health", 200), ("/", 200), ("/props", 401), ("/metrics", 401), ("/v1/models", 401)] {
        assert_eq!(server.get(path).status, status, "{path}");
    }
}

#[test]
fn listed_origins_may_ask() {
    let server = Server::start(|config| config.cors_origins = vec!["https://app.example".to_owned()]);
    let origin = ("Origin", "https://app.example");
    let reply = server.request("GET", "/health", &[origin], b"");
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("access-control-allow-origin: https://app.example"), "{}", reply.head);
    assert!(!reply.head.contains("allow-credentials"));
    assert_eq!(server.request("OPTIONS", "/v1/completions", &[origin], b"").status, 204);
}

/// Sends a request and goes away, after `reads` bytes of the answer have come.
fn leave(server: &Server, body: &str, reads: usize) {
    let mut stream = server.connect();
    let head = format!("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).unwrap();
    if reads > 0 {
        stream.read_exact(&mut vec![0; reads]).unwrap();
    } else {
        std::thread::sleep(Duration::from_millis(30));
    }
}

#[test]
fn work_ends_when_the_client_has_gone() {
    let server = Server::start(|_| {});
    let well = server.check();
    let whole = r#"{"prompt": "a", "max_tokens": 400, "ignore_eos": true}"#;
    let streamed = r#"{"prompt": "a", "max_tokens": 400, "ignore_eos": true, "stream": true}"#;
    for _ in 0..5 {
        leave(&server, whole, 0);
        leave(&server, streamed, 0);
        leave(&server, streamed, 500);
    }
    server.settle();
    assert_eq!(server.metric("sherry_kv_cache_usage_ratio"), 0.0);
    assert_eq!(server.check(), well);
    let text = server.get("/metrics").body;
    let gone: f64 = text
        .lines()
        .filter(|line| line.starts_with("sherry_requests_cancelled_total"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert!(gone >= 1.0, "{text}");
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let server = Server::start(|config| config.max_queue = 2);
    let body = r#"{"prompt": "a", "max_tokens": 200, "ignore_eos": true}"#;
    let replies: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..60).map(|_| scope.spawn(|| server.post("/v1/completions", body))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let refused: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
    assert!(refused.len() < replies.len());
    for reply in refused {
        assert_eq!((reply.status, reply.error("code").as_str()), (503, "queue_full"), "{}", reply.body);
        assert!(reply.head.contains("retry-after: "), "{}", reply.head);
    }
    server.settle();
    server.check();
}

#[test]
fn requests_have_a_deadline() {
    let server = Server::start(|config| config.timeout = Duration::from_millis(1));
    let body = r#"{"prompt": "a", "max_tokens": 400, "ignore_eos": true}"#;
    assert_eq!(server.post("/v1/completions", body).error("code"), "deadline_exceeded");
}
