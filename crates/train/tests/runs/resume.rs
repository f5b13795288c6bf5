//! What going on depends on: which checkpoint, whose configuration, which contents.

use serde_json::Value;

use super::*;

fn names(run: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(run).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn resume(
    folder: &Path,
    run: &str,
    from: &Path,
    overrides: &[&str],
    progress: &dyn Progress,
) -> Result<Outcome, Error> {
    Trainer::open(config(folder, overrides), &folder.join(run), &Resume::From(from.into()), progress)?.run(progress)
}

#[test]
fn a_run_that_goes_back_keeps_what_it_writes_then() {
    let folder = tempfile::tempdir().unwrap();
    let overrides = ["steps=9", "checkpoint.every=1", "checkpoint.keep=9", "metrics.valid_every=0"];
    let whole = train(folder.path(), "run", &overrides, &NoProgress).unwrap();
    let run = folder.path().join("run");
    let old = run.join("checkpoint-00000003");
    let changed = ["steps=9", "checkpoint.every=1", "checkpoint.keep=1", "metrics.valid_every=0"];
    let notes = StopAt::new("step 5/");
    let back = resume(folder.path(), "run", &old, &changed, &notes).unwrap();
    assert_eq!(back.step, 5);
    assert!(notes.saw("abandoned-00000009"), "{:?}", notes.1);
    verify(&run.join("checkpoint-00000005")).unwrap();
    assert_eq!(fs::read_to_string(run.join("latest")).unwrap(), "checkpoint-00000005");
    let checkpoints =
        |prefix: &str| names(&run).into_iter().filter(|name| name.starts_with(prefix)).collect::<Vec<_>>();
    assert_eq!(checkpoints("checkpoint-"), ["checkpoint-00000005"]);
    assert_eq!(checkpoints("abandoned-").len(), 6, "nothing is lost");
    verify(&run.join("abandoned-00000009")).unwrap();
    // Going on by itself means from there.
    let notes = StopAt::new("never");
    let last = train(folder.path(), "run", &changed, &notes).unwrap();
    assert!(notes.saw("resuming at step 5"), "{:?}", notes.1);
    assert_same_parameters(&run.join("abandoned-00000009"), &last.checkpoint);
    assert_eq!(whole.step, last.step);
    // And once more: names that are taken are not taken again.
    resume(folder.path(), "run", &run.join("abandoned-00000003"), &changed, &NoProgress).unwrap_err();
}

#[track_caller]
fn assert_same_parameters(a: &Path, b: &Path) {
    let name = "model.safetensors";
    assert!(fs::read(a.join(name)).unwrap() == fs::read(b.join(name)).unwrap());
}

#[test]
fn a_checkpoint_of_another_run_is_gone_on_from_in_a_folder_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let overrides = ["steps=4", "checkpoint.every=2", "metrics.valid_every=0"];
    let first = train(folder.path(), "first", &overrides, &NoProgress).unwrap();
    let start = folder.path().join("first/checkpoint-00000002");
    let second = resume(folder.path(), "second", &start, &overrides, &NoProgress).unwrap();
    assert_same_checkpoint(&first.checkpoint, &second.checkpoint);
    let message = resume(folder.path(), "second", &start, &overrides, &NoProgress).unwrap_err().to_string();
    assert!(message.contains("holds a checkpoint of step 4 of its own"), "{message}");
    let message = resume(folder.path(), "third", &folder.path().join("first"), &overrides, &NoProgress).unwrap_err();
    assert!(message.to_string().contains("is no checkpoint"), "{message}");
    assert!(!folder.path().join("third").exists());
}

/// Rewrites a checkpoint's state, and the manifest with it.
fn rewrite(checkpoint: &Path, change: impl FnOnce(&mut Value)) {
    let path = checkpoint.join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut state);
    let text = serde_json::to_vec_pretty(&state).unwrap();
    fs::write(&path, &text).unwrap();
    let path = checkpoint.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let hash = <sha2::Sha256 as sha2::Digest>::digest(&text);
    manifest["files"]["state.json"] = serde_json::json!({ "bytes": text.len(), "sha256": sherry::io::hex(&hash) });
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn runs_of_other_versions_go_on_or_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let overrides = ["steps=4", "metrics.valid_every=2"];
    let whole = train(folder.path(), "whole", &overrides, &NoProgress).unwrap();
    train(folder.path(), "run", &overrides, &StopAt::new("step 2/")).unwrap();
    let stopped = folder.path().join("run/checkpoint-00000002");
    // An earlier version knew fewer fields, and wrote a loss that is not a number as null.
    rewrite(&stopped, |state| {
        for field in ["validated", "valid", "teacher"] {
            state.as_object_mut().unwrap().remove(field).unwrap();
        }
        for (section, field) in [("optimizer", "clip"), ("batch", "recompute"), ("model", "window")] {
            state["config"][section].as_object_mut().unwrap().remove(field).unwrap();
        }
        state["best"] = serde_json::json!([null, 2]);
    });
    let last = train(folder.path(), "run", &overrides, &NoProgress).unwrap();
    assert_same_checkpoint(&whole.checkpoint, &last.checkpoint);

    rewrite(&last.checkpoint, |state| state["config"]["optimizer"]["momentum"] = 0.5.into());
    let message = train(folder.path(), "run", &overrides, &NoProgress).unwrap_err().to_string();
    assert!(message.contains("checkpoint-00000004") && message.contains("momentum"), "{message}");
}

