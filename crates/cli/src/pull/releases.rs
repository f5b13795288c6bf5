//! Released models that run here, under short names.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Cache, DEMO_NAME, DEMO_REPO, Repo, Settings};

/// A released model.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Release {
    /// What users type.
    pub name: &'static str,
    /// Its repository on the hub.
    pub repo: &'static str,
    /// The one file of it that is the model; without it the folder is.
    pub file: Option<&'static str>,
    /// Parameters.
    pub parameters: &'static str,
    /// Bits per weight of the linear layers, as packed.
    pub bits: &'static str,
    /// Megabytes to download, about; as far as known.
    pub megabytes: Option<u32>,
    /// Licence, as the repository names it.
    pub licence: &'static str,
    /// What it is good for.
    pub purpose: &'static str,
}

const fn release(
    name: &'static str,
    repo: &'static str,
    [parameters, bits]: [&'static str; 2],
    megabytes: Option<u32>,
    licence: &'static str,
    purpose: &'static str,
) -> Release {
    Release { name, repo, file: None, parameters, bits, megabytes, licence, purpose }
}

const fn one_file(file: &'static str, release: Release) -> Release {
    Release { file: Some(file), ..release }
}

const FALCON: &str = "Falcon LLM 2.0";

/// All of them, small ones first in each family.
pub const RELEASES: [Release; 16] = [
    release(DEMO_NAME, DEMO_REPO, ["135 M", "16"], Some(270), "Apache-2.0", "chat in English; small, full precision"),
    one_file(
        "ggml-model-i2_s.gguf",
        release(
            "bitnet-2b",
            "microsoft/bitnet-b1.58-2B-4T-gguf",
            ["2.4 B", "1.58"],
            Some(1190),
            "MIT",
            "chat in English",
        ),
    ),
    release("falcon-e-1b", "tiiuae/Falcon-E-1B-Instruct", ["1.7 B", "1.58"], Some(665), FALCON, "chat"),
    release("falcon-e-3b", "tiiuae/Falcon-E-3B-Instruct", ["3 B", "1.58"], Some(999), FALCON, "chat"),
    release("falcon3-1b", "tiiuae/Falcon3-1B-Instruct-1.58bit", ["1 B", "1.58"], None, FALCON, "chat"),
    release("falcon3-3b", "tiiuae/Falcon3-3B-Instruct-1.58bit", ["3 B", "1.58"], None, FALCON, "chat"),
    release("falcon3-7b", "tiiuae/Falcon3-7B-Instruct-1.58bit", ["7 B", "1.58"], None, FALCON, "chat"),
    release("falcon3-10b", "tiiuae/Falcon3-10B-Instruct-1.58bit", ["10 B", "1.58"], None, FALCON, "chat"),
    release(
        "llama3-8b-1.58",
        "HF1BitLLM/Llama3-8B-1.58-100B-tokens",
        ["8 B", "1.58"],
        None,
        "Llama 3",
        "continues texts (a base model)",
    ),
    release(
        "bitnet-0.7b",
        "1bitLLM/bitnet_b1_58-large",
        ["0.7 B", "1.58"],
        None,
        "MIT",
        "continues texts; latent weights",
    ),
    release("bitnet-3b", "1bitLLM/bitnet_b1_58-3B", ["3.3 B", "1.58"], None, "MIT", "continues texts; latent weights"),
    release("trilm-99m", "SpectraSuite/TriLM_99M_Unpacked", ["99 M", "1.58"], None, "Apache-2.0", "continues texts"),
    release("trilm-560m", "SpectraSuite/TriLM_560M_Unpacked", ["560 M", "1.58"], None, "Apache-2.0", "continues texts"),
    release("trilm-1.5b", "SpectraSuite/TriLM_1.5B_Unpacked", ["1.5 B", "1.58"], None, "Apache-2.0", "continues texts"),
    release("trilm-3.9b", "SpectraSuite/TriLM_3.9B_Unpacked", ["3.9 B", "1.58"], None, "Apache-2.0", "continues texts"),
    release(
        "hy-mt-1.8b",
        "tencent/Hy-MT1.5-1.8B-1.25bit-GGUF",
        ["1.8 B", "1.25"],
        Some(457),
        "Tencent HY Community",
        "translates between 33 languages",
    ),
];

impl Release {
    /// The release that users call `name`.
    pub fn find(name: &str) -> Option<&'static Self> {
        RELEASES.iter().find(|release| release.name.eq_ignore_ascii_case(name))
    }

    /// Where it is on this machine: under models/, or in the hub's cache.
    pub fn local(&self) -> Option<PathBuf> {
        let folder = Path::new("models").join(self.repo.rsplit('/').next().unwrap_or(self.repo));
        let cached = || {
            let settings = Settings::from_env().ok()?;
            Cache::new(&settings)?.snapshot(Repo::Model(self.repo), "main")
        };
        self.model_in(&folder).or_else(|| self.model_in(&cached()?))
    }

    /// The model in a folder that holds files of the repository.
    pub fn model_in(&self, folder: &Path) -> Option<PathBuf> {
        match self.file {
            Some(file) => Some(folder.join(file)).filter(|path| path.is_file()),
            None if folder.join("config.json").is_file() => Some(folder.to_path_buf()),
            // A repository of one GGUF file whose name is not known here.
            None => {
                let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
                let mut files =
                    files.filter(|path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")));
                files.next().filter(|_| files.next().is_none())
            }
        }
    }
}
