//! Models whose files are read range by range are the models that are read as a whole.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use sherry::io::{FileData, ModelFiles, PulledFile, RangeRead as _, ReadMode};
use sherry::model::names::Naming;
use sherry::model::{Checkpoint, Decoder, Family, KvCache, KvType, Loading, Model, Wanted, config_hf, synthetic};
use sherry_kernels::{Engine, Isa, Pool, Precision};

/// The model inside the program.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/model/sherry-tiny.gguf");

/// Files of which every range has to be asked for.
struct Pulled {
    contents: BTreeMap<String, Vec<u8>>,
    files: BTreeMap<String, Arc<PulledFile>>,
    /// What was asked for.
    asked: Vec<(String, Range<usize>)>,
}

impl Pulled {
    fn new(contents: BTreeMap<String, Vec<u8>>) -> Self {
        let files =
            contents.iter().map(|(name, bytes)| (name.clone(), Arc::new(PulledFile::new(bytes.len())))).collect();
        Self { contents, files, asked: Vec::new() }
    }

    fn model_files(&self) -> ModelFiles {
        let data = |file: &Arc<PulledFile>| FileData::Ranges(Arc::<PulledFile>::clone(file));
        let parts = self.files.iter().map(|(name, file)| (name.clone(), data(file))).collect();
        ModelFiles::Parts { name: "parts".into(), parts }
    }

    /// Brings what is missing; whether something was.
    fn bring(&mut self) -> bool {
        for (name, file) in &self.files {
            if let Some(range) = file.missing() {
                file.give(range.start, self.contents[name][range.clone()].to_vec().into());
                self.asked.push((name.clone(), range));
                assert!(self.asked.len() < 1000, "{:?}", self.asked);
                return true;
            }
        }
        false
    }

    fn until<T>(&mut self, mut attempt: impl FnMut() -> sherry::Result<T>) -> sherry::Result<T> {
        loop {
            match attempt() {
                Err(_) if self.bring() => {}
                other => return other,
            }
        }
    }

    fn load(&mut self) -> sherry::Result<(Checkpoint, Model)> {
        let files = self.model_files();
        let checkpoint = self.until(|| Checkpoint::from_files(files.clone()))?;
        self.files.values().for_each(|file| file.release(0..file.len()));
        let (mut loading, pool) = (Loading::default(), Pool::new(1));
        loop {
            for name in loading.wanted(&checkpoint) {
                self.until(|| checkpoint.source().data(name))?;
            }
            let more = loading.step(&checkpoint, &pool)?;
            self.files.values().for_each(|file| file.release(0..file.len()));
            if !more {
                let model = loading.finish(&checkpoint).expect("nothing is left");
                return Ok((checkpoint, model));
            }
        }
    }
}

fn logits(model: Model) -> Vec<f32> {
    let mut decoder = Decoder::new(Arc::new(model), Engine::new(Isa::best(), 1, Precision::Int8));
    let mut cache = KvCache::new(decoder.config(), 256, KvType::F16).unwrap();
    decoder.forward_one(&mut cache, &[1, 5, 9, 30], Wanted::Last).unwrap().last().unwrap().to_vec()
}

fn loaded(path: &Path) -> Model {
    Checkpoint::open(path, ReadMode::Read).unwrap().load(&Pool::new(2), &sherry::NoProgress).unwrap()
}

#[test]
fn a_gguf_file() {
    let bytes = std::fs::read(TINY).unwrap();
    let largest = 900_000; // the embedding is the largest tensor
    let mut pulled = Pulled::new(BTreeMap::from([("any name".to_owned(), bytes)]));
    let (checkpoint, model) = pulled.load().unwrap();
    let by_path = Checkpoint::open(TINY.as_ref(), ReadMode::Read).unwrap();
    assert_eq!(checkpoint.describe(), by_path.describe());
    let text = "Once upon a time";
    let ids = |checkpoint: &Checkpoint| checkpoint.tokenizer().unwrap().encode(text, true, false).unwrap();
    assert_eq!(ids(&checkpoint), ids(&by_path));
    assert_eq!(logits(model), logits(loaded(TINY.as_ref())));
    // The header at once, then the tensors one by one.
    let longest = pulled.asked.iter().filter(|(_, range)| range.start > 0).map(|(_, range)| range.len()).max().unwrap();
    assert!(longest < largest && pulled.asked.len() > 20, "{longest} bytes at once in {} parts", pulled.asked.len());
}

#[test]
fn folders() {
    for (family, shards) in [(Family::Llama, false), (Family::Qwen3, false), (Family::Gemma3, true)] {
        let folder = tempfile::tempdir().unwrap();
        let config = synthetic::tiny(family);
        let source = synthetic::source(&config, Naming::HuggingFace, 3);
        source.save(&folder.path().join("model.safetensors")).unwrap();
        let json = config_hf::write(&config).unwrap().to_string();
        std::fs::write(folder.path().join("config.json"), json).unwrap();
        if shards {
            let names = sherry::io::TensorSource::tensors(&source).iter();
            let map: serde_json::Map<_, _> = names.map(|info| (info.name.clone(), "a.safetensors".into())).collect();
            let index = serde_json::json!({ "weight_map": map });
            std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
            std::fs::rename(folder.path().join("model.safetensors"), folder.path().join("a.safetensors")).unwrap();
        }
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
        };
        let contents: BTreeMap<String, Vec<u8>> = std::fs::read_dir(folder.path()).unwrap().map(read).collect();
        let (_, model) = Pulled::new(contents).load().unwrap();
        assert_eq!(logits(model), logits(loaded(folder.path())), "{family:?}");
    }
}

/// The error is that of the whole file, and comes without asking for ever.
#[test]
fn truncated_files() {
    let bytes = std::fs::read(TINY).unwrap();
    for part in 0..100 {
        let cut = bytes[..bytes.len() * part / 100].to_vec();
        let file = sherry::io::gguf::GgufFile::from_bytes("parts/x.gguf", cut.clone().into());
        let whole = file.and_then(|file| Checkpoint::from_gguf("parts/x.gguf".as_ref(), file)).unwrap_err();
        let mut pulled = Pulled::new(BTreeMap::from([("x.gguf".to_owned(), cut)]));
        assert_eq!(pulled.load().unwrap_err().to_string(), whole.to_string());
    }
}
