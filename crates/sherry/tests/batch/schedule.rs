//! Budget, order, fairness, pre-emption and progress by a clock that does not exist.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sherry::batch::{BatchEngine, Budget, ClientId, Finish, Job, JobId, Options, Output, StepReport, Work};
use sherry::generate::SamplingParams;
use sherry::model::{ArchConfig, Family, Model, synthetic};
use sherry_kernels::Isa;

use super::model::{Random, TOKENS, decoder, tokenizer};

/// What a step should take.
const TARGET: Duration = Duration::from_millis(80);

/// Seconds for a pass over the weights, and per token, attended position and row of logits: a 1B model on two cores.
const USUAL: [f64; 4] = [5.6e-3, 2.4e-3, 2e-7, 1.2e-3];

/// An engine in a world where steps take as long as the test says.
struct World {
    engine: BatchEngine,
    costs: [f64; 4],
    now: Duration,
    last: Duration,
    /// Tokens of each job so far.
    tokens: HashMap<JobId, usize>,
    finished: Vec<(JobId, Finish)>,
    cached: HashMap<JobId, usize>,
}

fn model(family: Family) -> Arc<Model> {
    let vocab = TOKENS as usize + 2;
    let config = ArchConfig { vocab, context: 8192, ..synthetic::tiny(family) };
    Arc::new(synthetic::model(&config, 4).unwrap())
}

impl World {
    /// Every sequence gets one token per step.
    fn new(options: Options, costs: [f64; 4]) -> Self {
        let options = Options { speculation: false, ..options };
        let decoder = decoder(&model(Family::Qwen3), Isa::best(), 1);
        let engine = BatchEngine::new(decoder, tokenizer(), options).unwrap();
        let (tokens, cached) = (HashMap::new(), HashMap::new());
        Self { engine, costs, now: Duration::ZERO, last: Duration::ZERO, tokens, finished: Vec::new(), cached }
    }

    /// Room for many sequences of up to 6000 tokens.
    fn large(costs: [f64; 4]) -> Self {
        let mut world =
            Self::new(Options { pages: 100, max_running: 16, logit_rows: 32, ..Options::new(6000, 1) }, costs);
        world.learn();
        world
    }

    /// Runs jobs of several kinds until the engine knows what steps cost.
    fn learn(&mut self) {
        for round in 0..12 {
            for job in 0..1 + round % 5 {
                self.submit(prompt(20 + 90 * job, 1000 * round as u64 + job as u64), 20, "");
            }
            self.run();
        }
        self.finished.clear();
    }

    fn submit(&mut self, prompt: Vec<u32>, max_tokens: usize, client: &str) -> JobId {
        let client = ClientId(client.into());
        self.engine.submit(Job { client, ..Job::new(prompt, max_tokens, SamplingParams::GREEDY) }).unwrap()
    }

    fn cost(&self, work: Work) -> f64 {
        let [pass, token, position, row] = self.costs;
        pass + token * work.tokens as f64 + position * work.attended as f64 + row * work.rows as f64
    }

    fn step(&mut self) -> StepReport {
        let budget = Budget::Time { now: self.now, last: self.last, target: TARGET };
        let (tokens, finished, cached) = (&mut self.tokens, &mut self.finished, &mut self.cached);
        let report = self.engine.step(budget, &mut |id, output| match output {
            Output::Token { .. } => *tokens.entry(id).or_default() += 1,
            Output::Finished { finish, .. } => finished.push((id, finish)),
            Output::Prompt { cached: found, .. } => _ = cached.insert(id, found),
            Output::Failed(error) => panic!("{error}"),
            Output::PromptScores { .. } => {}
        });
        let report = report.unwrap();
        self.last = Duration::from_secs_f64(self.cost(report.work));
        self.now += self.last;
        report
    }

    fn run(&mut self) {
        while !self.engine.is_idle() {
            self.step();
        }
    }

    fn tokens(&self, id: JobId) -> usize {
        self.tokens.get(&id).copied().unwrap_or(0)
    }
}

fn prompt(len: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.token()).collect()
}

