//! Everything that can be wrong with a request gets its one answer, and the next request is answered as ever.

use std::io::{Read, Write};
use std::time::Duration;

use crate::fixture::{CONTEXT, Server};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn chat(field: &str) -> String {
    format!(r#"{{"messages": [{{"role": "user", "content": "hi"}}], "max_tokens": 2, {field}}}"#)
}

fn text(field: &str) -> String {
    format!(r#"{{"prompt": "hi", "max_tokens": 2, {field}}}"#)
}

/// Path, body, status, `param`, a part of the message.
fn table() -> Vec<(&'static str, String, u16, &'static str, &'static str)> {
    let mut rows: Vec<(&'static str, String, u16, &'static str, &'static str)> = Vec::new();
    for body in ["{", "", "null", "[]", "\"x\"", "5", "{}x"] {
        rows.push((CHAT, body.to_owned(), 400, "", ""));
    }
    for (field, param) in [
        (r#""temperature": NaN"#, "temperature"),
        (r#""temperature": Infinity"#, "temperature"),
        (r#""temperature": 1e999"#, "temperature"),
        (r#""temperature": -1"#, "temperature"),
        (r#""temperature": 101"#, "temperature"),
        (r#""temperature": "hot""#, "temperature"),
        (r#""temperature": true"#, "temperature"),
        (r#""top_p": 0"#, "top_p"),
        (r#""top_k": -2"#, "top_k"),
        (r#""top_k": 1.5"#, "top_k"),
        (r#""min_p": 2"#, "min_p"),
        (r#""repetition_penalty": 0"#, "repetition_penalty"),
        (r#""presence_penalty": 3"#, "presence_penalty"),
        (r#""frequency_penalty": -2.5"#, "frequency_penalty"),
        (r#""n": 0"#, "n"),
        (r#""n": 9"#, "n"),
        (r#""n": -1"#, "n"),
        (r#""n": 1000000000"#, "n"),
        (r#""stop": 5"#, "stop"),
        (r#""stop": """#, "stop"),
        (r#""logit_bias": {"x": 1}"#, "logit_bias"),
        (r#""logit_bias": {"99999999": 1}"#, "logit_bias"),
        (r#""logit_bias": {"1": 101}"#, "logit_bias"),
        (r#""stream_options": {"include_usage": true}"#, "stream_options"),
        (r#""seed": 1.5"#, "seed"),
        (r#""stream": "yes""#, "stream"),
    ] {
        for (path, body) in [(CHAT, chat(field)), (TEXT, text(field))] {
            rows.push((path, body, 400, param, ""));
        }
    }
    for value in ["-1", "1.5", "\"8\"", "9223372036854775808"] {
        rows.push((TEXT, format!(r#"{{"prompt": "hi", "max_tokens": {value}}}"#), 400, "max_tokens", ""));
    }
    for (messages, param) in [
        (r#""hello""#, "messages"),
        ("[]", "messages"),
        ("[123]", "messages[0]"),
        ("[{}]", "messages[0]"),
        ("[null]", "messages[0]"),
        (r#"[{"content": "x"}]"#, "messages[0]"),
        (r#"[{"role": 5, "content": "x"}]"#, "messages[0].role"),
        (r#"[{"role": "wizard", "content": "x"}]"#, "messages[0].role"),
        (r#"[{"role": "user", "content": 5}]"#, "messages[0].content"),
        (r#"[{"role": "user", "content": null}]"#, "messages[0].content"),
        (r#"[{"role": "user"}]"#, "messages[0].content"),
        (
            r#"[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]"#,
            "messages[0].content[0]",
        ),
    ] {
        rows.push((CHAT, format!(r#"{{"messages": {messages}}}"#), 400, param, ""));
    }
    rows.push((CHAT, "{\"max_tokens\": 2}".to_owned(), 400, "", "messages"));
    rows.push((CHAT, chat(r#""model": "other""#), 404, "model", "tiny"));
    rows.push((CHAT, chat(&format!(r#""model": "{}""#, "x".repeat(1 << 20))), 404, "model", "tiny"));
    for (prompt, param) in [
        ("\"\"", "prompt"),
        ("[]", "prompt"),
        ("[[]]", "prompt[0]"),
        ("[-1]", "prompt[0]"),
        ("[4294967296]", "prompt[0]"),
        ("[1, 999999]", "prompt[1]"),
        ("[[1], [1, 999999]]", "prompt[1][1]"),
        (r#"["a", 1]"#, "prompt"),
        ("5", "prompt"),
        ("{}", "prompt"),
    ] {
        rows.push((TEXT, format!(r#"{{"prompt": {prompt}, "max_tokens": 2}}"#), 400, param, ""));
    }
    let many = format!("[{}\"a\"]", "\"a\",".repeat(64));
    rows.push((TEXT, format!(r#"{{"prompt": {many}}}"#), 400, "prompt", "64"));
    rows.push((TEXT, text(r#""logprobs": 21"#), 400, "logprobs", ""));
    rows.push((TEXT, text(r#""suffix": "x""#), 400, "suffix", ""));
    rows.push((TEXT, text(r#""best_of": 3"#), 400, "best_of", ""));
    rows.push((CHAT, chat(r#""top_logprobs": 5"#), 400, "top_logprobs", ""));
    rows.push((CHAT, chat(r#""logprobs": true, "top_logprobs": 21"#), 400, "top_logprobs", ""));
    for field in ["functions", "function_call", "audio", "web_search_options"] {
        rows.push((CHAT, chat(&format!(r#""{field}": {{}}"#)), 400, field, ""));
    }
    rows.push((CHAT, chat(r#""modalities": ["audio"]"#), 400, "modalities", ""));
    let long = format!("{:?}", "a".repeat(CONTEXT + 1));
    rows.push((TEXT, format!(r#"{{"prompt": {long}}}"#), 400, "prompt", "maximum context length is"));
    rows.push((
        TEXT,
        format!(r#"{{"prompt": ["a", {long}]}}"#),
        400,
        "prompt[1]",
        "exceeds the available context size",
    ));
    rows.push((
        CHAT,
        r#"{"messages": [{"role": "assistant", "content": "x"}]}"#.to_owned(),
        400,
        "messages",
        "alternate",
    ));
    for format in [r#"{"type": "sound"}"#, r#"{"type": "json_schema", "json_schema": {"schema": 123}}"#] {
        rows.push((CHAT, chat(&format!(r#""response_format": {format}"#)), 400, "response_format", ""));
    }
    let schema = |schema: &str| {
        format!(r#""response_format": {{"type": "json_schema", "json_schema": {{"name": "x", "schema": {schema}}}}}"#)
    };
    let deep = format!("{}{}", r#"{"items":"#.repeat(40), "{}".to_owned() + &"}".repeat(40));
    let wide = format!(r#"{{"enum": ["{}"]}}"#, "x".repeat(70_000));
    for bad in [r#"{"type": "hiccup"}"#, r#"{"type": "string", "pattern": "("}"#, &deep, &wide] {
        rows.push((CHAT, chat(&schema(bad)), 400, "response_format", ""));
    }
    rows.push((CHAT, chat(r#""tools": [{"type": "x", "function": {"name": "f"}}]"#), 400, "tools[0].type", ""));
    rows.push((
        CHAT,
        chat(r#""tools": [{"type": "function", "function": {"name": "a b"}}]"#),
        400,
        "tools[0].function.name",
        "",
    ));
    rows.push((CHAT, chat(r#""tools": [{"type": "function", "function": {"name": "f"}}]"#), 400, "tools", "template"));
    rows.push((CHAT, chat(r#""tool_choice": "required""#), 400, "tool_choice", ""));
    let nested = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    rows.push((CHAT, chat(&format!(r#""stop": {nested}"#)), 400, "stop[0]", ""));
    rows.push((CHAT, "[".repeat(1 << 20), 400, "", ""));
    rows
}

#[test]
fn every_bad_request_gets_its_answer_and_the_next_one_is_fine() {
    let server = Server::start(|_| {});
    let well = server.check();
    let mut wrong = Vec::new();
    for (path, body, status, param, message) in table() {
        let reply = server.post(path, &body);
        let shown: String = body.chars().take(200).collect();
        if reply.status != status {
            wrong.push(format!("{path} {shown}: {} instead of {status}: {}", reply.status, reply.body));
            continue;
        }
        let found = reply.error("param");
        let good = found == param || (param == "response_format" && found.starts_with(param));
        if !good || !reply.error("message").contains(message) || reply.error("type").is_empty() {
            wrong.push(format!("{path} {shown}: param {found:?}, expected {param:?}: {}", reply.body));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.settle();
    assert_eq!(server.check(), well);
}

#[test]
fn wrong_bytes_wrong_types_and_wrong_paths() {
    let server = Server::start(|_| {});
    let json = ("Content-Type", "application/json");
    let body = text("\"n\": 1");
    for (method, path, headers, bytes, status) in [
        ("POST", TEXT, vec![json], &b"{\"prompt\": \"\xff\"}"[..], 400),
        ("POST", TEXT, vec![json], br#"{"prompt": "\ud800"}"#, 400),
        ("POST", TEXT, vec![json], br#"{"prompt": "a", "prompt": "b"}"#, 400),
        ("POST", TEXT, vec![json, ("Content-Encoding", "gzip")], body.as_bytes(), 415),
        ("POST", TEXT, vec![("Content-Type", "multipart/form-data; boundary=x")], body.as_bytes(), 415),
        ("POST", TEXT, vec![("Content-Type", "text/plain"), ("Origin", "https://evil.example")], body.as_bytes(), 403),
        ("POST", TEXT, vec![("Content-Type", "application/x-www-form-urlencoded")], body.as_bytes(), 200),
        ("POST", TEXT, vec![], body.as_bytes(), 200),
        ("GET", TEXT, vec![], b"", 405),
        ("POST", "/", vec![json], b"{}", 405),
        ("TRACE", "/v1/models", vec![], b"", 405),
        ("GET", "//v1//models", vec![], b"", 404),
        ("GET", "/v1/models/", vec![], b"", 200),
        ("GET", "/v1/models/tiny", vec![], b"", 200),
        ("GET", "/v1/models/none", vec![], b"", 404),
        ("GET", "/../etc/passwd", vec![], b"", 404),
        ("GET", "/%2e%2e/", vec![], b"", 404),
        ("GET", "/app.js%00", vec![], b"", 404),
        ("GET", "/style.css/..", vec![], b"", 404),
        ("POST", "/v1/embeddings", vec![json], b"{}", 404),
        ("POST", "/v1/responses", vec![json], b"{}", 404),
        ("GET", "/health", vec![("Host", "evil.example")], b"", 403),
        ("GET", "/health", vec![("Host", "localhost.evil.example")], b"", 403),
        ("GET", "/health", vec![("Host", "127.0.0.1:1")], b"", 200),
        ("GET", "/health", vec![("Host", "[::1]:80")], b"", 200),
        ("GET", "/health", vec![("Host", "localhost"), ("Host", "localhost")], b"", 400),
        ("GET", "/health", vec![("Origin", "https://evil.example")], b"", 403),
        ("GET", "/health", vec![("Origin", "null")], b"", 403),
        ("GET", "/health", vec![("Origin", "http://localhost")], b"", 200),
    ] {
        let reply = server.request(method, path, &headers, bytes);
        assert_eq!(reply.status, status, "{method} {path} {headers:?}: {} {}", reply.head, reply.body);
        if status == 405 {
            assert!(reply.head.contains("\r\nallow: "), "{}", reply.head);
        }
        if status == 403 {
            assert!(!reply.head.contains("access-control"), "{}", reply.head);
        }
    }
    let no_host = server.raw(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(no_host.status, 400);
}

#[test]
fn sizes_have_limits() {
    let server = Server::start(|config| config.max_body = 1000);
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n";
    let announced = format!("{head}Content-Length: 10000000\r\n\r\n");
    let reply = server.raw(announced.as_bytes());
    assert_eq!((reply.status, reply.error("code").as_str()), (413, "request_too_large"));
    let chunks =
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", format!("100\r\n{}\r\n", " ".repeat(256)).repeat(8));
    assert_eq!(server.raw(chunks.as_bytes()).status, 413);
    let fields = "X-A: b\r\n".repeat(70);
    assert_eq!(server.raw(format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").as_bytes()).status, 431);
    let large = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: {}\r\n\r\n", "b".repeat(20_000));
    assert_eq!(server.raw(large.as_bytes()).status, 431);
    for smuggled in [
        format!("{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"),
        format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "GET /health\r\n\r\n".to_owned(),
    ] {
        let reply = server.raw(smuggled.as_bytes());
        assert!(matches!(reply.status, 0 | 400), "{smuggled:?}: {}", reply.head);
    }
    server.check();
}

#[test]
fn a_head_that_does_not_come_is_not_waited_for() {
    let server = Server::start(|_| {});
    for begin in ["", "GET /health HTTP/1.1\r\nHost: local"] {
        let mut stream = server.connect();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(begin.as_bytes()).unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok(), "{begin:?}: still open after 20 s");
    }
}
