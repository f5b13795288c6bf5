//! Training runs: stopping, going on, exporting, reporting.

use std::fs;
#[cfg(unix)]
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use crate::fixture::{Outcome, command, is_refusal};
use crate::fixture::{document, names, refuses, run, succeeds, with_model, workplace, write_config};

/// A folder with text and a configuration of `steps` quick steps.
fn with_config(steps: usize) -> tempfile::TempDir {
    let place = workplace();
    write_config(place.path(), steps);
    place
}

/// The files of the last checkpoint of a run.
fn last_checkpoint(run: &Path) -> Vec<(String, Vec<u8>)> {
    let folder = run.join(fs::read_to_string(run.join("latest")).unwrap());
    names(&folder).into_iter().map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

/// Starts the run and gives it back once it has shown step `step`.
#[cfg(unix)]
fn started(folder: &Path, line: &str, step: usize) -> (std::process::Child, BufReader<std::process::ChildStderr>) {
    let mut child = command(folder, line.split(' ')).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut shown = String::new();
    while !shown.contains(&format!("step {step}/")) {
        shown.clear();
        assert!(stderr.read_line(&mut shown).unwrap() > 0, "ended before step {step}");
    }
    (child, stderr)
}

#[cfg(unix)]
fn signal(child: &std::process::Child) {
    let status = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[cfg(unix)]
#[test]
fn a_run_stopped_by_the_keyboard_goes_on_with_the_same_bytes() {
    let place = with_config(400);
    let folder = place.path();
    succeeds(folder, "train small.toml --run whole");
    let (child, mut stderr) = started(folder, "train small.toml --run parts", 7);
    signal(&child);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut rest).unwrap();
    let outcome: Outcome = child.wait_with_output().unwrap().into();
    assert_eq!(outcome.code, Some(130), "{outcome:?} {rest}");
    assert!(rest.contains("\n  sherry train small.toml --run parts\n"), "{rest}");
    let saved = outcome.stdout.trim();
    assert!(folder.join(saved).join("manifest.json").is_file(), "{saved}");
    // Twice: at once, and what was saved stays.
    let (child, stderr) = started(folder, "train small.toml --run parts", 40);
    signal(&child);
    signal(&child);
    drop(stderr);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    succeeds(folder, "train small.toml --run parts");
    assert!(last_checkpoint(&folder.join("parts")) == last_checkpoint(&folder.join("whole")));
}

/// Lines of the metrics file, which holds an object per line.
fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_ends_with_what_it_came_to_and_what_comes_next() {
    let place = with_config(12);
    let folder = place.path();
    let outcome = run(folder, "train small.toml --run runs/a");
    for part in [
        "finished  at step 12 of 12: 12 steps in 0:",
        "at step 1 -> ",
        "at step 12, nats per token",
        "perplexity",
        "\n  sherry export runs/a a.sherry\n",
        "\n  sherry run a.sherry -p ",
    ] {
        assert!(outcome.stderr.contains(part), "{part}: {outcome:?}");
    }
    // Both commands work as they stand there.
    succeeds(folder, "export runs/a a.sherry --windows 1");
    succeeds(folder, "run a.sherry -p Once -n 4");
    let again = run(folder, "train small.toml --run runs/a");
    assert!(again.stderr.contains("finished  at step 12 of 12; nothing was left to do"), "{again:?}");
    let found = document(folder, "train small.toml --run runs/a");
    assert_eq!((&found["step"], &found["steps"], &found["finished"]), (&12.into(), &12.into(), &true.into()));
    assert!(found["best_valid_loss"].as_f64() > Some(0.0) && found["tokens"].as_u64() > Some(0), "{found}");
}

#[cfg(unix)]
#[test]
fn a_finished_run_is_extended_and_an_extension_goes_on_with_the_same_bytes() {
    let place = with_config(12);
    let folder = place.path();
    let arenas = "optimizer.warmup=3 optimizer.min_lr=1e-5";
    for run in ["whole", "parts"] {
        succeeds(folder, &format!("train small.toml {arenas} --run {run}"));
    }
    let found = document(folder, &format!("train small.toml {arenas} --run whole --extend 300"));
    assert_eq!((&found["step"], &found["steps"]), (&312.into(), &312.into()));
    let lines = metrics(&folder.join("whole"));
    let rate = |step: u64| lines.iter().find(|line| line["step"] == step).unwrap()["lr"].as_f64().unwrap();
    // The rate of a step is written after it: it rises from a third of the peak again, and falls to the end.
    assert_eq!([rate(1), rate(3)], [rate(13), rate(15)]);
    assert!(rate(12) < rate(13) && rate(312) < 2e-5, "{} {} {}", rate(12), rate(13), rate(312));
    let strength = |line: &serde_json::Value| line["lambda"].as_f64().unwrap_or_default();
    assert!(lines.iter().any(|line| strength(line) > 0.0));
    assert!(lines.iter().filter(|line| line["step"].as_u64() > Some(12)).all(|line| strength(line) == 0.0));

    let (child, stderr) = started(folder, &format!("train small.toml {arenas} --run parts --extend 300"), 40);
    signal(&child);
    drop(stderr);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    refuses(folder, &format!("train small.toml {arenas} --run parts --extend 5"), &["parts", "of 312", "--extend"]);
    succeeds(folder, &format!("train small.toml {arenas} --run parts"));
    assert!(last_checkpoint(&folder.join("parts")) == last_checkpoint(&folder.join("whole")));
    // Once more, and what is refused.
    let found = document(folder, &format!("train small.toml {arenas} --run parts --extend 2"));
    assert_eq!(found["step"], 314);
    refuses(folder, &format!("train small.toml {arenas} --run new --extend 2"), &["new", "at step 0 of 12"]);
    refuses(folder, &format!("train small.toml {arenas} --run parts --extend 0"), &["--extend", "at least 1"]);
    refuses(folder, &format!("train small.toml {arenas} --run parts --extend 18446744073709551615"), &["steps more"]);
    assert!(fs::read_to_string(folder.join("parts/latest")).unwrap().ends_with("314"));
}

#[cfg(unix)]
#[test]
fn a_full_disk_loses_nothing() {
    let place = with_config(30);
    let folder = place.path();
    succeeds(folder, "train small.toml --run whole");
    let (child, stderr) = started(folder, "train small.toml --run parts", 7);
    signal(&child);
    drop(stderr);
    child.wait_with_output().unwrap();
    let before = last_checkpoint(&folder.join("parts"));
    // No file may grow beyond a few kilobytes: writing the next checkpoint fails as on a full disk.
    let limited = format!(
        "trap '' XFSZ; ulimit -f 40; exec '{}' train small.toml --run parts --quiet",
        env!("CARGO_BIN_EXE_sherry")
    );
    let outcome: Outcome =
        std::process::Command::new("sh").args(["-c", &limited]).current_dir(folder).output().unwrap().into();
    is_refusal(&outcome, &["checkpoint-", "model.safetensors", "write"]);
    assert!(last_checkpoint(&folder.join("parts")) == before);
    assert!(names(&folder.join("parts")).iter().all(|name| !name.contains("tmp")));
    succeeds(folder, "train small.toml --run parts");
    assert!(last_checkpoint(&folder.join("parts")) == last_checkpoint(&folder.join("whole")));
}

#[test]
fn bad_configurations_are_named() {
    let place = with_config(3);
    let folder = place.path();
    fs::write(folder.join("copy.txt"), fs::read(folder.join("train.txt")).unwrap()).unwrap();
    fs::write(folder.join("empty.txt"), "").unwrap();
    fs::write(folder.join("latin.txt"), b"caf\xe9").unwrap();
    for (change, parts) in [
        ("steps=0", &["small.toml", "steps"][..]),
        ("optimizer.lr=-1", &["optimizer.lr"]),
        ("data.train=[\"none.txt\"]", &["none.txt"]),
        ("data.train=[\"empty.txt\"]", &["empty.txt", "no text"]),
        ("data.train=[\"latin.txt\"]", &["latin.txt", "not UTF-8 at byte 3"]),
        ("data.valid=[\"train.txt\"]", &["data.valid", "train.txt"]),
        ("data.valid=[\"copy.txt\"]", &["data.valid", "copy.txt", "holds the same as"]),
        ("data.tokenizer=nowhere", &["nowhere"]),
        ("data.tokenizer.vocab=9", &["data.tokenizer.vocab", "259"]),
        ("quantizer.quads=stride16", &["quantizer", "multiple of 64"]),
        ("model.vocab=100", &["model.vocab", "100 rows"]),
        ("nonsense", &["KEY=VALUE"]),
    ] {
        refuses(folder, &format!("train small.toml {change} --run new"), parts);
    }
    refuses(folder, "train none.toml", &["none.toml"]);
    succeeds(folder, "train small.toml --run done");
    refuses(folder, "train small.toml --run done --resume never", &["already holds a checkpoint of step 3"]);
    refuses(folder, "train small.toml --run done seed=9", &["field 'seed' was 1 and is now 9"]);
    refuses(folder, "train small.toml --run done --resume no/such", &["no/such"]);
}

#[test]
fn runs_are_exported_and_reported() {
    let place = with_config(40);
    let folder = place.path();
    succeeds(folder, "train small.toml --run a");
    succeeds(folder, "train small.toml --run b quantizer.method=dlt");
    let found = document(folder, "export a packed --windows 2");
    assert!(found["same_top"].as_f64() > Some(0.9), "{found}");
    refuses(folder, "export a packed", &["packed", "exists already"]);
    refuses(folder, "export b other", &["cannot be exported: DLT", "--dense"]);
    assert_eq!(run(folder, "export b other --dense --quiet").code, Some(0));
    refuses(folder, "export nowhere other", &["nowhere"]);
    refuses(folder, "export a x.gguf", &["rows of 32 weights, GGUF blocks hold 256"]);
    let ids = document(folder, "inspect packed");
    assert!(ids.is_object());

    assert_eq!(succeeds(folder, "report a b -q").trim(), "report.html");
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("dlt, per row, Arenas cosine"));
    assert!(page.contains("<code>sherry train small.toml --run b quantizer.method=dlt</code>"));
    refuses(folder, "report a", &["report.html", "exists already; --force replaces it"]);
    assert_eq!(fs::read_to_string(folder.join("report.html")).unwrap(), page);
    let outcome = run(folder, "report a small.toml -q --force");
    assert!(outcome.code == Some(2) && outcome.stderr.contains("small.toml: not JSON"), "{outcome:?}");
    refuses(folder, "report packed", &["packed", "no run folder"]);

    assert!(succeeds(folder, "tokenizer own train.txt --vocab 280 -q").contains("280 tokens"));
    refuses(folder, "tokenizer own train.txt", &["own", "--force"]);
    refuses(folder, "tokenizer new train.txt --vocab 5", &["259"]);
    refuses(folder, "tokenizer new none.txt", &["none.txt"]);
    assert!(!folder.join("new").exists());
}