#[test]
fn a_long_prompt_slows_others_but_never_stops_them() {
    let mut world = World::large(USUAL);
    let writers: Vec<JobId> = (0..4).map(|i| world.submit(prompt(30, i), 2000, "")).collect();
    while writers.iter().any(|id| world.tokens(*id) < 5) {
        world.step();
    }
    let reader = world.submit(prompt(4096, 77), 4, "");
    let (mut steps, mut longest) = (0, Duration::ZERO);
    while world.tokens(reader) == 0 {
        let report = world.step();
        assert_eq!(report.generated, 4 + usize::from(world.tokens(reader) > 0));
        assert!(report.prompt_tokens >= 16, "the prompt advances");
        longest = longest.max(world.last);
        steps += 1;
    }
    assert!(longest < TARGET.mul_f64(1.25), "{longest:?}");
    // The time that is left is used: nearly all tokens that fit.
    let fit = (TARGET.as_secs_f64() - world.cost(Work { tokens: 4, attended: 8000, rows: 4 }))
        / (USUAL[1] + 2000.0 * USUAL[2]);
    assert!((steps as f64) < 1.4 * 4096.0 / fit, "{steps} steps");
    // Alone, a step may be three times as long.
    for id in writers {
        world.engine.cancel(id);
    }
    world.submit(prompt(3000, 78), 1, "");
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        world.step();
        longest = longest.max(world.last);
    }
    assert!((2.0..3.3).contains(&(longest.as_secs_f64() / TARGET.as_secs_f64())), "{longest:?}");
}

#[test]
fn a_short_question_does_not_wait_for_a_long_document() {
    let mut world = World::large(USUAL);
    let document = world.submit(prompt(4096, 1), 4, "");
    (0..3).for_each(|_| _ = world.step());
    let question = world.submit(prompt(32, 2), 4, "");
    let mut steps = 0;
    while world.tokens(question) == 0 {
        world.step();
        steps += 1;
    }
    assert!(steps <= 5, "{steps} steps");
    assert_eq!(world.tokens(document), 0);
    world.run();
    assert_eq!((world.tokens(document), world.finished.len()), (4, 2));
}

#[test]
fn equal_clients_get_equal_shares() {
    let mut world = World::large(USUAL);
    let mut owners = HashMap::new();
    let mut shares = vec![0.0; 64];
    let (mut seed, mut served) = (0, 0);
    let end = world.now + Duration::from_secs(120);
    let names: Vec<String> = (0..64).map(|client| format!("client {client}")).collect();
    for client in 0..64 {
        seed += 1;
        owners.insert(world.submit(prompt(32, seed), 16, &names[client]), client);
    }
    while world.now < end {
        world.step();
        for (id, _) in world.finished.split_off(served) {
            // Every client asks again at once.
            let client = owners[&id];
            shares[client] += 1.0;
            seed += 1;
            owners.insert(world.submit(prompt(32, seed), 16, &names[client]), client);
        }
        served = world.finished.len();
    }
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    let jain = sum * sum / (64.0 * squares);
    assert!(sum > 300.0 && jain >= 0.95, "Jain index {jain} of {sum} jobs: {shares:?}");
}

#[test]
fn a_greedy_client_does_not_push_others_aside() {
    let mut world = World::large(USUAL);
    for i in 0..60 {
        world.submit(prompt(40, i), 20, "greedy");
    }
    (0..10).for_each(|_| _ = world.step());
    let other = world.submit(prompt(40, 999), 20, "modest");
    let before = world.finished.len();
    while !world.finished.iter().any(|(id, _)| *id == other) {
        world.step();
    }
    // Those that ran already, and no more than began while it ran.
    assert!(world.finished.len() - before <= 33, "{}", world.finished.len() - before);
}

#[test]
fn a_full_slab_pauses_the_youngest() {
    let mut world = World::new(Options { pages: 3, max_running: 4, logit_rows: 8, ..Options::new(512, 1) }, USUAL);
    let jobs: Vec<JobId> = (0..3).map(|i| world.submit(prompt(200, i), 250, "")).collect();
    let mut paused = 0;
    while !world.engine.is_idle() {
        let before = world.tokens(jobs[0]);
        let report = world.step();
        paused += report.preempted;
        // The oldest one never waits.
        assert!(before == 0 || before == 250 || world.tokens(jobs[0]) == before + 1);
    }
    assert!(paused > 0 && world.engine.load().preemptions == paused as u64);
    assert_eq!(world.finished.iter().map(|(id, _)| *id).collect::<Vec<_>>(), jobs, "the oldest one ends first");
    assert!(jobs.iter().all(|id| world.tokens(*id) == 250));
    assert_eq!(world.engine.load().used_pages, 0);
}

