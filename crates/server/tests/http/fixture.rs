//! Servers on tiny random models.

use std::ops::Deref;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use sherry::Llm;
use sherry::batch::{BatchEngine, Options};
use sherry::chat::ChatTemplate;
use sherry::generate::SamplingParams;
use sherry::model::{Decoder, Model};
use sherry_kernels::format::TensorType;
use sherry_kernels::{Engine, Isa, Matrix, Precision};
use sherry_server::{Config, Ended, EngineInfo, Listen, Loaded, ModelInfo, Probe};

use crate::client::Client;

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
    client: Client,
    ended: Mutex<Receiver<Result<Ended, String>>>,
}

impl Deref for Server {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A tiny model with a template or without, and what `change` makes of it.
pub fn load(template: Option<&str>, change: impl FnOnce(&mut Decoder, &mut Options)) -> Result<Loaded, Failure> {
    let engine = Llm::tiny()?.into_engine();
    let tokenizer = Arc::clone(engine.tokenizer());
    let mut decoder = engine.into_decoder();
    let mut options = Options::new(CONTEXT, 8);
    (options.max_waiting, options.max_waiting_tokens) = (usize::MAX, usize::MAX);
    change(&mut decoder, &mut options);
    let (end, vocabulary) = (tokenizer.end_ids().to_vec(), decoder.config().vocab);
    Ok(Loaded {
        engine: BatchEngine::new(decoder, tokenizer, options)?,
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

/// The byte behind which [`poisoned`] models have an infinite logit.
pub const POISON: u8 = b'~';

/// Makes a model of `decoder` whose logits are of no use behind [`POISON`], and as ever otherwise: in one dimension
/// of the embedding only that token is not zero, the layers write nothing, and one row of the head overflows there.
pub fn poisoned(decoder: &mut Decoder) {
    let mut config = decoder.config().clone();
    config.tied = false;
    let mut model: Model = sherry::model::synthetic::model(&config, 1).unwrap();
    let (hidden, vocab) = (config.hidden, config.vocab);
    let matrix = |rows: usize, cols: usize, values: Vec<f32>| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Matrix::from_rows(TensorType::F32, rows, cols, bytes.into()).unwrap()
    };
    for layer in &mut model.weights.layers {
        for out in [&mut layer.o, &mut layer.down] {
            *out = matrix(out.rows(), out.cols(), vec![0.0; out.rows() * out.cols()]);
        }
    }
    let values = |matrix: &Matrix| {
        let mut values = vec![0.0; matrix.rows() * matrix.cols()];
        values.chunks_exact_mut(matrix.cols()).enumerate().for_each(|(row, out)| matrix.row_f32(row, out));
        values
    };
    let mut embed = values(&model.weights.embed);
    embed.chunks_exact_mut(hidden).for_each(|row| row[0] = 0.0);
    embed[usize::from(POISON) * hidden] = 1000.0;
    let mut head = values(model.weights.head.as_ref().unwrap());
    head.chunks_exact_mut(hidden).for_each(|row| row[0] = 0.0);
    head[usize::from(b'a') * hidden] = f32::MAX;
    model.weights.embed = matrix(vocab, hidden, embed);
    model.weights.head = Some(matrix(vocab, hidden, head));
    *decoder = Decoder::new(Arc::new(model), Engine::new(Isa::best(), 1, Precision::Int8));
}

/// Holds an engine's steps back: how many news may still pass, or any number of them.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<Option<usize>>, Condvar)>);

impl Gate {
    /// To be put into a configuration.
    pub fn probe(&self) -> Option<Probe> {
        let gate = self.clone();
        Some(Probe(Arc::new(move |_| {
            // Slow enough that a test sees answers that are being written.
            std::thread::sleep(Duration::from_millis(1));
            let (left, changed) = &*gate.0;
            let mut left = changed.wait_while(left.lock().unwrap(), |left| *left == Some(0)).unwrap();
            *left = left.map(|left| left - 1);
        })))
    }

    /// So many news pass, then the engine stands still within a step.
    pub fn close_after(&self, news: usize) {
        *self.0.0.lock().unwrap() = Some(news);
        self.0.1.notify_all();
    }

    /// No step ends until the gate opens.
    pub fn close(&self) {
        self.close_after(0);
    }

    /// Steps go on.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = None;
        self.0.1.notify_all();
    }
}

impl Server {
    /// Starts one that chats. It ends with the test.
    pub fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(Some(TEMPLATE), change)
    }

    /// Starts one, with a chat template or without.
    pub fn start_with(template: Option<&'static str>, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(move || load(template, |_, _| {}), change)
    }

    /// Starts one with what `load` loads.
    pub fn start_on(
        load: impl FnOnce() -> Result<Loaded, Failure> + Send + 'static,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config { listen: Listen::Tcp("127.0.0.1:0".parse().unwrap()), ..Config::default() };
        change(&mut config);
        let (sender, ready) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let result = sherry_server::serve(config, load, move |address| sender.send(address.to_owned()).unwrap());
            // The test may have ended.
            let _ = end.send(result.map_err(|error| error.to_string()));
        });
        let address = ready.recv_timeout(Duration::from_secs(120)).unwrap();
        Self { client: Client { address: address.strip_prefix("http://").unwrap().to_owned() }, ended: ended.into() }
    }

    /// Waits for its end.
    pub fn ended(&self) -> Result<Ended, String> {
        self.ended.lock().unwrap().recv_timeout(Duration::from_secs(60)).unwrap()
    }
}
