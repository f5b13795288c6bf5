//! A loaded model that answers: in a conversation, or by going on with a text.

use std::time::Duration;

use anyhow::Result;
use sherry::batch::Options;
use sherry::model::Decoder;
use sherry::{Chat, Event, Generate, Generated, Llm};
use sherry_measure::machine;

use crate::commands::engine::{EngineArgs, Loaded};
use crate::commands::sampling::SamplingArgs;
use crate::interrupt;
use crate::output::{Stdout, bytes};

/// A loaded model that answers.
pub struct Speaker {
    voice: Voice,
    pub load_time: Duration,
}

/// How it answers.
#[expect(clippy::large_enum_variant, reason = "there is one in a program")]
enum Voice {
    /// In a conversation.
    Chat(Chat),
    /// By going on with the text.
    Text(Llm, Generate),
}

impl Speaker {
    /// Prepares `loaded` for answering, and says how it samples. `raw`: without a chat template; `speculation`: whether tokens
    /// that may follow are computed together.
    pub fn new(
        loaded: Loaded,
        raw: bool,
        sampling: &SamplingArgs,
        engine: &EngineArgs,
        speculation: bool,
    ) -> Result<(Self, String)> {
        let Loaded { checkpoint, decoder, tokenizer, context, load_time } = loaded;
        let (params, line) = sampling.resolve(checkpoint.generation())?;
        let options = Generate { max_tokens: sampling.max_tokens, sampling: Some(params), stop: sampling.stop.clone() };
        let size = Options { kv: engine.kv(), speculation, ..Options::new(context, 1) };
        let llm = Llm::new(decoder, tokenizer, checkpoint.generation(), size)?;
        let voice = if raw || !llm.can_chat() {
            Voice::Text(llm, options)
        } else {
            let mut chat = Chat::new(llm)?;
            chat.options = options;
            Voice::Chat(chat)
        };
        Ok((Self { voice, load_time }, line))
    }

    /// The answer to `text`; `observe` sees every event. An interrupt breaks it off, and so does a reader of the results
    /// that went away.
    pub fn answer(&mut self, text: &str, mut observe: impl FnMut(Event) -> Result<()>) -> Result<Generated> {
        let mut pull = |step: &mut dyn FnMut() -> Option<sherry::Result<Event>>| {
            while !interrupt::requested()
                && !Stdout::is_closed()
                && let Some(event) = step()
            {
                observe(event?)?;
            }
            anyhow::Ok(())
        };
        match &mut self.voice {
            Voice::Chat(chat) => {
                let mut answer = chat.say(text)?;
                pull(&mut || answer.step())?;
                Ok(answer.so_far().clone())
            }
            Voice::Text(llm, options) => {
                let mut generation = llm.generate(text, options)?;
                pull(&mut || generation.step())?;
                Ok(generation.stop())
            }
        }
    }

    /// The conversation, of a model that has them.
    pub fn chat(&self) -> Option<&Chat> {
        match &self.voice {
            Voice::Chat(chat) => Some(chat),
            Voice::Text(..) => None,
        }
    }

    /// The conversation, to be changed.
    pub fn chat_mut(&mut self) -> Option<&mut Chat> {
        match &mut self.voice {
            Voice::Chat(chat) => Some(chat),
            Voice::Text(..) => None,
        }
    }

    /// How answers are generated.
    pub fn options(&self) -> &Generate {
        match &self.voice {
            Voice::Chat(chat) => &chat.options,
            Voice::Text(_, options) => options,
        }
    }

    /// How answers are generated, to be changed.
    pub fn options_mut(&mut self) -> &mut Generate {
        match &mut self.voice {
            Voice::Chat(chat) => &mut chat.options,
            Voice::Text(_, options) => options,
        }
    }

    /// The model.
    pub fn llm(&self) -> &Llm {
        match &self.voice {
            Voice::Chat(chat) => chat.llm(),
            Voice::Text(llm, _) => llm,
        }
    }

    /// The decoder, for other work.
    pub fn into_decoder(self) -> Decoder {
        let llm = match self.voice {
            Voice::Chat(chat) => chat.into_llm(),
            Voice::Text(llm, _) => llm,
        };
        llm.into_engine().into_decoder()
    }

    /// One line of statistics.
    pub fn statistics(&self, generated: &Generated) -> String {
        let s = &generated.statistics;
        let memory = machine::resident()
            .map_or(String::new(), |(now, peak)| format!(" | memory {} (peak {})", bytes(now), bytes(peak)));
        let head = self.llm().decoder().head_statistics();
        let tried = head.found + head.failed + head.skipped;
        let head = if tried == 0 {
            String::new()
        } else {
            let mean = head.exact as f64 / head.found.max(1) as f64;
            format!(" | two-stage head {} of {tried} tokens, {mean:.0} exact logits each", head.found)
        };
        let proposed = match s.proposed_tokens {
            0 => String::new(),
            proposed => format!(" | {} of {proposed} tokens foreseen", s.accepted_tokens),
        };
        format!(
            "prompt {} tokens, {:.1} tok/s | generated {} tokens, {:.1} tok/s | load {:.2} s{memory}{head}{proposed}",
            s.prompt_tokens,
            s.prompt_rate(),
            s.generated_tokens,
            s.generation_rate(),
            self.load_time.as_secs_f64()
        )
    }
}