#[test]
fn four_sequences_always_run_and_more_while_steps_are_short() {
    let most = |costs: [f64; 4]| {
        let mut world = World::large(costs);
        for i in 0..12 {
            world.submit(prompt(20, i), 60, "");
        }
        let mut most = 0;
        while !world.engine.is_idle() {
            world.step();
            most = most.max(world.engine.load().running);
        }
        most
    };
    assert_eq!(most([0.1, 0.02, 0.0, 0.02]), 4, "a step of one sequence is too long already");
    assert_eq!(most(USUAL), 12);
    let some = most([5e-3, 6e-3, 0.0, 5e-3]);
    assert!((5..=8).contains(&some), "{some}: seven sequences take 82 ms");
}

#[test]
fn what_others_have_computed_is_not_computed_again() {
    let mut world = World::large(USUAL);
    let mut text = prompt(1100, 5);
    let first = world.submit(text.clone(), 10, "");
    world.run();
    assert_eq!(world.cached[&first], 0);
    // The next turn of a conversation.
    text.extend(prompt(40, 6));
    let second = world.submit(text.clone(), 10, "");
    let mut steps = 0;
    while world.tokens(second) == 0 {
        world.step();
        steps += 1;
    }
    assert!(world.cached[&second] >= 1100 && steps <= 2, "{steps} steps, {} tokens", world.cached[&second]);
    world.run();
    // Four jobs at once: the pages that the first one fills serve them all.
    let shared = prompt(1024, 7);
    for i in 0..4 {
        world.submit([shared.clone(), prompt(10, 100 + i)].concat(), 3, "");
    }
    let mut computed = 0;
    while !world.engine.is_idle() {
        computed += world.step().prompt_tokens;
    }
    assert!(computed < 2 * 1024, "{computed} of {}", 4 * 1034);
    // Without a cache all of it.
    let options = Options { prefix_cache: false, ..*world.engine.options() };
    let mut world = World::new(options, USUAL);
    (0..2).for_each(|_| _ = world.submit(text.clone(), 10, ""));
    world.run();
    assert!(world.cached.values().all(|cached| *cached == 0));
}

#[test]
fn cancelled_jobs_leave_nothing_behind_at_any_stage() {
    let mut world = World::new(Options { pages: 20, max_running: 2, logit_rows: 8, ..Options::new(4000, 1) }, USUAL);
    for stage in 0..4 {
        let jobs: Vec<JobId> = (0..3).map(|i| world.submit(prompt(900, 10 * stage + i), 50, "")).collect();
        // In the queue, in the prompt, between tokens, together.
        (0..[0, 2, 14, 30][stage as usize]).for_each(|_| _ = world.step());
        for id in &jobs {
            assert!(world.engine.cancel(*id), "stage {stage}");
            assert!(!world.engine.cancel(*id));
        }
        assert!(world.engine.is_idle());
        let load = world.engine.load();
        assert_eq!((load.running, load.waiting, load.used_pages), (0, 0, 0));
        let (before, report) = (world.tokens.clone(), world.step());
        assert_eq!((before, report), (world.tokens.clone(), StepReport::default()), "no further news");
    }
    // After a panic everything is forgotten.
    let job = world.submit(prompt(300, 999), 5, "");
    world.step();
    assert_eq!(world.engine.reset(), [job]);
    let load = world.engine.load();
    assert_eq!((load.used_pages, load.cached_pages), (0, 0));
    assert!(world.engine.is_idle());
}

