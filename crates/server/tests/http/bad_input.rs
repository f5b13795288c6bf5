//! Everything that can be wrong with a request gets its one answer, and the next request is answered as ever.

use std::time::{Duration, Instant};

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
    for (body, message) in [
        ("{", "line 1 column 1"),
        ("", "line 1 column 0"),
        ("null", "object"),
        ("[]", "object"),
        ("\"x\"", "object"),
        ("5", "object"),
    ] {
        rows.push((CHAT, body.to_owned(), 400, "", message));
        rows.push((TEXT, body.to_owned(), 400, "", message));
        rows.push(("/tokenize", body.to_owned(), 400, "", message));
    }
    rows.push((CHAT, chat(r#""n": 1"#) + "x", 400, "", "line 1"));
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
        (r#""stop": [""]"#, "stop"),
        (r#""stop": [1]"#, "stop[0]"),
        (r#""logit_bias": {"x": 1}"#, "logit_bias"),
        (r#""logit_bias": {"99999999": 1}"#, "logit_bias"),
        (r#""logit_bias": {"1": 101}"#, "logit_bias"),
        (r#""stream_options": {"include_usage": true}"#, "stream_options"),
        (r#""seed": 1.5"#, "seed"),
        (r#""stream": "yes""#, "stream"),
        (r#""response_format": {}"#, "response_format.type"),
        (r#""response_format": {"type": "json_schema"}"#, "response_format.json_schema"),
        (r#""guided_choice": []"#, "guided_choice"),
        (r#""guided_regex": "(""#, "guided_regex"),
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
        ("5", "messages"),
        ("null", "messages"),
        ("[null]", "messages[0]"),
        (r#"[{"content": "x"}]"#, "messages[0].role"),
        (r#"[{"role": null, "content": "x"}]"#, "messages[0].role"),
        (r#"[{"role": 5, "content": "x"}]"#, "messages[0].role"),
        (r#"[{"role": "wizard", "content": "x"}]"#, "messages[0].role"),
        (r#"[{"role": "user", "content": 5}]"#, "messages[0].content"),
        (r#"[{"role": "user", "content": null}]"#, "messages[0].content"),
        (r#"[{"role": "user"}]"#, "messages[0].content"),
        (
            r#"[{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text"}]}]"#,
            "messages[1].content[0]",
        ),
        (
            r#"[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]"#,
            "messages[0].content[0]",
        ),
    ] {
        rows.push((CHAT, format!(r#"{{"messages": {messages}}}"#), 400, param, ""));
    }
    rows.push((CHAT, "{\"max_tokens\": 2}".to_owned(), 400, "messages", "missing"));
    rows.push((TEXT, "{\"max_tokens\": 2}".to_owned(), 400, "prompt", "missing"));
    let many = r#"{"role":"user","content":""},"#.repeat(1 << 14) + r#"{"role":"user","content":""}"#;
    rows.push((CHAT, format!(r#"{{"messages": [{many}]}}"#), 400, "messages", "16384"));
    let half = "x".repeat(2 << 20);
    let large = format!(r#"{{"role":"user","content":"{half}"}}"#);
    let large = format!(r#"{{"messages": [{large}, {large}, {{"role":"user","content":"x"}}]}}"#);
    rows.push((CHAT, large, 400, "messages", "4194304"));
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
    let stops = |count: usize| format!(r#""stop": [{}"x"]"#, r#""x","#.repeat(count - 1));
    for field in [stops(17), stops(100_000), format!(r#""stop": "{}""#, "x".repeat(257))] {
        rows.push((CHAT, chat(&field), 400, "stop", ""));
    }
    let biases: String = (0..1025).map(|id| format!(r#""{id}":1,"#)).collect();
    rows.push((
        TEXT,
        text(&format!(r#""logit_bias": {{{}}}"#, biases.trim_end_matches(','))),
        400,
        "logit_bias",
        "1024",
    ));
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
    let deeper = format!("{}{}", r#"{"items":"#.repeat(10_000), "{}".to_owned() + &"}".repeat(10_000));
    let megabyte = format!(r#"{{"enum": ["{}"]}}"#, "x".repeat(1 << 20));
    let wide = format!(r#"{{"enum": ["{}"]}}"#, "x".repeat(70_000));
    for bad in
        [r#"{"type": "hiccup"}"#, r#"{"type": "string", "pattern": "("}"#, &deep, &deeper, &wide, &megabyte, "123"]
    {
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
    rows.push((CHAT, "[".repeat(8 << 20), 400, "", ""));
    // A tree of these would be some twenty times as large as their text.
    let lists = format!("[{}[]]", "[],".repeat(100_000));
    for (field, param) in [
        (
            format!(r#""response_format": {{"type": "json_schema", "json_schema": {{"schema": {lists}}}}}"#),
            "response_format",
        ),
        (
            format!(r#""tools": [{{"type": "function", "function": {{"name": "f", "parameters": {lists}}}}}]"#),
            "tools[0]",
        ),
        (format!(r#""chat_template_kwargs": {{"x": {lists}}}"#), "chat_template_kwargs"),
        (format!(r#""tools": {lists}"#), "tools[0]"),
        (format!(r#""modalities": {lists}"#), "modalities[0]"),
        (format!(r#""guided_choice": {lists}"#), "guided_choice[0]"),
    ] {
        rows.push((CHAT, chat(&field), 400, param, ""));
    }
    rows.push((CHAT, format!(r#"{{"messages": {lists}}}"#), 400, "messages", ""));
    rows.push((TEXT, format!(r#"{{"prompt": {lists}}}"#), 400, "prompt", "64"));
    rows
}

/// Fields in which an error may name a place deeper down.
fn lists_inside(param: &str) -> bool {
    ["response_format", "tools[0]", "chat_template_kwargs"].contains(&param)
}

#[test]
fn every_bad_request_gets_its_answer_and_the_next_one_is_fine() {
    let server = Server::start(|_| {});
    let well = server.check();
    let mut wrong = Vec::new();
    for (path, body, status, param, message) in table() {
        let began = Instant::now();
        let reply = server.post(path, &body);
        assert!(began.elapsed() < Duration::from_secs(20), "{path} {}", &body[..200.min(body.len())]);
        if reply.body.len() > 4096 {
            wrong.push(format!("{path}: an answer of {} bytes", reply.body.len()));
        }
        let shown: String = body.chars().take(200).collect();
        if reply.status != status {
            wrong.push(format!("{path} {shown}: {} instead of {status}: {}", reply.status, reply.body));
            continue;
        }
        let found = reply.error("param");
        let inside = lists_inside(param) && found.starts_with(param);
        let good = found == param || inside;
        if !good || !reply.error("message").contains(message) || reply.error("type").is_empty() {
            wrong.push(format!("{path} {shown}: param {found:?}, expected {param:?}: {}", reply.body));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.is_well(&well);
}

#[test]
fn what_is_strange_but_sound_is_answered() {
    let server = Server::start(|_| {});
    let well = server.check();
    let lists = format!("[{}[]]", "[],".repeat(1 << 20));
    let all: String = (0..272).map(|id| format!(r#""{id}":-100,"#)).collect();
    for (path, body) in [
        // The last of two counts.
        (TEXT, text(r#""max_tokens": 1, "temperature": 7, "temperature": 0"#)),
        (CHAT, chat(r#""stop": 5, "stop": "x""#)),
        (
            CHAT,
            r#"{"messages": [{"role": "wizard", "role": "user", "content": "a", "content": "b"}], "max_tokens": 1}"#
                .into(),
        ),
        // Unknown fields may hold anything.
        (TEXT, text(&format!(r#""zoom": {lists}"#))),
        (TEXT, text(&format!(r#""zoom": {}{}"#, "[".repeat(100), "]".repeat(100)))),
        (TEXT, text("\"a\\r\\nSet-Cookie: b\": 1, \"\\u001b[31m\": 2")),
        (TEXT, text(&format!(r#""logit_bias": {{{}}}"#, all.trim_end_matches(',')))),
        (TEXT, text(r#""n": null, "stop": null, "temperature": null, "stream": null, "logit_bias": null, "seed": -1"#)),
        (TEXT, r#"{"prompt": [65, 260, 271], "max_tokens": 2}"#.into()), // ids without a text
        (TEXT, text(r#""seed": -9223372036854775808, "top_k": -1, "min_p": 1, "top_p": 1e-30"#)),
        (TEXT, text(r#""max_tokens": 1000000000, "ignore_eos": true"#)),
    ] {
        let reply = server.post(path, &body);
        assert_eq!(reply.status, 200, "{path} {}: {}", &body[..200.min(body.len())], reply.body);
        assert!(!reply.head.contains("set-cookie") && !reply.head.contains('\u{1b}'), "{}", reply.head);
    }
    let last =
        server.post(TEXT, r#"{"prompt": "a", "prompt": "abc", "max_tokens": 8, "ignore_eos": true, "temperature": 0}"#);
    assert_eq!(last.json()["choices"][0]["text"], well.as_str());
    server.is_well(&well);
}

#[test]
fn names_of_models_are_cut() {
    let server = Server::start(|_| {});
    let reply = server.post(CHAT, &chat(&format!(r#""model": "{}""#, "x".repeat(1 << 20))));
    assert_eq!((reply.status, reply.error("code").as_str()), (404, "model_not_found"));
    assert!(reply.error("message").contains(&"x".repeat(64)) && !reply.error("message").contains(&"x".repeat(65)));
}

/// Schemas that are hard, or that no text has.
#[test]
fn schemas_are_refused_or_enforced_and_never_endless() {
    let server = Server::start(|_| {});
    let well = server.check();
    for schema in [
        r#"{"type": "string", "pattern": "(a+)+$"}"#,
        r#"{"type": "string", "pattern": "^(a|a)*b$"}"#,
        r#"{"type": "string", "pattern": "(a{1,1000}){1,1000}"}"#,
        r#"{"allOf": [{"type": "string"}, {"type": "number"}]}"#,
        r#"{"type": "integer", "minimum": 5, "maximum": 4}"#,
        r#"{"enum": []}"#,
        r#"{"not": {}}"#,
        "false",
        r#"{"type": "object", "required": ["a"], "properties": {"a": false}}"#,
        r#"{"type": "array", "minItems": 3, "maxItems": 1}"#,
        r#"{"type": "string", "minLength": 9, "maxLength": 2}"#,
        r##"{"$ref": "#"}"##,
        r##"{"$ref": "http://127.0.0.1:1/x.json"}"##,
        r##"{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}"##,
        r#"{"type": "object", "patternProperties": {"^x": {"type": "hiccup"}}}"#,
        r#"{"type": "array", "uniqueItems": true, "items": {"type": "boolean"}}"#,
    ] {
        let began = Instant::now();
        let format = format!(r#""response_format": {{"type": "json_schema", "json_schema": {{"schema": {schema}}}}}"#);
        let body = chat(&format).replace("\"max_tokens\": 2", "\"max_tokens\": 60");
        let reply = server.post(CHAT, &body);
        // Generous: the machine may be busy.
        assert!(began.elapsed() < Duration::from_secs(20), "{schema}");
        match reply.status {
            200 => assert!(["stop", "length"].contains(&reply.json()["choices"][0]["finish_reason"].as_str().unwrap())),
            _ => assert_eq!(
                (reply.status, reply.error("code").as_str()),
                (400, "invalid_schema"),
                "{schema}: {}",
                reply.body
            ),
        }
    }
    for schema in ["\"(a+)+$\"", "\"(?=a)b\"", "\"(a)\\\\1\""] {
        let reply = server.post(TEXT, &text(&format!(r#""guided_regex": {schema}"#)));
        assert!(reply.status == 200 || reply.error("code") == "invalid_schema", "{schema}: {}", reply.body);
    }
    server.is_well(&well);
}

#[test]
fn nothing_runs_for_a_request_that_is_refused() {
    let server = Server::start(|_| {});
    let well = server.check();
    server.settle();
    let before = server.metric("sherry_generated_tokens_total");
    let long = "a".repeat(CONTEXT + 1);
    let body = format!(r#"{{"prompt": ["a", "b", "{long}"], "max_tokens": 4}}"#);
    let reply = server.post(TEXT, &body);
    assert_eq!((reply.status, reply.error("code").as_str()), (400, "context_length_exceeded"));
    let error = reply.json()["error"].clone();
    assert_eq!(
        (error["n_prompt_tokens"].as_u64(), error["n_ctx"].as_u64()),
        (Some(CONTEXT as u64 + 1), Some(CONTEXT as u64))
    );
    // A stream is refused in the same way, before its head.
    let streamed = server.post(TEXT, &body.replace("\"max_tokens\"", "\"stream\": true, \"max_tokens\""));
    assert_eq!((streamed.status, streamed.body), (400, reply.body));
    assert_eq!(server.metric("sherry_generated_tokens_total"), before);
    // A conversation needs room for an answer: "[user] x\n[assistant] " has 20 tokens beside the text.
    let said = |n: usize| {
        format!(r#"{{"messages": [{{"role": "user", "content": "{}"}}], "ignore_eos": true}}"#, "x".repeat(n))
    };
    let full = server.post(CHAT, &said(CONTEXT - 20));
    assert_eq!((full.status, full.error("code").as_str()), (400, "context_length_exceeded"), "{}", full.body);
    let one = server.post(CHAT, &said(CONTEXT - 21));
    assert_eq!((one.status, &one.json()["choices"][0]["finish_reason"]), (200, &"length".into()), "{}", one.body);
    server.is_well(&well);
}

#[test]
fn wrong_bytes_wrong_types_and_wrong_paths() {
    let server = Server::start(|_| {});
    let json = ("Content-Type", "application/json");
    let body = text("\"n\": 1");
    for (method, path, headers, bytes, status) in [
        ("POST", TEXT, vec![json], &b"{\"prompt\": \"\xff\"}"[..], 400),
        ("POST", TEXT, vec![json], br#"{"prompt": "\ud800"}"#, 400),
        ("POST", TEXT, vec![json, ("Content-Encoding", "gzip")], body.as_bytes(), 415),
        ("POST", TEXT, vec![("Content-Type", "multipart/form-data; boundary=x")], body.as_bytes(), 415),
        ("POST", TEXT, vec![("Content-Type", "text/plain"), ("Origin", "https://evil.example")], body.as_bytes(), 403),
        ("POST", TEXT, vec![("Content-Type", "application/x-www-form-urlencoded")], body.as_bytes(), 200),
        ("POST", TEXT, vec![], body.as_bytes(), 200),
        ("GET", TEXT, vec![], b"", 405),
        ("PUT", TEXT, vec![json], b"{}", 405),
        ("DELETE", "/v1/models/tiny", vec![], b"", 405),
        ("HEAD", "/health", vec![], b"", 200),
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
        ("GET", "/health", vec![("Host", "localhost:80"), ("Origin", "http://localhost:81")], b"", 403),
        ("OPTIONS", TEXT, vec![("Origin", "https://evil.example")], b"", 403),
        ("GET", "/health", vec![("Host", "")], b"", 400),
        ("GET", "/health", vec![("Host", "a b")], b"", 403),
        ("GET", "/health", vec![("Host", "user@localhost")], b"", 403),
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
    let large = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: {}\r\n\r\n", "b".repeat(17 << 10));
    assert_eq!(server.raw(large.as_bytes()).status, 431);
    let key = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {}\r\n\r\n", "k".repeat(1 << 20));
    assert_eq!(server.raw(key.as_bytes()).status, 431);
    let url = format!("GET /health?{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(70_000));
    assert_eq!(server.raw(url.as_bytes()).status, 431);
    server.check();
}

/// What one side takes for one request and another for two.
#[test]
fn requests_cannot_be_smuggled() {
    let server = Server::start(|_| {});
    let well = server.check();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n";
    let second = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for smuggled in [
        format!("{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{second}"),
        format!("{head}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{second}"),
        format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello{second}"),
        format!("{head}Content-Length: 5, 6\r\n\r\nhello{second}"),
        format!("{head}Content-Length: +5\r\n\r\nhello{second}"),
        format!("{head}Content-Length: -1\r\n\r\n{second}"),
        format!("{head}Content-Length: 99999999999999999999\r\n\r\n{second}"),
        format!("{head}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{second}"),
        format!("{head}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{second}"),
        format!("{head} folded: x\r\n\r\n{second}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{second}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nx\r\n{second}"),
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{second}"),
        format!("GET /health\r\n\r\n{second}"),
        format!("GET /health HTTP/1.2\r\nHost: localhost\r\n\r\n{second}"),
        format!("GET /health HTTP/1.1\nHost: localhost\0\r\n\r\n{second}"),
    ] {
        let all = server.bytes(smuggled.as_bytes());
        let all = String::from_utf8_lossy(&all);
        let answers = all.matches("HTTP/1.1 ").count();
        assert!(answers <= 1 && (answers == 0 || all.starts_with("HTTP/1.1 400")), "{smuggled:?}: {all}");
    }
    // Two requests that are two.
    let two = format!("{second}{}", second.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    assert_eq!(String::from_utf8_lossy(&server.bytes(two.as_bytes())).matches("HTTP/1.1 200").count(), 2);
    server.is_well(&well);
}