#[test]
fn contents_are_compared_not_names() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let teacher = train(folder.path(), "teacher", &["steps=1", "quantizer.method=none"], &NoProgress).unwrap();
    let other = train(folder.path(), "other", &["steps=1", "quantizer.method=none", "seed=4"], &NoProgress).unwrap();
    let with = |teacher: &Path| {
        let teacher = format!("loss.teacher={}", teacher.display());
        ["steps=3".to_owned(), "loss.distillation=1".to_owned(), teacher]
    };
    let go_on = |overrides: &[String]| {
        let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
        train(folder.path(), "run", &overrides, &NoProgress)
    };
    go_on(&with(&teacher.checkpoint)).unwrap();
    let changed = |result: Result<Outcome, Error>| match result {
        Err(Error::Changed { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(changed(go_on(&with(&other.checkpoint))), "loss.teacher (contents)");
    assert_eq!(changed(go_on(&with(&teacher.checkpoint)[..1])), "loss.distillation");
    fs::rename(&teacher.checkpoint, at("moved")).unwrap();
    go_on(&with(&at("moved"))).unwrap();

    // The same text under another name, and another text under the same name.
    let [valid, train_text] = ["valid.txt", "train.txt"].map(at);
    for (name, overrides) in [("train.txt", "data.train"), ("valid.txt", "data.valid")] {
        fs::copy(at(name), at("copy.txt")).unwrap();
        let overrides = [&with(&at("moved"))[..], &[format!("{overrides}=[{:?}]", at("copy.txt"))]].concat();
        go_on(&overrides).unwrap();
    }
    let text_before = fs::read(&valid).unwrap();
    fs::write(&valid, "Another text.\n".repeat(30)).unwrap();
    assert_eq!(changed(go_on(&with(&at("moved")))), "data.valid (contents)");
    let without = [&with(&at("moved"))[..], &["data.valid=[]".to_owned()]].concat();
    assert_eq!(changed(go_on(&without)), "data.valid (contents)");
    fs::write(&valid, text_before).unwrap();
    fs::write(&train_text, text(150)).unwrap();
    assert_eq!(changed(go_on(&with(&at("moved")))), "data.train (contents)");
}

#[test]
fn a_base_model_that_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let base = train(folder.path(), "base", &["steps=1", "quantizer.method=none"], &NoProgress).unwrap().checkpoint;
    let next = || {
        let text = format!(
            "steps = 2\n[model]\nfrom = {base:?}\n[optimizer]\nlr = 1e-3\n[batch]\nlength = 32\nsize = 2\n\
             [data]\ntrain = [{:?}]\ntokenizer = \"bytes\"\n",
            folder.path().join("train.txt")
        );
        let config = Config::parse(Path::new("next.toml"), &text, &[]).unwrap();
        Trainer::open(config, &folder.path().join("next"), &Resume::Auto, &NoProgress)?.run(&NoProgress)
    };
    next().unwrap();
    let path = base.join("config.json");
    let mut described: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    described["rope_theta"] = 5e5.into();
    fs::write(&path, described.to_string()).unwrap();
    let message = next().unwrap_err().to_string();
    assert!(message.contains("model.from (config.json): rope_theta"), "{message}");
}

#[test]
fn a_validation_that_is_not_a_number_does_not_end_a_run_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    // A head of huge weights makes logits that overflow once in validation, while training has not begun to look.
    let overrides = ["steps=4", "metrics.valid_every=1", "checkpoint.every=1"];
    let good = train(folder.path(), "run", &overrides, &StopAt::new("step 1/")).unwrap();
    rewrite(&good.checkpoint, |state| state["best"] = serde_json::json!([null, 1]));
    let last = train(folder.path(), "run", &overrides, &NoProgress).unwrap();
    assert!(last.finished);
    let state = checkpoint::read_state(&last.checkpoint).unwrap();
    assert!(state.best.is_some_and(|(loss, step)| loss.is_finite() && step > 1), "{:?}", state.best);
}