/// The smallest recipe of all, shortened: what it exports runs, is measured, converted and inspected, as a folder and as
/// GGUF.
#[test]
fn a_model_on_bytes_speaks() {
    let place = with_config(1);
    let folder = place.path();
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/byte-level.toml");
    fs::copy(recipe, folder.join("bytes.toml")).unwrap();
    let texts = r#"data.train=["train.txt"] data.valid=["valid.txt"]"#;
    let short = format!("steps=2 batch.size=2 model.layers=1 metrics.valid_sequences=2 {texts}");
    succeeds(folder, &format!("train bytes.toml --run bytes {short}"));
    for out in ["packed", "packed.gguf"] {
        let found = document(folder, &format!("export bytes {out} --windows 1"));
        assert!(found["same_top"].as_f64() > Some(0.9), "{found}");
        assert!(document(folder, &format!("inspect {out}")).is_object());
        succeeds(folder, &format!("run {out} -p The --raw -n 8 --temp 0 -q"));
        let measured = document(folder, &format!("eval {out} --ppl valid.txt"));
        assert!(measured.to_string().contains("perplexity"), "{measured}");
    }
    succeeds(folder, "convert packed.gguf back");
    // Where a form does not exist, the message names the checkpoint.
    succeeds(folder, &format!("train bytes.toml --run narrow quantizer.quads=contiguous {short}"));
    refuses(folder, "export narrow x.gguf", &["narrow/checkpoint-00000002: ", "head size 32 is not a multiple of 64"]);
    // Going on from it needs no word about the tokenizer.
    let next = "model.from=bytes/checkpoint-00000002";
    let text = fs::read_to_string(folder.join("small.toml")).unwrap();
    let shape = "hidden = 32\nffn = 64\nlayers = 2\nheads = 2\n";
    let text = text.replace(shape, "").replace("tokenizer = { vocab = 300 }\n", "");
    fs::write(folder.join("next.toml"), text).unwrap();
    succeeds(folder, &format!("train next.toml --run next {next}"));
}

