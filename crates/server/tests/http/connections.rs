//! Many connections at a time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::client::Reply;
use crate::fixture::{Gate, Server};

/// Open files of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[test]
fn a_thousand_connections_may_be_idle_and_more_are_refused() {
    let server = Server::start(|config| config.max_connections = 1010);
    let well = server.check();
    let before = descriptors();
    let mut idle: Vec<TcpStream> = (0..1000).map(|_| server.connect()).collect();
    assert_eq!(server.check(), well);
    // Each of them is served, and may be used again.
    for _ in 0..2 {
        for stream in &mut idle {
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        }
        for stream in &mut idle {
            let mut head = [0; 15];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200 OK");
            let mut rest = vec![0; 4096];
            assert!(stream.read(&mut rest).unwrap() > 0);
        }
    }
    let more: Vec<Reply> = (0..200).map(|_| server.get("/health")).collect();
    assert!(more.iter().all(|reply| reply.status == 200), "they come one after the other");
    let mut held: Vec<TcpStream> = (0..500).map(|_| server.connect()).collect();
    let refused = held.iter_mut().skip(20).map(|stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        Reply::parse(&all)
    });
    for reply in refused {
        assert_eq!((reply.status, reply.error("code").as_str()), (503, "overloaded"), "{}", reply.body);
        assert!(reply.head.contains("retry-after: ") && reply.head.contains("connection: close"), "{}", reply.head);
    }
    drop((idle, held));
    server.until("connections", |server| server.metric("sherry_connections") <= 1.0);
    server.is_well(&well);
    server.until("descriptors", |_| descriptors() <= before + 64);
}

#[test]
fn a_thousand_requests_at_once_are_answered_or_told_to_come_again() {
    let server = Server::start(|config| config.max_queue = 64);
    let well = server.check();
    let body = r#"{"prompt": "abc", "max_tokens": 8, "ignore_eos": true, "temperature": 0}"#;
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut open: Vec<TcpStream> = (0..1000).map(|_| server.connect()).collect();
    for stream in &mut open {
        stream.write_all(request.as_bytes()).unwrap();
    }
    let mut served = 0;
    for stream in &mut open {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let reply = Reply::parse(&all);
        match reply.status {
            200 => {
                assert_eq!(reply.json()["choices"][0]["text"], well.as_str());
                served += 1;
            }
            _ => {
                assert_eq!((reply.status, reply.error("code").as_str()), (503, "queue_full"), "{}", reply.body);
                let seconds = reply.head.split("retry-after: ").nth(1).unwrap().split('\r').next().unwrap();
                assert!((1..=60).contains(&seconds.parse::<u32>().unwrap()), "{seconds}");
            }
        }
    }
    assert!(served >= 64, "{served}");
    server.is_well(&well);
}

/// While the queue is full and all retry, the running ones go on, and afterwards everything is as it was.
#[test]
fn a_full_queue_stands_retries() {
    let gate = Gate::default();
    let server = Server::start(|config| {
        config.max_queue = 4;
        config.probe = gate.probe();
    });
    let well = server.check();
    let body = r#"{"prompt": "a", "max_tokens": 300, "ignore_eos": true}"#;
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..12).map(|_| scope.spawn(|| server.post("/v1/completions", body).status)).collect();
        server.until("running", |server| server.metric("sherry_requests_running") >= 8.0);
        gate.close();
        let began = Instant::now();
        let mut refused = 0;
        // The queue may still have a place for what comes first.
        let impatient: Vec<_> = (0..8).map(|_| scope.spawn(|| server.post("/v1/completions", body).status)).collect();
        std::thread::sleep(Duration::from_millis(100));
        while began.elapsed() < Duration::from_secs(1) {
            let reply = server.post("/v1/completions", body);
            assert_eq!((reply.status, reply.error("code").as_str()), (503, "queue_full"), "{}", reply.body);
            refused += 1;
        }
        assert!(refused > 10, "{refused}");
        gate.open();
        for other in others.into_iter().chain(impatient) {
            assert!([200, 503].contains(&other.join().unwrap()));
        }
    });
    server.is_well(&well);
}

/// With `--max-queue 0` what can run at once is served, and nothing waits.
#[test]
fn without_a_queue_there_is_still_room_for_what_can_run() {
    let server = Server::start(|config| config.max_queue = 0);
    let well = server.check();
    for _ in 0..5 {
        assert_eq!(server.check(), well);
    }
    server.is_well(&well);
}
