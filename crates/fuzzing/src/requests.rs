//! Requests to the server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use sherry::Llm;
use sherry::batch::{BatchEngine, Options};
use sherry::chat::ChatTemplate;
use sherry::generate::SamplingParams;
use sherry_server::{Config, EngineInfo, Listen, Loaded, ModelInfo};

const TEMPLATE: &str = "{% if tools %}{{ tools|tojson }}{% endif %}{% for m in messages %}[{{ m.role }}] {{ m.content }}\
    {% for c in m.tool_calls %}{{ c|tojson }}{% endfor %}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}";

/// A tiny random model, ready for requests.
fn load() -> Result<Loaded, Box<dyn std::error::Error + Send + Sync>> {
    let engine = Llm::tiny()?.into_engine();
    let tokenizer = Arc::clone(engine.tokenizer());
    let decoder = engine.into_decoder();
    let model = ModelInfo {
        id: "tiny".to_owned(),
        context: 256,
        vocabulary: decoder.config().vocab,
        parameters: decoder.config().parameters(),
        bytes: 0,
        bits_per_weight: 0.0,
    };
    let info = EngineInfo {
        isa: String::new(),
        threads: 1,
        kv: "f16".to_owned(),
        precision: "int8".to_owned(),
        head: "whole".to_owned(),
    };
    let end = tokenizer.end_ids().to_vec();
    Ok(Loaded {
        engine: BatchEngine::new(decoder, tokenizer, Options::new(model.context, 4))?,
        template: Some(ChatTemplate::new(TEMPLATE, None, None)?),
        defaults: SamplingParams::GREEDY,
        end,
        model,
        info,
        fingerprint: String::new(),
    })
}

/// The address of a server that all requests go to.
fn server() -> &'static str {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    ADDRESS.get_or_init(|| {
        let config = Config {
            listen: Listen::Tcp(([127, 0, 0, 1], 0).into()),
            max_tokens: Some(8),
            any_model: true,
            ..Config::default()
        };
        let (sender, ready) = mpsc::channel();
        thread::spawn(move || {
            sherry_server::serve(config, load, move |address| sender.send(address.to_owned()).expect("a receiver"))
        });
        let address = ready.recv().expect("a server");
        address.strip_prefix("http://").expect("an address of HTTP").to_owned()
    })
}

/// Any bytes as the body of a chat request: an answer, or an error that says who is to blame, and it is not the server.
pub fn chat_body(data: &[u8]) {
    let mut stream = TcpStream::connect(server()).expect("the server runs");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket that can wait");
    let length = data.len();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    let mut answer = Vec::new();
    // A body that is too long is answered before it is read.
    let _ = stream.write_all(&[head.as_bytes(), data].concat());
    stream.read_to_end(&mut answer).expect("an answer in time");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.get(9..12).expect("a status");
    assert!(["200", "400", "404", "413"].contains(&status), "{answer}");
    if head.contains("text/event-stream") {
        let last = body.lines().rfind(|line| line.starts_with("data: "));
        assert_eq!(last, Some("data: [DONE]"), "{answer}");
    } else {
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let found = if status == "200" { body["choices"].is_array() } else { body["error"]["message"].is_string() };
        assert!(found, "{answer}");
    }
}
