//! Hundreds of random jobs at once: each gets what it gets alone, to the bit.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sherry::batch::{BatchEngine, Budget, CacheScope, ClientId, JobId, Options, Output};
use sherry::model::{KvType, Model};
use sherry_kernels::Isa;

use super::model::{Random, decoder, model, tokenizer};
use super::reference::{Answer, Choice, Plain, answer};

/// How an engine runs.
#[derive(Clone, Copy, Debug)]
struct Setup {
    isa: Isa,
    kv: KvType,
    threads: usize,
    context: usize,
    pages: usize,
    running: usize,
    prefix_cache: bool,
    /// Whether a pass costs more than tokens, so that tokens are proposed.
    cheap_tokens: bool,
    /// Whether all jobs are such that the two-stage head may find their tokens.
    simple: bool,
}

/// What has happened so far, over all storms.
#[derive(Debug, Default)]
struct Tally {
    jobs: usize,
    cancelled: usize,
    preemptions: u64,
    cached: u64,
    evictions: u64,
    found_by_head: u64,
    proposed: u64,
    accepted: u64,
}

fn storm(model: &Arc<Model>, setup: Setup, jobs: usize, random: &mut Random, tally: &mut Tally) {
    let tokenizer = tokenizer();
    let options = Options {
        pages: setup.pages,
        kv: setup.kv,
        max_running: setup.running,
        logit_rows: setup.running + random.below(40),
        max_waiting_tokens: usize::MAX,
        prefix_cache: setup.prefix_cache,
        ..Options::new(setup.context, 1)
    };
    let texts: Vec<Vec<u32>> =
        (0..3).map(|_| (0..1 + random.below(setup.context - 60)).map(|_| random.token()).collect()).collect();
    let plain = (0..jobs).map(|_| Plain::random(random, &texts, setup.context));
    let mut plain: Vec<Plain> = plain.map(|plain| if setup.simple { plain.simple() } else { plain }).collect();
    plain.iter_mut().for_each(|plain| plain.choices = plain.choices.min(setup.running));
    let mut engine =
        BatchEngine::new(decoder(model, setup.isa, setup.threads), Arc::clone(&tokenizer), options).unwrap();

    let mut waiting = plain.iter().enumerate();
    let mut running: HashMap<JobId, (usize, Answer)> = HashMap::new();
    let mut finished: Vec<Option<Answer>> = vec![None; jobs];
    let mut stalled: Option<(JobId, usize)> = None;
    let mut steps = 0;
    let (mut now, mut last) = (Duration::ZERO, Duration::ZERO);
    loop {
        // Jobs come a few at a time.
        while !random.once_in(3)
            && let Some((index, plain)) = waiting.next()
        {
            let mut job = plain.job();
            job.scope = CacheScope(["", "", "", "other"][random.below(4)].into());
            job.client = ClientId(["x", "y", "z"][random.below(3)].into());
            let choices = vec![Choice::default(); plain.choices];
            let id = engine.submit(job).unwrap();
            running.insert(id, (index, Answer { choices, ..Answer::default() }));
        }
        if let Some((id, choice)) = stalled.take() {
            engine.set_stalled(id, choice, false);
        }
        let mut ids: Vec<JobId> = running.keys().copied().collect();
        ids.sort_unstable();
        if !ids.is_empty() && random.once_in(400) {
            let id = ids[random.below(ids.len())];
            assert!(engine.cancel(id) && !engine.cancel(id));
            running.remove(&id);
            tally.cancelled += 1;
        } else if ids.len() > 1 && random.once_in(4) {
            let place = (ids[random.below(ids.len())], random.below(3));
            engine.set_stalled(place.0, place.1, true);
            stalled = Some(place);
        }
        if running.is_empty() && waiting.len() == 0 {
            break;
        }
        let budget = if random.once_in(2) {
            Budget::Tokens(1 + random.below(150))
        } else {
            Budget::Time { now, last, target: Duration::from_millis(80) }
        };
        let report = engine.step(budget, &mut |id, output| take(&mut running, &mut finished, id, output)).unwrap();
        // Costs that change all the time: the plan follows them, the answers do not.
        let (pass, token) = if setup.cheap_tokens { (random.below(4000), 20) } else { (0, 20 + random.below(4000)) };
        last = Duration::from_micros((pass + token * report.work.tokens) as u64);
        engine.observe(last);
        now += last;
        steps += 1;
        assert!(steps < 100_000, "no end: {:?}", engine.load());
    }
    let load = engine.load();
    assert_eq!((load.running, load.waiting, load.used_pages), (0, 0, 0), "{setup:?}");
    tally.jobs += jobs;
    tally.preemptions += load.preemptions;
    tally.cached += load.cached_tokens;
    tally.evictions += load.evictions;
    tally.proposed += load.proposed_tokens;
    tally.accepted += load.accepted_tokens;
    tally.found_by_head += engine.decoder().head_statistics().found;
    assert!(setup.prefix_cache || load.cached_tokens == 0 && load.cached_pages == 0);

    let mut alone = decoder(model, setup.isa, 1);
    for (plain, found) in plain.iter().zip(&finished) {
        let Some(found) = found else { continue };
        let expected = answer(&mut alone, &tokenizer, setup.kv, setup.context, plain);
        assert_eq!(found, &expected, "{setup:?}: {plain:?}");
    }
}

