//! A job by itself: no batch, no pages shared, no scheduler. Written without the batch engine.

use std::sync::Arc;

use sherry::batch::{Constraint, Finish, Job, PromptScores, Scores};
use sherry::generate::{Sampler, SamplingParams, StopStrings, TokenScore, TokenSet};
use sherry::model::{Decoder, KvCache, KvType, Wanted};
use sherry::tokenizer::{TokenStream, Tokenizer};

use super::model::{Random, TOKENS};

/// A job in plain words.
#[derive(Clone, Debug)]
pub struct Plain {
    pub prompt: Vec<u32>,
    pub sampling: SamplingParams,
    pub bias: Vec<(u32, f32)>,
    pub stop: Vec<String>,
    pub end: Vec<u32>,
    pub max_tokens: usize,
    pub min_tokens: usize,
    pub choices: usize,
    pub scores: Scores,
    /// Tokens alternate between odd and even ids.
    pub alternating: bool,
}

/// Tokens alternate between odd and even ids, beginning with odd ones.
#[derive(Clone)]
struct Alternating {
    even: bool,
}

impl Constraint for Alternating {
    fn allow(&mut self, allowed: &mut TokenSet) -> sherry::Result<()> {
        (0..TOKENS).filter(|id| id.is_multiple_of(2) != self.even).for_each(|id| allowed.remove(id));
        Ok(())
    }

