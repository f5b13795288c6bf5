use super::*;

const MINIMAL: &str = "steps = 10\n[model]\nhidden = 16\nffn = 32\nlayers = 1\nheads = 2\n[optimizer]\nlr = 1e-3\n\
                       [batch]\nlength = 8\nsize = 2\n[data]\ntrain = [\"a.txt\"]\n";

fn parse(overrides: &[&str]) -> Result<Config, String> {
    let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
    Config::parse(Path::new("run.toml"), MINIMAL, &overrides).map_err(|error| error.to_string())
}

#[test]
fn defaults_and_overrides() {
    let config = parse(&["optimizer.lr=0.5", "quantizer.method=twn", "loss.teacher=x/y", "loss.distillation=1"]);
    let config = config.unwrap();
    assert_eq!(config.optimizer.lr, 0.5);
    assert_eq!(config.quantizer.method, Method::Twn);
    assert_eq!(config.loss.teacher, Some("x/y".into()));
    assert_eq!((config.checkpoint.keep, config.arenas.lambda_max), (2, 1.0));
}

#[test]
fn every_error_names_its_field() {
    for (overrides, expected) in [
        (vec!["optimizer.lr=-1"], "optimizer.lr"),
        (vec!["optimizer.lr=nan"], "optimizer.lr"),
        (vec!["optimizer.lr=fast"], "field 'optimizer.lr': is the text \"fast\", must be a number"),
        (vec!["optimizer.momentum=1"], "field 'optimizer.momentum': there is no such field"),
        (vec!["optimizer.warm_up=1"], "did you mean 'optimizer.warmup'? ([optimizer] has lr, min_lr"),
        (vec!["lr=1"], "did you mean 'optimizer.lr'? (the file has steps"),
        (vec!["learning_rate=1"], "did you mean 'optimizer.lr'?"),
        (vec!["batch.batch_size=1"], "did you mean 'batch.size'?"),
        (vec!["stepps=1"], "field 'stepps': there is no such field; did you mean 'steps'?"),
        (vec!["quantizer.methods=sherry"], "did you mean 'quantizer.method'?"),
        (vec!["steps=1.5"], "field 'steps': is 1.5, must be a whole number, not below zero"),
        (vec!["steps=-1"], "field 'steps': is -1, must be a whole number, not below zero"),
        (vec!["batch.recompute=1"], "field 'batch.recompute': is 1, must be true or false"),
        (vec!["data.train=a.txt"], "field 'data.train': is the text \"a.txt\", must be a list, such as [\"a.txt\"]"),
        (vec!["data.train=[1]"], "field 'data.train[0]': is 1, must be a text in quotes"),
        (vec!["data.text_field=[1]"], "field 'data.text_field': is a list, must be a text in quotes"),
        (vec!["quantizer=sherry"], "field 'quantizer': is the text \"sherry\", must be a section of fields"),
        (vec!["quantizer.method=[1]"], "field 'quantizer.method': is "),
        (vec!["quantizer.method=shery"], "did you mean sherry?"),
        (vec!["data.valid_fraction=0.6"], "field 'data.valid_fraction': is 0.6, must be between 0 and 0.5"),
        (vec!["data.valid_fraction=0.1", "data.valid=[\"v\"]"], "field 'data.valid_fraction'"),
        (vec!["data.max_tokens=0"], "field 'data.max_tokens'"),
        (vec!["steps=0"], "steps"),
        (vec!["steps=-3"], "steps"),
        (vec!["steps.x=3"], "'steps' is not a section"),
        (vec!["nonsense"], "nonsense"),
        (vec!["arenas.shape=square"], "square"),
        (vec!["arenas.warmup=1.5"], "arenas.warmup"),
        (vec!["quantizer.method=int3"], "int3"),
        (vec!["model.heads=3"], "model.heads"),
        (vec!["model.kv_heads=4"], "model.kv_heads"),
        (vec!["model.from=x"], "model.hidden"),
        (vec!["model.layers=0"], "model.layers"),
        (vec!["model.family=gpt2"], "gpt2"),
        (vec!["model.window=8"], "model.window"),
        (vec!["model.family=qwen3", "model.window_pattern=2"], "model.window_pattern"),
        (vec!["model.family=gemma3", "model.window=0"], "model.window"),
        (vec!["model.hidden=99999999999"], "model.hidden"),
        (vec!["batch.size=9999999999999"], "batch.size"),
        (vec!["loss.distillation=1"], "loss.teacher"),
        (vec!["loss.cross_entropy=0"], "loss.cross_entropy"),
        (vec!["data.train=[]"], "data.train"),
        (vec!["data.tokenizer.vocab=100"], "data.tokenizer.vocab"),
        (vec!["data.tokenizer.vocabulary=1000"], "must be a path, \"bytes\" or { vocab = N }"),
        (vec!["data.tokenizer=3"], "must be a path"),
        (vec!["data.valid=[\"a.txt\"]"], "data.valid"),
    ] {
        let message = parse(&overrides).unwrap_err();
        assert!(message.starts_with("run.toml: ") && message.contains(expected), "{overrides:?}: {message}");
        let words = ["usize", "u64", "f32", "f64", "struct", "enum", "sequence", "variant", "`"];
        assert!(!words.iter().any(|word| message.contains(word)), "{message}");
    }
    let syntax = Config::parse(Path::new("run.toml"), "seed = 1\nsteps = [\n", &[]).unwrap_err().to_string();
    assert!(syntax.starts_with("run.toml: line 2, column ") && !syntax.contains('\n'), "{syntax}");
    let twice = Config::parse(Path::new("run.toml"), "steps = 1\nsteps = 2\n", &[]).unwrap_err().to_string();
    assert_eq!(twice, "run.toml: line 2, column 1: duplicate key (steps = 2)");
    let message = |text: &str| Config::parse(Path::new("run.toml"), text, &[]).unwrap_err().to_string();
    assert_eq!(message(""), "run.toml: field 'steps': missing");
    assert_eq!(message("steps = 1"), "run.toml: section 'model': missing");
    let without = MINIMAL.replace("lr = 1e-3\n", "");
    assert_eq!(message(&without), "run.toml: field 'optimizer.lr': missing");
    assert_eq!(message(&MINIMAL.replace("length = 8\n", "")), "run.toml: field 'batch.length': missing");
}

