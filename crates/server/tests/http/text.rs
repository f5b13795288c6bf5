//! Stop strings and characters that lie across the borders of tokens. The model has a token for every byte.

use serde_json::{Value, json};

use crate::fixture::Server;

fn ask(server: &Server, path: &str, fields: &Value) -> Value {
    let mut body = json!({"max_tokens": 40, "temperature": 0});
    match path {
        "/v1/completions" => body["prompt"] = json!("abc"),
        _ => body["messages"] = json!([{"role": "user", "content": "abc"}]),
    }
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let reply = server.post(path, &body.to_string());
    assert_eq!(reply.status, 200, "{fields}: {}", reply.body);
    let choice = reply.json()["choices"][0].clone();
    body["stream"] = json!(true);
    let streamed = server.post(path, &body.to_string());
    // Nothing that some readers take for the end of a line stands in an event.
    assert!(!streamed.body.contains(['\u{85}', '\u{2028}', '\u{2029}', '\0']));
    let events = streamed.events();
    let texts = events.iter().filter_map(|event| {
        let choice = &event["choices"][0];
        choice["text"].as_str().or(choice["delta"]["content"].as_str())
    });
    let whole = choice["text"].as_str().or(choice["message"]["content"].as_str()).unwrap();
    assert_eq!(texts.collect::<String>(), whole, "{fields}");
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], choice["finish_reason"]);
    json!([whole, choice["finish_reason"]])
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let server = Server::start(|_| {});
    let well = server.check();
    for path in ["/v1/completions", "/v1/chat/completions"] {
        for (text, stop, left) in [
            ("one two three", json!("two"), "one "),
            ("one two three", json!(["three", "two"]), "one "),
            ("one two three", json!(["two", "one tw", "o three"]), ""),
            ("one", json!("one"), ""),
            ("ababac", json!("abac"), "ab"),
            ("aaaab", json!(["aab", "aaab"]), "a"),
            ("one two", json!("twofold"), "one two"),
            ("é…漢", json!("漢"), "é…"),
            ("é…漢", json!(["…漢", "字"]), "é"),
        ] {
            let found = ask(&server, path, &json!({"guided_choice": [text], "stop": stop}));
            assert_eq!(found, json!([left, "stop"]), "{text} {stop}");
        }
    }
    server.is_well(&well);
}

#[test]
fn characters_stay_whole() {
    let server = Server::start(|_| {});
    let well = server.check();
    for path in ["/v1/completions", "/v1/chat/completions"] {
        for text in
            ["a\u{2028}b\u{2029}c\u{85}d", "nul\0nul", "😀👩‍👩‍👧", "\u{feff}x\u{200f}", "\"\\\n\r\t\u{7f}\u{1b}[31m"]
        {
            let found = ask(&server, path, &json!({"guided_choice": [text]}));
            assert_eq!(found, json!([text, "stop"]));
        }
        // Cut off within a character: what is there of it becomes U+FFFD, and nothing else does.
        for (most, left) in [(1, "\u{fffd}"), (3, "\u{fffd}"), (4, "😀"), (6, "😀\u{fffd}"), (8, "😀😀")] {
            let found = ask(&server, path, &json!({"guided_choice": ["😀😀😀"], "max_tokens": most}));
            assert_eq!(found, json!([left, "length"]), "{most}");
        }
    }
    server.is_well(&well);
}
