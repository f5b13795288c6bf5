//! Whole runs of tiny models: resuming, killing, damage, refusals, learning, exporting.

mod interrupts;
mod resume;
mod sizes;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use sherry::io::ReadMode;
use sherry::model::{Checkpoint, QkNorm};
use sherry::{NoProgress, Progress};
use sherry_convert::Embeddings;
use sherry_train::checkpoint::{self, Verified};
use sherry_train::export::{Comparison, Request};
use sherry_train::rng::Rng;
use sherry_train::run_folder::{self, RunFolder};
use sherry_train::{Config, Error, Event, Outcome, Resume, Trainer};

/// A text with structure to learn.
fn text(lines: usize) -> String {
    let mut rng = Rng::new(1, 1);
    let words = ["the cat ", "a dog ", "sat on ", "the mat. ", "ran home. "];
    (0..lines)
        .map(|_| words.iter().map(|w| if rng.below(8) > 0 { w } else { "and " }).collect::<String>() + "\n")
        .collect()
}

fn config(folder: &Path, overrides: &[&str]) -> Config {
    let (train, valid) = (folder.join("train.txt"), folder.join("valid.txt"));
    if !train.exists() {
        fs::write(&train, text(200)).unwrap();
        fs::write(&valid, text(230).split_off(text(200).len())).unwrap();
    }
    let toml = format!(
        "steps = 12\nseed = 3\nthreads = 2\n\
         [model]\nhidden = 32\nffn = 64\nlayers = 2\nheads = 2\nkv_heads = 1\n\
         [optimizer]\nlr = 3e-3\nwarmup = 2\nweight_decay = 0.1\n\
         [batch]\nlength = 32\nsize = 2\naccumulate = 2\n\
         [data]\ntrain = [{train:?}]\nvalid = [{valid:?}]\ntokenizer = \"bytes\"\ncache = {:?}\n\
         [checkpoint]\nevery = 3\n[metrics]\nevery = 1\nprobe_every = 4\nvalid_every = 5\nvalid_sequences = 3\n",
        folder.join("cache")
    );
    let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
    Config::parse(Path::new("test.toml"), &toml, &overrides).unwrap()
}

fn train(folder: &Path, run: &str, overrides: &[&str], progress: &dyn Progress) -> Result<Outcome, Error> {
    Trainer::open(config(folder, overrides), &folder.join(run), &Resume::Auto, progress)?.run(progress)
}

fn verify(checkpoint: &Path) -> Result<Verified, Error> {
    Verified::open(checkpoint, &NoProgress)
}

fn export(run: &Path, out: &Path, dense: bool) -> Result<Comparison, Error> {
    let request = Request { embeddings: Embeddings::Keep, fallback: None, dense, overwrite: false, windows: 4 };
    sherry_train::export::export(run, out, &request, &NoProgress)
}