#[test]
fn what_cannot_run_is_refused_at_once() {
    let options =
        Options { max_running: 2, max_waiting: 3, max_waiting_tokens: 100, logit_rows: 4, ..Options::new(300, 1) };
    let mut world = World::new(options, USUAL);
    let mut refusal = |job: Job| world.engine.submit(job).unwrap_err().to_string();
    let job = |prompt: Vec<u32>| Job::new(prompt, 5, SamplingParams::GREEDY);
    assert_eq!(refusal(job(vec![])), "the prompt has no tokens");
    assert_eq!(refusal(job(vec![1; 301])), "context length exceeded: 301 tokens needed, 300 available");
    assert!(refusal(job(vec![1, 2, TOKENS + 2])).contains(&format!("token {} at position 2", TOKENS + 2)));
    assert!(refusal(Job { choices: 3, ..job(vec![1]) }).contains("expected 1 to 2"));
    assert!(refusal(Job { choices: 0, ..job(vec![1]) }).contains("0 choices"));
    assert!(refusal(Job { logit_bias: vec![(1, f32::NAN)].into(), ..job(vec![1]) }).contains("token 1"));
    assert!(refusal(Job { logit_bias: vec![(5000, 1.0)].into(), ..job(vec![1]) }).contains("token 5000"));
    let bad = SamplingParams { temperature: -1.0, ..SamplingParams::GREEDY };
    assert!(refusal(Job { sampling: bad, ..job(vec![1]) }).contains("temperature"));
    // A queue is bounded in jobs and in tokens; a job that can begin at once is always taken.
    world.submit(vec![1; 200], 5, "");
    assert!(
        matches!(world.engine.submit(job(vec![1; 10])), Err(sherry::Error::Busy { waiting: 1 })),
        "too many tokens"
    );
    world.step();
    (0..3).for_each(|_| _ = world.submit(vec![1; 5], 5, ""));
    assert!(matches!(world.engine.submit(job(vec![1; 5])), Err(sherry::Error::Busy { waiting: 3 })), "too many jobs");
    world.run();
    assert_eq!(world.finished.len(), 4);
}

#[test]
fn a_broken_answer_ends_its_own_job_only() {
    // The embedding of token 7 is not a number; the head is a matrix of its own.
    let mut broken = Arc::into_inner(model(Family::Llama)).unwrap();
    let embed = &broken.weights.embed;
    let mut values = vec![0.0; embed.rows() * embed.cols()];
    values.chunks_exact_mut(embed.cols()).enumerate().for_each(|(row, out)| embed.row_f32(row, out));
    values[7 * embed.cols()] = f32::NAN;
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let (rows, cols) = (embed.rows(), embed.cols());
    let ty = sherry_kernels::format::TensorType::F32;
    broken.weights.embed = sherry_kernels::Matrix::from_rows(ty, rows, cols, bytes.into()).unwrap();
    let broken = Arc::new(broken);

    let run = |prompts: &[Vec<u32>]| {
        let options = Options { max_running: 4, logit_rows: 8, pages: 20, ..Options::new(600, 1) };
        let mut engine = BatchEngine::new(decoder(&broken, Isa::best(), 2), tokenizer(), options).unwrap();
        let job = |prompt: &Vec<u32>| Job { choices: 2, ..Job::new(prompt.clone(), 8, SamplingParams::default()) };
        let ids: Vec<JobId> = prompts.iter().map(|prompt| engine.submit(job(prompt)).unwrap()).collect();
        let mut news: Vec<(Vec<u32>, Option<String>)> = vec![Default::default(); ids.len()];
        while !engine.is_idle() {
            let deliver = &mut |id, output| {
                let (tokens, failed) = &mut news[ids.iter().position(|other| *other == id).unwrap()];
                assert!(failed.is_none(), "news after the end");
                match output {
                    Output::Token { token, .. } => tokens.push(token),
                    Output::Failed(error) => *failed = Some(error.to_string()),
                    _ => {}
                }
            };
            engine.step(Budget::Tokens(64), deliver).unwrap();
        }
        assert_eq!(engine.load().used_pages, 0);
        news
    };
    let mut random = Random::new(3);
    let mut sound = || (0..300).map(|_| 8 + random.below(700) as u32).collect::<Vec<u32>>();
    let (first, second) = (sound(), sound());
    let mut bad = first.clone();
    bad[290] = 7;
    let together = run(&[first.clone(), bad, second.clone()]);
    let message = together[1].1.as_deref().unwrap();
    assert!(message.contains("output is not usable"), "{message}");
    assert_eq!([&together[0], &together[2]], [&run(&[first])[0], &run(&[second])[0]]);
    assert_eq!((together[0].0.len(), &together[0].1), (16, &None));
}
