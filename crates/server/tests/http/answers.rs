//! What good requests get: the same whole and streamed, alone and in company.

use serde_json::{Value, json};

use crate::fixture::{CONTEXT, Server};

fn texts(reply: &crate::client::Reply) -> Vec<String> {
    assert_eq!(reply.status, 200, "{}", reply.body);
    let choices = reply.json()["choices"].as_array().unwrap().clone();
    choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn streams_say_the_same_as_whole_answers() {
    let server = Server::start(|_| {});
    for extra in
        ["\"temperature\": 0", "\"temperature\": 1.5, \"seed\": 7", "\"n\": 3, \"seed\": 1, \"temperature\": 1"]
    {
        let body =
            |stream: &str| format!(r#"{{"prompt": "Once", "max_tokens": 24, "ignore_eos": true, {extra}{stream}}}"#);
        let whole = server.post("/v1/completions", &body(""));
        let streamed =
            server.post("/v1/completions", &body(r#", "stream": true, "stream_options": {"include_usage": true}"#));
        assert_eq!(streamed.status, 200);
        assert!(streamed.head.contains("content-type: text/event-stream; charset=utf-8"), "{}", streamed.head);
        let events = streamed.events();
        assert_eq!(events.last(), Some(&json!("[DONE]")));
        let usage = &events[events.len() - 2];
        let tokens = |usage: &Value| (usage["prompt_tokens"].clone(), usage["completion_tokens"].clone());
        assert_eq!((&usage["choices"], tokens(&usage["usage"])), (&json!([]), tokens(&whole.json()["usage"])));
        let mut joined = vec![String::new(); texts(&whole).len()];
        for event in &events[..events.len() - 2] {
            assert_eq!(event["usage"], Value::Null);
            for choice in event["choices"].as_array().unwrap() {
                joined[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
            }
        }
        assert_eq!(joined, texts(&whole));
    }
}

#[test]
fn answers_do_not_depend_on_company() {
    let server = Server::start(|_| {});
    let body = |i: usize| {
        let prompt = "word ".repeat(1 + i % 7) + &i.to_string();
        format!(
            r#"{{"prompt": "{prompt}", "max_tokens": {}, "seed": {i}, "temperature": 1, "ignore_eos": true, "logprobs": 2}}"#,
            3 + i
        )
    };
    let choices = |i: usize| server.post("/v1/completions", &body(i)).json()["choices"].clone();
    let alone: Vec<Value> = (0..24).map(choices).collect();
    let together: Vec<Value> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..24).map(|i| scope.spawn(move || choices(i))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
    server.settle();
}

#[test]
fn chat_streams_begin_with_the_role_and_end_with_a_reason() {
    let server = Server::start(|_| {});
    let body = r#"{"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "max_tokens": 6, "ignore_eos": true, "stream": true, "model": "tiny", "store": true, "zoom": 1}"#;
    let reply = server.post("/chat/completions", body);
    assert!(reply.head.contains("x-sherry-ignored: zoom\r\n"), "{}", reply.head);
    let events = reply.events();
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(events[0]["object"], "chat.completion.chunk");
    let last = &events[events.len() - 2];
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert!(last["timings"]["predicted_n"].as_u64() == Some(6) && last.get("usage").is_none(), "{last}");
    let strict = Server::start(|config| config.strict = true);
    assert_eq!(strict.post("/chat/completions", body).error("param"), "zoom");
}

#[test]
fn scores_of_prompts_are_those_of_answers() {
    let server = Server::start(|_| {});
    let made = server.post(
        "/v1/completions",
        r#"{"prompt": "ab", "max_tokens": 6, "ignore_eos": true, "logprobs": 3, "temperature": 0}"#,
    );
    let made = &made.json()["choices"][0];
    let text = format!("ab{}", made["text"].as_str().unwrap());
    let body = json!({"prompt": text, "max_tokens": 0, "echo": true, "logprobs": 3});
    let read = server.post("/v1/completions", &body.to_string()).json();
    let lists = &read["choices"][0]["logprobs"];
    assert_eq!(read["choices"][0]["text"], Value::from(text.as_str()));
    assert_eq!(lists["token_logprobs"][0], Value::Null);
    let count = lists["tokens"].as_array().unwrap().len();
    assert_eq!(
        (count, read["usage"]["completion_tokens"].as_u64()),
        (lists["token_logprobs"].as_array().unwrap().len(), Some(0))
    );
    // Where the texts of the made tokens are tokens of the read text again, their scores are the same.
    let (made_tokens, read_tokens) =
        (made["logprobs"]["tokens"].as_array().unwrap(), lists["tokens"].as_array().unwrap());
    if read_tokens[read_tokens.len() - made_tokens.len()..] == made_tokens[..] {
        let from = read_tokens.len() - made_tokens.len();
        assert_eq!(
            made["logprobs"]["token_logprobs"].as_array().unwrap()[..],
            lists["token_logprobs"].as_array().unwrap()[from..]
        );
    }
}

#[test]
fn the_context_is_used_to_its_end_and_not_beyond() {
    let server = Server::start(|_| {});
    let tokens = |n: usize| json!({"prompt": vec![65; n], "max_tokens": 1_000_000_000, "ignore_eos": true}).to_string();
    for (prompt, generated) in [(CONTEXT, 0), (CONTEXT - 1, 1), (CONTEXT - 5, 5)] {
        let reply = server.post("/v1/completions", &tokens(prompt)).json();
        let found = reply["usage"]["completion_tokens"].as_u64().unwrap();
        assert!(found == generated || found == generated + 1, "{prompt}: {reply}");
        assert_eq!(reply["choices"][0]["finish_reason"], "length");
    }
}

#[test]
fn answers_take_the_form_that_is_asked_for() {
    let server = Server::start(|_| {});
    for seed in 0..6 {
        let body = |field: &str| {
            format!(
                r#"{{"messages": [{{"role": "user", "content": "x"}}], "max_tokens": 200, "temperature": 1, "seed": {seed}, {field}}}"#
            )
        };
        let content = |field: &str| {
            let reply = server.post("/v1/chat/completions", &body(field));
            assert_eq!(reply.status, 200, "{}", reply.body);
            let choice = reply.json()["choices"][0].clone();
            (
                choice["message"]["content"].as_str().unwrap().to_owned(),
                choice["finish_reason"].as_str().unwrap().to_owned(),
            )
        };
        assert!(["yes", "no"].contains(&content(r#""guided_choice": ["yes", "no"]"#).0.as_str()));
        let (digits, _) = content(r#""guided_regex": "[0-9]{3}-[a-c]+x""#);
        assert!(digits.len() > 4 && digits.as_bytes()[3] == b'-', "{digits}");
        let schema = r#"{"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"enum": [1, 2]}}, "required": ["a", "b"], "additionalProperties": false}"#;
        let format = format!(
            r#""response_format": {{"type": "json_schema", "json_schema": {{"name": "s", "strict": true, "schema": {schema}}}}}"#
        );
        let (text, finish) = content(&format);
        if finish == "stop" {
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(value["a"].is_boolean() && (value["b"] == 1 || value["b"] == 2), "{value}");
        }
    }
}

#[test]
fn tokens_and_templates_can_be_looked_at() {
    let server = Server::start(|_| {});
    let reply = server.post("/tokenize", r#"{"content": "abc", "add_special_tokens": false}"#).json();
    let tokens = reply["tokens"].clone();
    assert_eq!(
        (reply["count"].as_u64(), reply["max_model_len"].as_u64()),
        (Some(tokens.as_array().unwrap().len() as u64), Some(CONTEXT as u64))
    );
    let text = server.post("/v1/detokenize", &json!({ "tokens": tokens }).to_string()).json();
    assert_eq!((&text["prompt"], &text["content"]), (&json!("abc"), &json!("abc")));
    let prompt = server.post("/apply-template", r#"{"messages": [{"role": "user", "content": "hi"}]}"#).json();
    assert_eq!(prompt["prompt"], "[user] hi\n[assistant] ");
    for path in ["/v1/models", "/props", "/tokenizer_info", "/health", "/livez", "/metrics", "/openapi.json"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let base = Server::start_with(None, |_| {});
    assert_eq!(
        base.post("/v1/chat/completions", r#"{"messages": [{"role": "user", "content": "hi"}]}"#).error("code"),
        "no_chat_template"
    );
}

#[test]
fn the_page_is_served_from_the_program_alone() {
    let server = Server::start(|_| {});
    for path in ["/", "/style.css", "/app.js", "/markdown.js", "/favicon.svg"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.head.contains("content-security-policy: default-src 'none'"), "{}", reply.head);
        assert!(!reply.body.contains("https://") || path == "/markdown.js", "{path} names another host");
    }
    assert_eq!(Server::start(|config| config.page = false).get("/").status, 404);
}