#[test]
fn differences_name_the_field_and_forgive_bookkeeping() {
    let state = |config: Value, valid: Option<&str>| State {
        step: 1,
        cursor: 1,
        tokens: 1,
        lambda: 0.0,
        best: None,
        validated: None,
        extensions: Vec::new(),
        data: String::new(),
        valid: valid.map(str::to_owned),
        teacher: None,
        config,
    };
    let saved = serde_json::to_value(parse(&[]).unwrap()).unwrap();
    let against = |state: &State, overrides: &[&str]| {
        parse(overrides).unwrap().resumes(Path::new("x"), state).map_err(|error| error.to_string())
    };
    let old = state(saved.clone(), None);
    let free = ["threads=3", "checkpoint.keep=9", "metrics.every=1", "data.cache=elsewhere", "data.train=[\"b\"]"];
    assert_eq!(against(&old, &free), Ok(()));
    assert_eq!(against(&old, &["data.train=[\"elsewhere.txt\"]"]), Ok(()), "its contents are compared");
    let refused = |state: &State, change: &str| against(state, &[change]).unwrap_err();
    assert_eq!(
        refused(&old, "optimizer.lr=2e-3"),
        "x: cannot resume: field 'optimizer.lr' was 0.001 and is now 0.002; a run goes on with the settings that it began \
         with: repeat those, or choose another folder for the new ones"
    );
    assert!(refused(&old, "seed=2").contains("'seed'"));
    assert!(refused(&old, "data.valid=[\"v\"]").contains("'data.valid'"));
    assert_eq!(against(&state(saved.clone(), Some("hash")), &["data.valid=[\"v\"]"]), Ok(()));
    // A field of a later version is missing in a run of an earlier one.
    let mut older = saved.clone();
    older["optimizer"].as_object_mut().unwrap().remove("clip");
    older.as_object_mut().unwrap().remove("loss");
    assert_eq!(against(&state(older.clone(), None), &[]), Ok(()));
    assert!(refused(&state(older, None), "optimizer.clip=2.0").contains("'optimizer.clip' was 1.0 and is now 2.0"));
    let mut newer = saved;
    newer["optimizer"]["momentum"] = 0.5.into();
    assert!(refused(&state(newer, None), "seed=1").contains("unknown field `momentum`"));
}