/// Asks to stop once a note contains a text; keeps all notes.
struct StopAt(&'static str, Mutex<Vec<String>>);

impl Progress for StopAt {
    fn start(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
    fn note(&self, line: &str) {
        self.1.lock().unwrap().push(line.to_owned());
    }
    fn is_cancelled(&self) -> bool {
        self.1.lock().unwrap().iter().any(|line| line.contains(self.0))
    }
}

impl StopAt {
    fn new(text: &'static str) -> Self {
        Self(text, Mutex::default())
    }
    fn saw(&self, text: &str) -> bool {
        self.1.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

#[track_caller]
fn assert_same_checkpoint(a: &Path, b: &Path) {
    for name in ["model.safetensors", "optimizer.safetensors", "state.json", "config.json"] {
        let (a, b) = (fs::read(a.join(name)).unwrap(), fs::read(b.join(name)).unwrap());
        assert!(a == b, "{name} differs");
    }
}

/// Metric lines without what depends on the clock.
fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let parse = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().remove("tokens_per_second");
        value
    };
    text.lines().map(parse).collect()
}

#[test]
fn a_stopped_run_ends_with_the_bytes_of_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    for (name, overrides) in [
        ("plain", vec![]),
        ("learned", vec!["quantizer.method=dlt", "batch.recompute=true"]),
        ("groups", vec!["quantizer.scale=group", "quantizer.group_size=32", "optimizer.schedule=wsd"]),
    ] {
        let whole = train(folder.path(), &format!("{name}-whole"), &overrides, &NoProgress).unwrap();
        assert!(whole.finished && whole.valid_loss.is_some());
        let run = format!("{name}-parts");
        let first = train(folder.path(), &run, &overrides, &StopAt::new("step 4/")).unwrap();
        assert_eq!((first.step, first.finished), (4, false));
        let second = train(folder.path(), &run, &overrides, &StopAt::new("step 8/")).unwrap();
        assert_eq!(second.step, 8);
        let last = train(folder.path(), &run, &overrides, &NoProgress).unwrap();
        assert_same_checkpoint(&whole.checkpoint, &last.checkpoint);
        assert_eq!((last.loss, last.valid_loss), (whole.loss, whole.valid_loss));
        assert_eq!(metrics(&folder.path().join(&run)), metrics(&folder.path().join(format!("{name}-whole"))));
    }
}

#[test]
fn a_prepared_run_begins_where_another_program_can_take_over() {
    let folder = tempfile::tempdir().unwrap();
    let overrides = ["steps=3"];
    let whole = train(folder.path(), "whole", &overrides, &NoProgress).unwrap();
    let run = folder.path().join("prepared");
    let open = || Trainer::open(config(folder.path(), &overrides), &run, &Resume::Auto, &NoProgress).unwrap();
    let prepared = open().prepare().unwrap();
    verify(&prepared).unwrap();
    assert_eq!(prepared, run.join("checkpoint-00000000"));
    assert_eq!(open().prepare().unwrap(), prepared);
    let index: serde_json::Value = serde_json::from_slice(&fs::read(run.join("data.json")).unwrap()).unwrap();
    for part in ["train", "valid"] {
        let cached = folder.path().join("cache").join(index[part]["file"].as_str().unwrap());
        let tokens = index[part]["tokens"].as_u64().unwrap();
        assert_eq!(fs::metadata(cached).unwrap().len(), 88 + 2 * tokens);
    }
    assert_eq!(checkpoint::read_state(&prepared).unwrap().data, index["train"]["hash"].as_str().unwrap());
    let last = train(folder.path(), "prepared", &overrides, &NoProgress).unwrap();
    assert_same_checkpoint(&whole.checkpoint, &last.checkpoint);
}

#[test]
fn the_number_of_threads_does_not_change_the_bytes_here() {
    let folder = tempfile::tempdir().unwrap();
    let params = |threads: &str| {
        let config = config(folder.path(), &["steps=3", threads]);
        let mut trainer = Trainer::open(config, &folder.path().join(threads), &Resume::Auto, &NoProgress).unwrap();
        trainer.run(&NoProgress).unwrap();
        trainer.params().to_vec()
    };
    // Not promised for every machine and shape: gemm may cut products differently.
    assert_eq!(params("threads=1"), params("threads=2"));
}

#[test]
#[ignore = "no test of its own: what `a_killed_run_goes_on_as_if_nothing_had_happened` starts and kills"]
fn child_process() {
    let folder = PathBuf::from(std::env::var_os("SHERRY_TRAIN_CHILD").expect("the test that starts it sets this"));
    train(&folder, "killed", &["checkpoint.every=1"], &NoProgress).unwrap();
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let folder = tempfile::tempdir().unwrap();
    let whole = train(folder.path(), "whole", &["checkpoint.every=1"], &NoProgress).unwrap();
    let mut rng = Rng::new(std::process::id().into(), 0);
    let mut kills = 0;
    for _ in 0..200 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_process", "--ignored"])
            .env("SHERRY_TRAIN_CHILD", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The first kill comes at once; then long enough to get a little further, however slow the machine is.
        let wait = Duration::from_millis(if kills == 0 { 1 } else { 5 + rng.below(40 * (1 + kills / 4)) as u64 });
        std::thread::sleep(wait);
        match child.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success(), "the resumed run failed");
                break;
            }
            None => {
                child.kill().unwrap(); // SIGKILL
                child.wait().unwrap();
                kills += 1;
            }
        }
    }
    let run = folder.path().join("killed");
    let last = train(folder.path(), "killed", &["checkpoint.every=1"], &NoProgress).unwrap();
    assert!(last.finished && kills > 0);
    assert_same_checkpoint(&whole.checkpoint, &last.checkpoint);
    let left: Vec<_> = fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.ends_with(".tmp") && !name.ends_with(".old")), "{left:?}");
}