#[test]
fn weights_that_are_not_numbers_are_never_saved() {
    let folder = tempfile::tempdir().unwrap();
    let overrides =
        ["steps=40", "optimizer.lr=1000", "optimizer.clip=0", "checkpoint.every=1", "metrics.valid_every=0"];
    let error = match train(folder.path(), "run", &overrides, &NoProgress) {
        Err(error @ Error::NotFinite { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let kept = run_folder::newest(&folder.path().join("run"), &NoProgress).unwrap().unwrap();
    assert!(error.contains(&kept.path().display().to_string()), "{error}");
    let trainer =
        Trainer::open(config(folder.path(), &overrides), &folder.path().join("run"), &Resume::Auto, &NoProgress);
    assert!(trainer.unwrap().params().iter().all(|x| x.is_finite()));
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    for change in ["data.train=[\"none.txt\"]", "data.tokenizer=nowhere", "quantizer.scale=group", "model.vocab=3"] {
        train(folder.path(), "new", &[change], &NoProgress).unwrap_err();
        assert!(!folder.path().join("new").exists(), "{change}");
    }
    // Nor a lock in a run that there was.
    train(folder.path(), "run", &["steps=2"], &NoProgress).unwrap();
    let before = names(&folder.path().join("run"));
    assert!(!before.contains(&"lock".to_owned()), "{before:?}");
    train(folder.path(), "run", &["steps=2", "seed=9"], &NoProgress).unwrap_err();
    assert_eq!(names(&folder.path().join("run")), before);
}

#[test]
fn one_process_at_a_time_however_they_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    fs::create_dir(&run).unwrap();
    let inside = std::sync::atomic::AtomicUsize::new(0);
    let held = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    match RunFolder::open(&run) {
                        Ok(folder) => {
                            use std::sync::atomic::Ordering::SeqCst;
                            assert_eq!(inside.fetch_add(1, SeqCst), 0, "two hold the lock");
                            held.fetch_add(1, SeqCst);
                            std::thread::yield_now();
                            inside.fetch_sub(1, SeqCst);
                            drop(folder);
                        }
                        Err(Error::Locked(_)) => std::thread::yield_now(),
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    assert!(held.into_inner() > 10);
}

/// A process killed at any point of replacing a checkpoint by one of the same step leaves one of them.
#[test]
fn a_checkpoint_that_was_being_replaced_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let saved = train(folder.path(), "run", &["steps=3"], &NoProgress).unwrap().checkpoint;
    let run = folder.path().join("run");
    fs::rename(&saved, saved.with_extension("replaced")).unwrap();
    fs::create_dir(saved.with_extension("tmp")).unwrap();
    let notes = StopAt::new("never");
    let again = train(folder.path(), "run", &["steps=3"], &notes).unwrap();
    assert!(notes.saw("resuming at step 3") && again.checkpoint == saved, "{:?}", notes.1);
    fs::create_dir(saved.with_extension("replaced")).unwrap();
    train(folder.path(), "run", &["steps=3"], &NoProgress).unwrap();
    let strange = |name: &String| name.contains('.') && !name.contains("json") && !name.contains(".tfevents.");
    assert!(!names(&run).iter().any(strange), "{:?}", names(&run));
}

#[test]
fn damaged_checkpoints_do_not_push_out_good_ones() {
    let folder = tempfile::tempdir().unwrap();
    let overrides = ["steps=8", "checkpoint.every=2", "checkpoint.keep=1", "metrics.valid_every=0"];
    let whole = train(folder.path(), "whole", &overrides, &NoProgress).unwrap();
    let parts = ["steps=8", "checkpoint.every=2", "checkpoint.keep=3", "metrics.valid_every=0"];
    train(folder.path(), "run", &parts, &NoProgress).unwrap();
    let run = folder.path().join("run");
    for step in [6, 8] {
        fs::write(run.join(format!("checkpoint-{step:08}/model.safetensors")), b"damaged").unwrap();
    }
    train(folder.path(), "run", &overrides, &StopAt::new("step 5/")).unwrap();
    verify(&run.join("checkpoint-00000005")).unwrap();
    let last = train(folder.path(), "run", &overrides, &NoProgress).unwrap();
    assert_same_parameters(&whole.checkpoint, &last.checkpoint);
}

/// The clock stands still while something else than steps takes time.
#[test]
fn tokens_per_second_are_those_of_steps() {
    let folder = tempfile::tempdir().unwrap();
    let overrides =
        ["steps=12", "metrics.every=4", "metrics.valid_every=3", "metrics.valid_sequences=0", "metrics.probe_every=0"];
    config(folder.path(), &overrides);
    fs::write(folder.path().join("valid.txt"), text(3000).split_off(text(230).len())).unwrap();
    let run = folder.path().join("run");
    let mut trainer = Trainer::open(config(folder.path(), &overrides), &run, &Resume::Auto, &NoProgress).unwrap();
    // When the last thing happened, how long steps took since the last speed, how many tokens there were before it.
    let clock = Mutex::new((std::time::Instant::now(), Duration::ZERO, 0));
    let speeds = Mutex::new(0);
    trainer
        .run_watched(&NoProgress, &|event| {
            let mut clock = clock.lock().unwrap();
            let (last, spent, before) = &mut *clock;
            match event {
                Event::Step { .. } => *spent += last.elapsed(),
                Event::Line(line) => {
                    if let Some(speed) = line.tokens_per_second {
                        let tokens = line.tokens.unwrap() - std::mem::replace(before, line.tokens.unwrap());
                        let (told, seen) = (tokens as f64 / speed, std::mem::take(spent).as_secs_f64());
                        assert!(told <= seen && told > 0.8 * seen - 0.005, "{told} s told, {seen} s seen");
                        *speeds.lock().unwrap() += 1;
                    }
                }
                Event::Saved(_) => {}
            }
            *last = std::time::Instant::now();
        })
        .unwrap();
    assert_eq!(speeds.into_inner().unwrap(), 3);
}
