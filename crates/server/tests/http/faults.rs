//! Clients that go away, do not read or do not write, models that fail, engines that panic: it ends what it concerns, and
//! nothing else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sherry::batch::Output;
use sherry_server::{Ended, Probe};

use crate::client::Reply;
use crate::fixture::{Gate, POISON, Server, load, poisoned};

const LONG: &str = r#"{"prompt": "a", "max_tokens": 400, "ignore_eos": true}"#;
const STREAM: &str = r#"{"prompt": "a", "max_tokens": 400, "ignore_eos": true, "stream": true}"#;

/// Sends a request and does not wait for the answer.
fn send(server: &Server, body: &str) -> TcpStream {
    let mut stream = server.connect();
    let head = format!("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).unwrap();
    stream
}

/// Reads until `end` has come.
fn read_to(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains(end) {
        let mut byte = [0; 64];
        let n = stream.read(&mut byte).unwrap();
        assert!(n > 0, "the stream ended: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&byte[..n]);
    }
    // The end of what was read may lie inside a character.
    String::from_utf8_lossy(&all).into_owned()
}

fn cancelled(server: &Server, stage: &str) -> f64 {
    server.total("sherry_requests_cancelled_total", &format!("stage=\"{stage}\""))
}

#[test]
fn work_ends_in_the_queue_and_in_the_prompt_when_the_client_has_gone() {
    let gate = Gate::default();
    let server = Server::start(|config| {
        config.probe = gate.probe();
        // The least part of a prompt with every step.
        config.step = Duration::from_micros(1);
    });
    let well = server.check();
    let counted = |stage: &str| server.until(stage, |_| cancelled(&server, stage) == 1.0);
    // In the queue: as many as may always run do, and the engine stands still.
    let others: Vec<TcpStream> = (0..4).map(|_| send(&server, LONG)).collect();
    server.until("running", |_| server.metric("sherry_requests_running") == 4.0);
    gate.close();
    let mut queued = send(&server, STREAM);
    read_to(&mut queued, "\r\n\r\n");
    drop(queued);
    counted("queue");
    drop(others);
    gate.open();
    server.is_well(&well);
    // In the prompt: the news of its first part hold the step.
    let prompt = format!(
        r#"{{"prompt": "{}", "max_tokens": 4, "stream": true, "return_progress": true}}"#,
        "abcdefgh".repeat(60)
    );
    gate.close();
    let mut reading = send(&server, &prompt);
    read_to(&mut reading, "\r\n\r\n");
    gate.close_after(4);
    read_to(&mut reading, "\"prompt_progress\"");
    drop(reading);
    counted("prompt");
    gate.open();
    server.is_well(&well);
}

#[test]
fn readers_that_leave_in_an_answer_leave_nothing() {
    let server = Server::start(|_| {});
    let well = server.check();
    for (body, until) in [(STREAM, "data: "), (STREAM, "\r\n\r\n"), (LONG, "")] {
        let before = server.total("sherry_requests_cancelled_total", "");
        let generated = server.metric("sherry_generated_tokens_total");
        let mut stream = send(&server, body);
        read_to(&mut stream, until);
        drop(stream);
        server.settle();
        let after = server.total("sherry_requests_cancelled_total", "");
        let made = server.metric("sherry_generated_tokens_total") - generated;
        // It was cancelled in time, was through, or never began since the client had gone before it was read.
        assert!(after == before + 1.0 || made >= 400.0 || made == 0.0, "{made} tokens, {after} cancelled");
        server.is_well(&well);
    }
    // After the last token, and a client that shuts down its sending side only.
    let mut stream = send(&server, STREAM);
    read_to(&mut stream, "[DONE]");
    drop(stream);
    let stream = send(&server, LONG);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    server.is_well(&well);
    drop(stream);
    // With a second request in the same segment, which is answered when the first is.
    let mut stream = server.connect();
    let one =
        format!("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{LONG}", LONG.len());
    stream.write_all(one.repeat(2).as_bytes()).unwrap();
    drop(stream);
    server.is_well(&well);
}

#[test]
fn a_slow_reader_gets_all_and_one_that_does_not_read_is_given_up() {
    let server = Server::start(|config| config.stall = Duration::from_millis(1500));
    let well = server.check();
    // Answers of some megabytes: more than the system keeps for a reader.
    let body = |stream: bool| {
        format!(
            r#"{{"prompt": "a", "max_tokens": 500, "ignore_eos": true, "logprobs": 20, "n": 8, "temperature": 1, "seed": 5, "stream": {stream}}}"#
        )
    };
    let whole = server.post("/v1/completions", &body(false)).json();
    let expected: Vec<&str> =
        whole["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect();

    let still = send(&server, &body(true));
    let mut slow = send(&server, &body(true));
    // Neither is in anybody's way.
    for _ in 0..3 {
        let began = Instant::now();
        assert_eq!(server.check(), well);
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    let mut all = Vec::new();
    let mut part = vec![0; 64 << 10];
    loop {
        match slow.read(&mut part).unwrap() {
            0 => break,
            n => all.extend_from_slice(&part[..n]),
        }
        if String::from_utf8_lossy(&all[all.len().saturating_sub(64)..]).contains("[DONE]") {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut texts = vec![String::new(); 8];
    for event in Reply::parse(&all).events() {
        for choice in event["choices"].as_array().into_iter().flatten() {
            texts[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
        }
    }
    assert_eq!(texts, expected);
    // The other one is cancelled, or all of its answer fits into the system's buffers.
    server.is_well(&well);
    drop(still);
}

#[test]
fn what_comes_too_slowly_is_not_waited_for() {
    let server = Server::start(|config| {
        config.header_time = Duration::from_millis(700);
        config.body_time = Duration::from_millis(700);
    });
    let well = server.check();
    for begin in ["", "GET /health HTTP/1.1\r\nHost: local", "GET /health HTTP/1.1\r\n"] {
        let mut stream = server.connect();
        stream.write_all(begin.as_bytes()).unwrap();
        let began = Instant::now();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(began.elapsed() < Duration::from_secs(10), "{begin:?}");
    }
    // A byte now and then is no head either.
    let mut drip = server.connect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(10) && drip.write_all(b"G").is_ok() {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    // A body that is announced and does not come, in either form, and one that drips.
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n";
    for (begin, drips) in [
        ("Content-Length: 100\r\n\r\n{", false),
        ("Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", false),
        ("Content-Length: 100\r\n\r\n{", true),
    ] {
        let mut stream = server.connect();
        stream.write_all(format!("{head}{begin}").as_bytes()).unwrap();
        let began = Instant::now();
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            while drips && began.elapsed() < Duration::from_secs(5) && writer.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let reply = Reply::parse(&all);
        assert_eq!((reply.status, reply.error("code").as_str()), (408, "request_timeout"), "{begin:?} {}", reply.body);
        assert!(
            reply.head.contains("connection: close") && reply.head.contains("x-should-retry: false"),
            "{}",
            reply.head
        );
        writing.join().unwrap();
    }
    server.is_well(&well);
}

#[test]
fn silence_is_broken_by_comments() {
    let gate = Gate::default();
    let server = Server::start(|config| {
        config.ping = Duration::from_millis(50);
        config.probe = gate.probe();
    });
    gate.close();
    let mut stream = send(&server, STREAM);
    let begun = read_to(&mut stream, ": ping\n\n\r\n8\r\n: ping\n\n");
    assert!(begun.starts_with("HTTP/1.1 200"), "{begun}");
    gate.open();
    read_to(&mut stream, "[DONE]");
}

#[test]
fn output_that_is_no_use_ends_its_request_alone() {
    let server = Server::start_on(|| load(None, |decoder, _| poisoned(decoder)), |_| {});
    let well = server.check();
    let poison = format!(r#"{{"prompt": "abc{}", "max_tokens": 8, "ignore_eos": true}}"#, POISON as char);
    let neighbour = |seed: u64| {
        format!(
            r#"{{"prompt": "abc", "max_tokens": 60, "ignore_eos": true, "temperature": 1, "seed": {seed}, "logit_bias": {{"{POISON}": -100}}}}"#
        )
    };
    let alone: Vec<_> =
        (0..6).map(|seed| server.post("/v1/completions", &neighbour(seed)).json()["choices"].clone()).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let server = &server;
        let ask = |body: String| move || server.post("/v1/completions", &body).json()["choices"].clone();
        let others: Vec<_> = (0..6).map(|seed| scope.spawn(ask(neighbour(seed)))).collect();
        for _ in 0..4 {
            let reply = server.post("/v1/completions", &poison);
            assert_eq!((reply.status, reply.error("code").as_str()), (500, "model_output_unusable"), "{}", reply.body);
            assert!(reply.head.contains("x-should-retry: false"), "{}", reply.head);
        }
        others.into_iter().map(|other| other.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
    let streamed =
        server.post("/v1/completions", &poison.replace("\"max_tokens\"", "\"stream\": true, \"max_tokens\""));
    let events = streamed.events();
    assert_eq!(
        (streamed.status, events.last().unwrap()["error"]["code"].as_str()),
        (200, Some("model_output_unusable"))
    );
    server.is_well(&well);
}

/// Panics in the middle of a step when it sees this token. Others take a while, so that a long answer is still being
/// written when the next request comes.
fn panics_at(token: u32) -> Option<Probe> {
    Some(Probe(Arc::new(move |output| {
        std::thread::sleep(Duration::from_millis(5));
        if matches!(output, Output::Token { token: found, .. } if *found == token) {
            panic!("as the test wants");
        }
    })))
}

#[test]
fn a_step_that_panics_ends_its_requests_and_the_third_the_server() {
    let server = Server::start(|config| config.probe = panics_at(u32::from(b'!')));
    let fatal = r#"{"prompt": "a", "max_tokens": 8, "guided_choice": ["!!!!"]}"#;
    let well = server.check();
    let reply = server.post("/v1/completions", fatal);
    assert_eq!((reply.status, reply.error("code").as_str()), (500, "internal_error"), "{}", reply.body);
    server.is_well(&well);
    // Others in the same step share its fate, streams by an event; the next are served.
    let mut stream = send(&server, STREAM);
    read_to(&mut stream, "\"text\"");
    assert_eq!(server.post("/v1/completions", fatal).status, 500);
    read_to(&mut stream, "data: {\"error\":{\"message\":");
    server.is_well(&well);
    assert_eq!(server.metric("sherry_panics_total"), 2.0);
    assert_eq!(server.post("/v1/completions", fatal).status, 500);
    let ended = server.ended().unwrap();
    assert_eq!((ended, ended.code()), (Ended::Broken, 70));
}

#[test]
fn requests_end_in_time() {
    let gate = Gate::default();
    let server = Server::start(|config| {
        config.timeout = Duration::from_millis(300);
        config.probe = gate.probe();
    });
    let well = server.check();
    for _ in 0..2 {
        gate.close();
        let (mut whole, mut streamed) = (send(&server, LONG), send(&server, STREAM));
        std::thread::sleep(Duration::from_millis(400));
        gate.open();
        read_to(&mut whole, "\"deadline_exceeded\"");
        let all = read_to(&mut streamed, "\"deadline_exceeded\"");
        assert!(all.starts_with("HTTP/1.1 200") && !all.contains("[DONE]"), "{all}");
        server.is_well(&well);
    }
    let queue = Server::start(|config| {
        config.queue_timeout = Duration::from_millis(200);
        config.probe = gate.probe();
    });
    let others: Vec<TcpStream> = (0..8).map(|_| send(&queue, LONG)).collect();
    queue.until("running", |_| queue.metric("sherry_requests_running") == 8.0);
    gate.close();
    let mut waits = send(&queue, LONG);
    std::thread::sleep(Duration::from_millis(300));
    gate.open();
    let all = read_to(&mut waits, "\"overloaded\"");
    assert!(all.starts_with("HTTP/1.1 503") && all.contains("retry-after: "), "{all}");
    drop(others);
    queue.is_well(&well);
}

#[test]
fn few_pages_make_answers_wait_and_change_none() {
    let plenty = Server::start(|_| {});
    let few = Server::start_on(|| load(None, |_, options| options.pages = 3), |_| {});
    let body = |seed: usize| {
        let prompt = "word ".repeat(10 + 4 * seed);
        format!(r#"{{"prompt": "{prompt}", "max_tokens": 300, "ignore_eos": true, "temperature": 1, "seed": {seed}}}"#)
    };
    let choices = |server: &Server, seed: usize| server.post("/v1/completions", &body(seed)).json()["choices"].clone();
    let alone: Vec<_> = (0..10).map(|seed| choices(&plenty, seed)).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..10)
            .map(|seed| {
                let (few, choices) = (&few, &choices);
                scope.spawn(move || choices(few, seed))
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
    assert!(few.metric("sherry_preemptions_total") > 0.0);
    few.is_well(&plenty.check());
}