/// The run of the paper, on a tiny model of the same family and a few shards of text.
#[test]
fn the_papers_run_starts_from_its_files() {
    let place = with_model();
    let folder = place.path();
    let configs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs"));
    fs::create_dir_all(folder.join("data/ultrafineweb/data/en")).unwrap();
    // JSON lines take the place of Parquet, which nothing here writes.
    for shard in 0..3 {
        let line = |i: usize| {
            format!("{{\"content\": \"Text {i} of shard {shard}: the tide rises, the tide falls.\", \"score\": 0.9}}\n")
        };
        let lines: String = (0..200).map(line).collect();
        fs::write(folder.join(format!("data/ultrafineweb/data/en/part-{shard:02}.jsonl")), lines).unwrap();
    }
    let small = [
        "model.from=dense",
        "data.train=[\"data/ultrafineweb/**/*.jsonl\"]",
        "data.valid_fraction=0.05",
        "data.max_tokens=9000",
        "steps=2",
        "batch.length=64",
        "batch.size=2",
        "batch.accumulate=2",
        "batch.document_mask=true",
    ];
    let mut files = vec![configs.join("llama-3.2-1b.toml")];
    files.extend(fs::read_dir(configs.join("baselines")).unwrap().map(|entry| entry.unwrap().path()));
    assert_eq!(files.len(), 11);
    let table = |path: &Path| fs::read_to_string(path).unwrap().parse::<toml::Table>().unwrap();
    let paper = table(&files[0]);
    for (at, file) in files.iter().enumerate() {
        let mut own = table(file);
        for section in ["quantizer", "arenas"] {
            own.insert(section.to_owned(), paper[section].clone());
        }
        assert_eq!(own, paper, "{}: differs in more than the method", file.display());
        let run = format!("run-{at}");
        let mut command = command(folder, ["train"]);
        let outcome: Outcome = command.arg(file).args(small).args(["--run", &run]).output().unwrap().into();
        assert_eq!(outcome.code, Some(0), "{}: {outcome:?}", file.display());
        let lines = metrics(&folder.join(&run));
        assert!(lines.iter().any(|line| line["step"] == 2 && line["valid_loss"].as_f64() > Some(0.0)), "{lines:?}");
        assert!(names(&folder.join(&run)).iter().any(|name| name.starts_with("events.out.tfevents.")));
    }
    let state = fs::read_to_string(folder.join("run-0/checkpoint-00000002/state.json")).unwrap();
    assert!(state.contains("\"tokens\": 512"), "{state}");
    // What is not there is named with the pattern.
    let plain = ["model.from=dense", "steps=2"];
    let outcome: Outcome = command(folder, ["train"]).arg(&files[0]).args(plain).output().unwrap().into();
    is_refusal(&outcome, &["data/ultrafineweb/**/*.parquet", "no file has a name of this pattern"]);
}

