//! Sizes of a configuration that the text or the memory of the machine cannot hold are refused before work begins.

use super::*;

#[test]
fn sizes_that_the_text_cannot_fill_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (overrides, field, why) in [
        (&["batch.length=1000000", "batch.size=1", "batch.accumulate=1"][..], "batch.length", "the training text has"),
        (&["batch.size=4000", "batch.accumulate=1"], "batch.size", "the training text has"),
        (&["batch.accumulate=100000"], "batch.accumulate", "the training text has"),
    ] {
        let message = train(folder.path(), "run", overrides, &NoProgress).unwrap_err().to_string();
        assert!(message.contains(&format!("field '{field}'")) && message.contains(why), "{overrides:?}: {message}");
    }
    assert!(!folder.path().join("run").exists(), "a run that never began leaves nothing");
    // A small text is no fault: some sequences then come more than once in a step.
    let notes = StopAt::new("never");
    train(folder.path(), "run", &["batch.size=300", "batch.accumulate=1", "steps=1"], &notes).unwrap();
    assert!(notes.saw("more than once"), "{:?}", notes.1);
}

#[test]
fn sizes_that_no_memory_holds_are_refused_before_the_text_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let missing = "data.train=[\"there is no such file\"]";
    for (overrides, field) in [
        (&["model.layers=4000000"][..], "model.layers"),
        (&["model.hidden=4000000", "model.heads=2000"], "model.hidden"),
        (&["model.ffn=4000000", "model.hidden=8192"], "model.ffn"),
        (&["model.head_dim=4000000", "model.hidden=8192"], "model.head_dim"),
        (&["model.vocab=4000000", "model.hidden=65536"], "model.vocab"),
        (&["data.tokenizer={ vocab = 1000000 }", "model.hidden=16384"], "data.tokenizer"),
        (&["batch.length=100000000"], "batch.length"),
        (&["batch.size=8000000"], "batch.size"),
    ] {
        let overrides = [overrides, &[missing]].concat();
        let message = train(folder.path(), "run", &overrides, &NoProgress).unwrap_err().to_string();
        let named = message.contains(&format!("field '{field}'"));
        assert!(named && message.contains("GiB are available"), "{overrides:?}: {message}");
    }
    assert!(!folder.path().join("run").exists());
}