    fn accept(&mut self, token: u32) -> sherry::Result<()> {
        assert_eq!(token.is_multiple_of(2), self.even);
        self.even = !self.even;
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

impl Plain {
    /// A random job. Prompts begin alike: with a part of one of `texts`.
    pub fn random(random: &mut Random, texts: &[Vec<u32>], context: usize) -> Self {
        let text = &texts[random.below(texts.len())];
        // Mostly all of it, so that jobs have much in common.
        let shared = if random.once_in(3) { random.below(text.len() + 1) } else { text.len() };
        let mut prompt = text[..shared].to_vec();
        prompt.extend((0..1 + random.below(30)).map(|_| random.token()));
        prompt.truncate(context);
        let params = SamplingParams {
            temperature: [0.0, 0.7, 1.5][random.below(3)],
            top_k: [0, 3, 20][random.below(3)],
            top_p: [1.0, 0.9][random.below(2)],
            min_p: [0.0, 0.05][random.below(2)],
            repetition_penalty: [1.0, 1.0, 1.0, 1.2][random.below(4)],
            presence_penalty: [0.0, 0.0, 0.5][random.below(3)],
            frequency_penalty: [0.0, 0.0, 0.2][random.below(3)],
            seed: random.bits(),
            ..SamplingParams::GREEDY
        };
        let letter = |random: &mut Random| char::from(b'a' + random.below(26) as u8).to_string();
        let max_tokens = [1 + random.below(50), 200, 1, 0][[0, 0, 0, 0, 0, 1, 1, 1, 2, 3][random.below(10)]];
        let prompt_scores = random.once_in(4) || max_tokens == 0;
        let from = [0, random.below(prompt.len())][random.below(2)];
        Self {
            sampling: params,
            bias: (0..[0, 0, 2][random.below(3)]).map(|_| (random.token(), random.below(9) as f32 - 6.0)).collect(),
            stop: (0..[0, 0, 2][random.below(3)]).map(|_| letter(random) + &letter(random)).collect(),
            end: (0..[0, 20][random.below(2)]).map(|_| random.token()).collect(),
            max_tokens,
            min_tokens: if random.once_in(4) { random.below(8) } else { 0 },
            choices: if random.once_in(4) { 2 + random.below(2) } else { 1 },
            scores: Scores {
                generated: random.once_in(3).then(|| random.below(5)),
                prompt: prompt_scores.then(|| PromptScores { from, top: random.below(4) }),
            },
            alternating: random.once_in(6),
            prompt,
        }
    }

    /// The same job, but for what needs more than the largest logits.
    pub fn simple(self) -> Self {
        let sampling = SamplingParams {
            temperature: if self.sampling.top_k == 0 { 0.0 } else { self.sampling.temperature },
            top_k: self.sampling.top_k.min(3),
            seed: self.sampling.seed,
            ..SamplingParams::GREEDY
        };
        Self { sampling, bias: Vec::new(), choices: 1, scores: Scores::default(), alternating: false, ..self }
    }

    /// What the engine gets.
    pub fn job(&self) -> Job {
        Job {
            logit_bias: self.bias.clone().into(),
            stop: StopStrings::new(self.stop.iter().cloned()).unwrap(),
            end: self.end.clone().into(),
            min_tokens: self.min_tokens,
            choices: self.choices,
            scores: self.scores,
            constraint: self.alternating.then(|| Box::new(Alternating { even: false }) as Box<dyn Constraint>),
            ..Job::new(self.prompt.clone(), self.max_tokens, self.sampling)
        }
    }
}

/// What a job gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub prompt_scores: Vec<TokenScore>,
    pub choices: Vec<Choice>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    pub tokens: Vec<u32>,
    pub text: String,
    pub scores: Vec<TokenScore>,
    pub finish: Option<Finish>,
}

/// What `plain` gets when nothing else is there: one pass over the prompt, then a token at a time.
pub fn answer(decoder: &mut Decoder, tokenizer: &Arc<Tokenizer>, kv: KvType, context: usize, plain: &Plain) -> Answer {
    let mut answer = Answer::default();
    let mut cache = KvCache::new(decoder.config(), context, kv).unwrap();
    let logits = decoder.forward_one(&mut cache, &plain.prompt, Wanted::All).unwrap();
    if let Some(PromptScores { from, top }) = plain.scores.prompt {
        let score = |at: usize| TokenScore::new(logits.row(at - 1), plain.prompt[at], top).unwrap();
        answer.prompt_scores.extend((from.max(1)..plain.prompt.len()).map(score));
    }
    let first = logits.last().unwrap().to_vec();
    for choice in 0..plain.choices {
        cache.truncate(plain.prompt.len());
        answer.choices.push(continuation(decoder, tokenizer, &mut cache, first.clone(), plain, choice));
    }
    answer
}

fn continuation(
    decoder: &mut Decoder,
    tokenizer: &Arc<Tokenizer>,
    cache: &mut KvCache,
    mut logits: Vec<f32>,
    plain: &Plain,
    choice: usize,
) -> Choice {
    let mut sampler = Sampler::with_bias(plain.sampling.for_choice(choice), &plain.bias).unwrap();
    let mut stream = TokenStream::new(Arc::clone(tokenizer), false);
    let mut ids = plain.prompt.clone();
    let mut found = Choice::default();
    // Text that stop strings are not looked for in.
    let mut exempt = 0;
    found.finish = Some(loop {
        let n = found.tokens.len();
        if n >= plain.max_tokens {
            break Finish::Length;
        }
        if ids.len() > cache.capacity() {
            break Finish::ContextFull;
        }
        let allowed = TokenSet::of(logits.len(), |id| {
            id < TOKENS
                && (n >= plain.min_tokens || !plain.end.contains(&id))
                && (!plain.alternating || (id % 2 == 1) == (n % 2 == 0))
        });
        let token = sampler.sample(&logits, &ids, Some(&allowed)).unwrap();
        if let Some(top) = plain.scores.generated {
            found.scores.push(TokenScore::new(&logits, token, top).unwrap());
        }
        found.tokens.push(token);
        ids.push(token);
        if plain.end.contains(&token) {
            break Finish::Stop;
        }
        found.text.push_str(&stream.push(token));
        if found.tokens.len() < plain.min_tokens {
            exempt = found.text.len();
        }
        if stops(&mut found.text, exempt, &plain.stop) {
            return Choice { finish: Some(Finish::Stop), ..found };
        }
        if cache.len() < cache.capacity() {
            logits = decoder.forward_one(cache, &[token], Wanted::Last).unwrap().last().unwrap().to_vec();
        }
    });
    found.text.push_str(&stream.finish());
    stops(&mut found.text, exempt, &plain.stop);
    found
}

/// Cuts `text` where the stop string that ends first begins; whether there is one.
fn stops(text: &mut String, exempt: usize, strings: &[String]) -> bool {
    let ends = |stop: &String| text[exempt..].find(stop.as_str()).map(|at| (at + stop.len(), at));
    let first = strings.iter().filter_map(ends).min();
    if let Some((_, at)) = first {
        text.truncate(exempt + at);
    }
    first.is_some()
}