#[test]
fn damaged_checkpoints_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let overrides = ["steps=6", "checkpoint.keep=9"];
    let whole = train(folder.path(), "run", &overrides, &NoProgress).unwrap();
    let newest = whole.checkpoint;
    let copy = folder.path().join("copy");
    fs::create_dir(&copy).unwrap();
    let names: Vec<_> = fs::read_dir(&newest).unwrap().map(|e| e.unwrap().file_name()).collect();
    for name in &names {
        fs::copy(newest.join(name), copy.join(name)).unwrap();
    }
    let mut rng = Rng::new(9, 9);
    for name in &names {
        let good = fs::read(newest.join(name)).unwrap();
        let mut cuts = vec![0, good.len() - 1];
        cuts.extend((0..10).map(|_| rng.below(good.len())));
        for cut in cuts {
            fs::write(newest.join(name), &good[..cut]).unwrap();
            assert!(verify(&newest).is_err(), "{name:?} cut at {cut}");
            let mut flipped = good.clone();
            flipped[cut] ^= 1 << rng.below(7);
            // A flip inside the manifest's white space or digits of its own is for the other files to notice.
            fs::write(newest.join(name), &flipped).unwrap();
            assert!(name == "manifest.json" || verify(&newest).is_err(), "{name:?} flipped at {cut}");
        }
        fs::remove_file(newest.join(name)).unwrap();
        assert!(verify(&newest).is_err());
        fs::write(newest.join(name), &good).unwrap();
        verify(&newest).unwrap();
    }
    fs::write(newest.join("model.safetensors"), b"half").unwrap();
    let notes = StopAt::new("never");
    let again = train(folder.path(), "run", &overrides, &notes).unwrap();
    assert!(notes.saw("falling back") && notes.saw("resuming at step 5"), "{:?}", notes.1);
    assert_same_checkpoint(&copy, &again.checkpoint);
}

#[test]
fn changed_runs_and_second_processes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(folder.path(), "run", &["steps=3"], &NoProgress).unwrap();
    for (change, field) in
        [("optimizer.lr=1e-4", "optimizer.lr"), ("seed=4", "seed"), ("model.layers=1", "model.layers")]
    {
        let message = train(folder.path(), "run", &["steps=3", change], &NoProgress).unwrap_err().to_string();
        assert!(message.contains(&format!("field '{field}' was")), "{message}");
    }
    let config_of = |overrides: &[&str]| config(folder.path(), overrides);
    let never = Trainer::open(config_of(&["steps=3"]), &run, &Resume::Never, &NoProgress).err().unwrap();
    assert!(never.to_string().contains("already holds a checkpoint of step 3"), "{never}");

    let holder = RunFolder::open(&run).unwrap();
    let locked = train(folder.path(), "run", &["steps=3"], &NoProgress).unwrap_err();
    assert!(matches!(locked, Error::Locked(_)), "{locked}");
    drop(holder);

    fs::write(folder.path().join("train.txt"), text(150)).unwrap();
    let message = train(folder.path(), "run", &["steps=3"], &NoProgress).unwrap_err().to_string();
    assert!(message.contains("data.train (contents)"), "{message}");
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run_and_keeps_what_was_good() {
    let folder = tempfile::tempdir().unwrap();
    let good = train(folder.path(), "run", &["steps=6"], &StopAt::new("step 3/")).unwrap();
    let run = folder.path().join("run");
    let trainer = Trainer::open(config(folder.path(), &["steps=6"]), &run, &Resume::Auto, &NoProgress).unwrap();
    let layout = trainer.network().layout.clone();
    drop(trainer);
    let mut loaded = verify(&good.checkpoint).unwrap().load(&layout, &NoProgress).unwrap();
    loaded.params[layout.final_norm.start] = f32::NAN;
    loaded.state.step += 1;
    let poisoned = RunFolder::open(&run).unwrap();
    poisoned.save(&layout, &loaded.params, &loaded.moments, &loaded.state, &[]).unwrap();
    drop(poisoned);
    let error = train(folder.path(), "run", &["steps=6"], &NoProgress).unwrap_err();
    assert!(matches!(error, Error::NotFinite { step: 5, what: "loss", .. }), "{error}");
    verify(&good.checkpoint).unwrap();
}

