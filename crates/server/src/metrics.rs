//! Numbers for Prometheus. No label takes a value from a request.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// By path and status of the answer.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RouteLabels {
    /// A path of ours, or `other`.
    pub route: &'static str,
    /// The status.
    pub code: u16,
}

/// By the stage in which a client went away.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct StageLabels {
    /// `queue`, `prompt` or `answer`.
    pub stage: &'static str,
}

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    /// Sequences that are computed.
    pub requests_running: Gauge,
    /// Sequences that wait.
    pub requests_waiting: Gauge,
    /// Share of the cache's pages that hold something of a running sequence.
    pub kv_cache_usage_ratio: Gauge<f64, AtomicU64>,
    /// Pages kept for later requests.
    pub prefix_cache_pages: Gauge,
    /// Open connections.
    pub connections: Gauge,
    /// Answers.
    pub requests: Family<RouteLabels, Counter>,
    /// Requests whose clients went away.
    pub requests_cancelled: Family<StageLabels, Counter>,
    /// Tokens of prompts.
    pub prompt_tokens: Counter,
    /// Of these, tokens that were there already.
    pub prompt_tokens_cached: Counter,
    /// Tokens written.
    pub generated_tokens: Counter,
    /// Tokens foreseen before they were picked.
    pub proposed_tokens: Counter,
    /// Foreseen tokens that were picked.
    pub accepted_tokens: Counter,
    /// Sequences put back to the queue for want of pages.
    pub preemptions: Counter,
    /// Kept pages given up for want of pages.
    pub prefix_evictions: Counter,
    /// Faults of the engine that ended its requests.
    pub panics: Counter,
    /// Steps of the engine.
    pub steps: Counter,
    /// From a request to its first token.
    pub time_to_first_token: Histogram,
    /// Between tokens.
    pub inter_token: Histogram,
    /// In the queue.
    pub queue: Histogram,
    /// From a request to its end.
    pub request: Histogram,
    /// One step.
    pub step: Histogram,
    /// Tokens of one step.
    pub step_tokens: Histogram,
}

const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];
const TOKENS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

impl Metrics {
    /// All zero. `info` names what does not change: version, instruction set, KV type.
    pub fn new(info: Vec<(&'static str, String)>) -> Self {
        let mut registry = Registry::with_prefix("sherry");
        macro_rules! register {
            ($name:literal, $help:literal, $value:expr) => {{
                let metric = $value;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let seconds = || Histogram::new(SECONDS);
        let metrics = Self {
            requests_running: register!("requests_running", "Sequences being computed", Gauge::default()),
            requests_waiting: register!("requests_waiting", "Sequences waiting", Gauge::default()),
            kv_cache_usage_ratio: register!("kv_cache_usage_ratio", "Share of cache pages in use", Gauge::default()),
            prefix_cache_pages: register!("prefix_cache_pages", "Cache pages kept for reuse", Gauge::default()),
            connections: register!("connections", "Open connections", Gauge::default()),
            requests: register!("requests", "Answers by path and status", Family::default()),
            requests_cancelled: register!("requests_cancelled", "Clients that left, by stage", Family::default()),
            prompt_tokens: register!("prompt_tokens", "Tokens of prompts", Counter::default()),
            prompt_tokens_cached: register!("prompt_tokens_cached", "Prompt tokens reused", Counter::default()),
            generated_tokens: register!("generated_tokens", "Tokens written", Counter::default()),
            proposed_tokens: register!(
                "proposed_tokens",
                "Tokens foreseen before they were picked",
                Counter::default()
            ),
            accepted_tokens: register!("accepted_tokens", "Foreseen tokens that were picked", Counter::default()),
            preemptions: register!("preemptions", "Sequences put back for want of pages", Counter::default()),
            prefix_evictions: register!("prefix_evictions", "Kept pages given up", Counter::default()),
            panics: register!("panics", "Faults of the engine", Counter::default()),
            steps: register!("steps", "Steps of the engine", Counter::default()),
            time_to_first_token: register!("time_to_first_token_seconds", "To the first token", seconds()),
            inter_token: register!("inter_token_seconds", "Between tokens", seconds()),
            queue: register!("queue_seconds", "In the queue", seconds()),
            request: register!("request_seconds", "Whole requests", seconds()),
            step: register!("step_seconds", "One step", seconds()),
            step_tokens: register!("step_tokens", "Tokens of one step", Histogram::new(TOKENS)),
            registry: Registry::default(),
        };
        registry.register("build", "What does not change", Info::new(info));
        Self { registry, ..metrics }
    }

    /// As text for Prometheus (OpenMetrics 1.0).
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
