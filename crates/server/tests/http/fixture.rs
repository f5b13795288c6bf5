//! A server on a tiny random model, and a client that speaks plain bytes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use sherry::Llm;
use sherry::batch::{BatchEngine, Options};
use sherry::chat::ChatTemplate;
use sherry::generate::SamplingParams;
use sherry_server::{Config, EngineInfo, Listen, Loaded, ModelInfo};

/// Tokens of context.
pub const CONTEXT: usize = 512;

const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'assistant' and loop.first %}{{ raise_exception('roles must \
    alternate') }}{% endif %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}";

/// One that knows tools, as those of the Qwen family do, and two variables.
pub const TOOLS: &str = "{% if tools %}{% for t in tools %}{{ t|tojson if full else t.function.name }}\n{% endfor %}<tool_call>\n{% endif %}\
    {% for m in messages %}[{{ m.role }}{{ ' ' ~ m.name if m.name }}] {{ m.content }}{% for c in m.tool_calls %}\
    <tool_call>\n{{ {'name': c.function.name, 'arguments': c.function.arguments}|tojson }}\n</tool_call>{% endfor %}\
    {{ ' for ' ~ m.tool_call_id if m.tool_call_id }}\n{% endfor %}\
    {% if add_generation_prompt %}[assistant] {% if enable_thinking %}<think>{% endif %}{% endif %}";

/// A running server.
pub struct Server {
    /// Its address.
    pub address: String,
}

fn load(template: Option<&str>) -> Result<Loaded, Box<dyn std::error::Error + Send + Sync>> {
    let engine = Llm::tiny()?.into_engine();
    let tokenizer = std::sync::Arc::clone(engine.tokenizer());
    let vocabulary = engine.decoder().config().vocab;
    let mut options = Options::new(CONTEXT, 8);
    (options.max_waiting, options.max_waiting_tokens) = (usize::MAX, usize::MAX);
    let end = tokenizer.end_ids().to_vec();
    Ok(Loaded {
        engine: BatchEngine::new(engine.into_decoder(), tokenizer, options)?,
        template: template.map(|template| ChatTemplate::new(template, None, None)).transpose()?,
        defaults: SamplingParams::GREEDY,
        end,
        model: ModelInfo {
            id: "tiny".to_owned(),
            context: CONTEXT,
            vocabulary,
            parameters: 1,
            bytes: 1,
            bits_per_weight: 8.0,
        },
        info: EngineInfo {
            isa: String::new(),
            threads: 1,
            kv: "f16".to_owned(),
            precision: "int8".to_owned(),
            head: "whole".to_owned(),
        },
        fingerprint: "bits1-test".to_owned(),
    })
}

impl Server {
    /// Starts one that chats. It ends with the test.
    pub fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(Some(TEMPLATE), change)
    }

    /// Starts one, with a chat template or without.
    pub fn start_with(template: Option<&'static str>, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { listen: Listen::Tcp("127.0.0.1:0".parse().unwrap()), ..Config::default() };
        change(&mut config);
        let (sender, ready) = mpsc::channel();
        std::thread::spawn(move || {
            sherry_server::serve(
                config,
                move || load(template),
                move |address| sender.send(address.to_owned()).unwrap(),
            )
        });
        let address = ready.recv_timeout(Duration::from_secs(120)).unwrap();
        Self { address: address.strip_prefix("http://").unwrap().to_owned() }
    }

    /// A new connection.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends bytes as they are and reads until the server closes.
    pub fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = self.connect();
        // A server that has refused already may not read the rest.
        let _ = stream.write_all(bytes);
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        Reply::parse(&all)
    }

    /// One request with these headers.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str("Host: localhost\r\n");
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if method == "POST" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        self.raw(&[head.as_bytes(), b"\r\n", body].concat())
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], b"")
    }

    /// `POST` of JSON.
    pub fn post(&self, path: &str, body: &str) -> Reply {
        self.request("POST", path, &[("Content-Type", "application/json")], body.as_bytes())
    }

    /// The value of a metric without labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until nothing runs.
    pub fn settle(&self) {
        for _ in 0..600 {
            if self.metric("sherry_requests_running") == 0.0 && self.metric("sherry_requests_waiting") == 0.0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("requests are still running");
    }

    /// The texts of a greedy completion, to see that the server is well.
    pub fn check(&self) -> String {
        let reply =
            self.post("/v1/completions", r#"{"prompt": "abc", "max_tokens": 8, "ignore_eos": true, "temperature": 0}"#);
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()["choices"][0]["text"].as_str().unwrap().to_owned()
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// 0 when there was none.
    pub status: u16,
    /// The head as text.
    pub head: String,
    /// The body, chunks joined.
    pub body: String,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { Self::join(body) } else { body.to_owned() };
        Self { status, head: head.to_ascii_lowercase(), body }
    }

    fn join(mut rest: &str) -> String {
        let mut body = String::new();
        while let Some((size, after)) = rest.split_once("\r\n") {
            let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
            if size == 0 || after.len() < size {
                break;
            }
            body.push_str(&after[..size]);
            rest = after[size..].trim_start_matches("\r\n");
        }
        body
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The events of a stream; the last is `[DONE]` as a string.
    pub fn events(&self) -> Vec<Value> {
        let lines = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.map(|data| serde_json::from_str(data).unwrap_or_else(|_| Value::from(data))).collect()
    }

    /// A field of the error.
    pub fn error(&self, field: &str) -> String {
        self.json()["error"][field].as_str().unwrap_or_default().to_owned()
    }
}