#[test]
fn every_method_learns() {
    let folder = tempfile::tempdir().unwrap();
    for method in ["none", "sherry", "absmean", "absmedian", "twn", "binary", "lsq", "seq", "dlt", "tequila"] {
        let overrides =
            ["steps=40", "checkpoint.every=40", "batch.accumulate=1", &format!("quantizer.method={method}")];
        let outcome = train(folder.path(), method, &overrides, &NoProgress).unwrap();
        let valid = outcome.valid_loss.unwrap();
        assert!(valid < 3.6, "{method}: validation loss {valid} (uniform: 5.55)");
        let last = metrics(&folder.path().join(method)).pop().unwrap();
        assert_eq!(last["lambda"], 0.0);
        if method != "none" {
            assert!(last["effective_rank"]["down"].as_f64().unwrap() >= 1.0 && last["flip_rate"].is_f64(), "{last}");
            let bins: Vec<f64> = serde_json::from_value(last["histogram"]["up"].clone()).unwrap();
            assert!(bins.len() == 24 && (bins.iter().sum::<f64>() - 1.0).abs() < 1e-3, "{bins:?}");
        }
        let (run, out) = (folder.path().join(method), folder.path().join(format!("{method}-packed")));
        match (method, export(&run, &out, false)) {
            ("none" | "dlt" | "tequila", Err(error)) => {
                let message = error.to_string();
                assert!(message.contains("cannot be exported"), "{message}");
                assert_eq!(message.contains("--dense"), method != "tequila", "{message}");
                if method != "tequila" {
                    let found = export(&run, &out, true).unwrap();
                    assert!(found.same_top > 0.99 && found.max_logit_difference < 1e-2, "{method}: {found:?}");
                }
            }
            (_, found) => {
                let found = found.unwrap();
                assert!(found.is_good(), "{method}: {found:?}");
            }
        }
        let left = fs::read_dir(folder.path()).unwrap().flatten();
        assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with('.')), "{method}");
    }
}

/// Rows of 256 weights fit GGUF blocks: every packed method has an exact GGUF form there, whatever shares a scale.
#[test]
fn gguf_files_hold_what_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    let shape = ["model.hidden=256", "model.ffn=256", "model.layers=1", "model.heads=4", "model.kv_heads=4"];
    for (run, quantizer) in [
        ("stride", "method=sherry quads=stride16"),
        ("blocks", "method=sherry quads=stride16 scale=group group_size=256"),
        ("contiguous", "method=sherry"),
        ("tensor", "method=sherry scale=tensor"),
        ("binary", "method=binary scale=group group_size=256"),
        ("lsq", "method=lsq"),
        ("gemma", "method=sherry model.family=gemma3 model.window=5"),
    ] {
        let full =
            |field: &str| if field.starts_with("model.") { field.to_owned() } else { format!("quantizer.{field}") };
        let fields: Vec<String> = quantizer.split(' ').map(full).collect();
        let steps = ["steps=4", "batch.accumulate=1", "metrics.valid_every=0", "metrics.probe_every=0"];
        let overrides: Vec<&str> = shape.into_iter().chain(steps).chain(fields.iter().map(String::as_str)).collect();
        train(folder.path(), run, &overrides, &NoProgress).unwrap();
        let (run, out) = (folder.path().join(run), folder.path().join(format!("{run}.gguf")));
        let found = export(&run, &out, false).unwrap();
        assert!(found.is_good(), "{run:?}: {found:?}");
    }
    let grouped = [&shape[..], &["steps=1", "quantizer.scale=group", "quantizer.group_size=64"]].concat();
    train(folder.path(), "grouped", &grouped, &NoProgress).unwrap();
    let message = export(&folder.path().join("grouped"), &folder.path().join("x.gguf"), false).unwrap_err().to_string();
    assert!(message.contains("a scale per 64 weights"), "{message}");
    assert!(!folder.path().join("x.gguf").exists());
}