/// A grid of two lines and one seed, as anybody can run it: every run is made once, and a table comes out.
#[cfg(unix)]
#[test]
fn an_ablation_grid_makes_its_table() {
    let place = workplace();
    let folder = place.path();
    write_config(folder, 1);
    fs::write(folder.join("grid"), "# two of them\nf32 quantizer.method=none arenas.shape=off\n\nsherry\n").unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/arenas/run.sh");
    let grid = |grid: &str| -> Outcome {
        let mut command = std::process::Command::new(script);
        command.args(["runs", grid, "steps=2", "batch.size=1", "metrics.valid_sequences=1", "metrics.probe_every=1"]);
        command.args([r#"data.train=["train.txt"]"#, r#"data.valid=["valid.txt"]"#]);
        command.env("SHERRY", env!("CARGO_BIN_EXE_sherry")).env("SEEDS", "7").current_dir(folder);
        command.output().unwrap().into()
    };
    let outcome = grid("grid");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("f32, seed 7: \"valid_loss\":") && outcome.stdout.contains("sherry, seed 7"));
    let lines = metrics(&folder.join("runs/sherry-7"));
    assert_eq!(lines.last().unwrap()["step"], 2);
    if std::process::Command::new("python3").arg("--version").output().is_ok() {
        assert!(outcome.stdout.contains("| method | validation loss | above f32 |"), "{outcome:?}");
        assert!(outcome.stdout.contains("\n| sherry | "), "{outcome:?}");
    }
    // What is done is not done again; a run that fails ends the grid with its message.
    assert!(!grid("grid").stdout.contains("seed 7"));
    fs::write(folder.join("wrong"), "x quantizer.method=int3\n").unwrap();
    let outcome = grid("wrong");
    assert!(
        outcome.code != Some(0) && outcome.stderr.contains("is \"int3\", must be one of none, sherry"),
        "{outcome:?}"
    );
    let outcome = grid("none");
    assert!(outcome.code == Some(2) && outcome.stderr.contains("baselines methods scales schedules"), "{outcome:?}");
}