/// Notes the news of a job.
fn take(running: &mut HashMap<JobId, (usize, Answer)>, finished: &mut [Option<Answer>], id: JobId, output: Output) {
    let (index, answer) = running.get_mut(&id).expect("news of a job that is not there");
    match output {
        Output::Prompt { done, total, cached } => assert!(cached <= done && done <= total),
        Output::PromptScores { first, scores } => {
            let before = answer.prompt_scores.len();
            assert!(before == 0 || first >= before, "scores come in order, each once");
            answer.prompt_scores.extend(scores);
        }
        Output::Token { choice, token, text, score } => {
            let choice = &mut answer.choices[choice];
            choice.tokens.push(token);
            choice.text.push_str(&text);
            choice.scores.extend(score);
        }
        Output::Finished { choice, finish, text, tokens } => {
            let choice = &mut answer.choices[choice];
            choice.text.push_str(&text);
            assert_eq!(choice.tokens.len(), tokens);
            assert_eq!(choice.finish.replace(finish), None, "a choice ends once");
            if answer.choices.iter().all(|choice| choice.finish.is_some()) {
                finished[*index] = Some(std::mem::take(answer));
                running.remove(&id);
            }
        }
        Output::Failed(error) => panic!("{error}"),
    }
}

/// 320 jobs: every KV type, every instruction set, 1 to 8 threads, slabs from two pages to plenty, with the prefix cache and
/// without.
#[test]
fn every_job_gets_what_it_gets_alone() {
    let models = [model(false), model(true)];
    let isas: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();
    let mut random = Random::new(2024);
    let mut tally = Tally::default();
    for round in 0..16 {
        let context = [512, 512, 700, 300][round % 4];
        let few = usize::div_ceil(context, 256);
        let setup = Setup {
            isa: isas[round % isas.len()],
            kv: KvType::ALL[(round / 2) % 4],
            threads: [1, 2, 3, 8][(round + round / 4) % 4],
            context,
            pages: [few, few + 1, few + 3, 64][(round + round / 3) % 4],
            running: [16, 8, 16, 1][(round / 2) % 4],
            prefix_cache: round % 3 != 2,
            cheap_tokens: round % 4 < 2,
            simple: round % 4 == 3,
        };
        storm(&models[usize::from(round % 5 == 4)], setup, 20, &mut random, &mut tally);
    }
    assert_eq!(tally.jobs, 320);
    // Otherwise the test would have become too easy.
    assert!(tally.cancelled > 10 && tally.preemptions > 5 && tally.cached > 2000 && tally.evictions > 20, "{tally:?}");
    assert!(tally.found_by_head > 5, "{tally:?}");
    assert!(tally.accepted > 200 && tally.proposed > tally.accepted + 100, "{tally:?}");
}