#[test]
fn other_families_begin_from_nothing_and_are_exported() {
    let folder = tempfile::tempdir().unwrap();
    for (family, more) in [("qwen3", &[][..]), ("gemma3", &["model.window=8", "model.window_pattern=2"])] {
        let name = format!("model.family={family}");
        let overrides = [&[&name, "steps=60", "checkpoint.every=60", "metrics.valid_every=0"], more].concat();
        let run = train(folder.path(), family, &overrides, &NoProgress).unwrap();
        assert!(run.valid_loss.unwrap() < 3.2, "{family}: {run:?}");
        let out = folder.path().join(format!("{family}-packed"));
        let found = export(&folder.path().join(family), &out, false).unwrap();
        assert!(found.is_good() && found.max_logit_difference < 0.3, "{family}: {found:?}");
        let packed = Checkpoint::open(&out, ReadMode::Map).unwrap();
        let config = packed.config();
        assert_eq!(config.qk_norm, Some(QkNorm::BeforeRope));
        let gemma = family == "gemma3";
        assert_eq!((config.is_sliding(0), config.is_sliding(1), config.post_norms), (gemma, false, gemma));
    }
}

#[test]
fn a_teacher_teaches_and_the_pupil_is_exported() {
    let folder = tempfile::tempdir().unwrap();
    let wide = ["model.hidden=64", "steps=60", "checkpoint.every=60", "metrics.valid_every=0"];
    let teacher =
        train(folder.path(), "teacher", &[&wide[..], &["quantizer.method=none"]].concat(), &NoProgress).unwrap();
    let teacher = teacher.checkpoint.to_str().unwrap().to_owned();
    for divergence in ["forward", "reverse", "cakld", "top-k"] {
        let (path, kind) = (format!("loss.teacher={teacher}"), format!("loss.divergence={divergence}"));
        let kd = [&path, &kind, "loss.distillation=1", "loss.cross_entropy=0.2", "loss.top_k=20"];
        let run = train(folder.path(), divergence, &[&wide[..], &kd[..]].concat(), &NoProgress).unwrap();
        assert!(run.valid_loss.unwrap() < 3.2, "{divergence}: {run:?}");
        let lines = metrics(&folder.path().join(divergence));
        let first = lines[0]["divergence"].as_f64().unwrap();
        let last = lines.last().unwrap()["divergence"].as_f64().unwrap();
        assert!(last < 0.7 * first, "{divergence}: {first} to {last}");
    }
    let (run, out) = (folder.path().join("cakld"), folder.path().join("packed"));
    let found = export(&run, &out, false).unwrap();
    assert!(found.is_good() && found.max_logit_difference < 0.3, "{found:?}");
    assert!(export(&run, &out, false).is_err(), "the output exists");

    train(folder.path(), "early", &wide, &StopAt::new("step 30/")).unwrap();
    let early = folder.path().join("early");
    let message = export(&early, &folder.path().join("x"), false).unwrap_err();
    assert!(message.to_string().contains("lambda is still"), "{message}");
    assert!(!folder.path().join("x").exists());
}

#[test]
fn training_goes_on_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let base = train(folder.path(), "base", &["steps=30", "quantizer.method=none"], &NoProgress).unwrap();
    let from = base.checkpoint.to_str().unwrap();
    let text = format!(
        "steps = 2\n[model]\nfrom = {from:?}\n[quantizer]\nmethod = \"none\"\n[optimizer]\nlr = 1e-9\n\
         [batch]\nlength = 32\nsize = 2\n[data]\ntrain = [{:?}]\nvalid = [{:?}]\ntokenizer = \"bytes\"\n\
         [metrics]\nvalid_sequences = 3\n",
        folder.path().join("train.txt"),
        folder.path().join("valid.txt")
    );
    let config = Config::parse(Path::new("next.toml"), &text, &[]).unwrap();
    let mut trainer = Trainer::open(config, &folder.path().join("next"), &Resume::Auto, &NoProgress).unwrap();
    let next = trainer.run(&NoProgress).unwrap();
    assert!((next.valid_loss.unwrap() - base.valid_loss.unwrap()).abs() < 1e-4, "{next:?} {base:?}");
}
