//! Released models that run here, under short names.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::package::{DEMO_GGUF, DEMO_NAME, DEMO_REPO, PACKAGE_REPO};
use super::{Cache, Repo, Settings};
use sherry_convert::nearest::nearest;

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

/// A release of a Hugging Face folder.
const fn folder(
    name: &'static str,
    repo: &'static str,
    [parameters, bits]: [&'static str; 2],
    megabytes: u32,
    licence: &'static str,
    purpose: &'static str,
) -> Release {
    Release { name, repo, file: None, parameters, bits, megabytes: Some(megabytes), licence, purpose }
}

/// A release of which one GGUF file is the model.
const fn gguf(name: &'static str, [repo, file]: [&'static str; 2], like: Release) -> Release {
    Release { name, repo, file: Some(file), ..like }
}

/// What the models of one maker have in common.
const fn kind(
    [parameters, bits]: [&'static str; 2],
    megabytes: Option<u32>,
    licence: &'static str,
    purpose: &'static str,
) -> Release {
    Release { name: "", repo: "", file: None, parameters, bits, megabytes, licence, purpose }
}

const FALCON3: &str = "Falcon LLM 2.0";
const FALCON_E: &str = "Falcon LLM";
const APACHE: &str = "Apache-2.0";
const HUNYUAN: &str = "Tencent Hunyuan";

const CHAT: &str = "chat in English";
const FALCON3_CHAT: &str = "chat: English, French, Spanish, Portuguese";
const QWEN_CHAT: &str = "chat in many languages";
const BITCPM_CHAT: &str = "chat in Chinese and English";
const TEXT: &str = "continues English texts";
const LATENT: &str = "continues English texts; quantized at load";
const TRANSLATION: &str = "translates between 33 languages";

/// All of them, small ones first in each family. Sizes are those of the repositories where these are known, else what the
/// shapes and types of the tensors make.
pub const RELEASES: [Release; 35] = [
    folder(DEMO_NAME, DEMO_REPO, ["135 M", "16"], 270, APACHE, "chat in English; small, full precision"),
    gguf(
        "bitnet-2b",
        ["microsoft/bitnet-b1.58-2B-4T-gguf", "ggml-model-i2_s.gguf"],
        kind(["2.4 B", "1.58"], Some(1190), "MIT", CHAT),
    ),
    folder("falcon-e-1b", "tiiuae/Falcon-E-1B-Instruct", ["1.7 B", "1.58"], 665, FALCON_E, "chat"),
    folder("falcon-e-3b", "tiiuae/Falcon-E-3B-Instruct", ["3 B", "1.58"], 999, FALCON_E, "chat"),
    folder("falcon3-1b", "tiiuae/Falcon3-1B-Instruct-1.58bit", ["1.7 B", "1.58"], 1360, FALCON3, FALCON3_CHAT),
    folder("falcon3-3b", "tiiuae/Falcon3-3B-Instruct-1.58bit", ["3.2 B", "1.58"], 2220, FALCON3, FALCON3_CHAT),
    folder("falcon3-7b", "tiiuae/Falcon3-7B-Instruct-1.58bit", ["7.5 B", "1.58"], 3270, FALCON3, FALCON3_CHAT),
    folder("falcon3-10b", "tiiuae/Falcon3-10B-Instruct-1.58bit", ["10.3 B", "1.58"], 3990, FALCON3, FALCON3_CHAT),
    folder("llama3-8b-1.58", "HF1BitLLM/Llama3-8B-1.58-100B-tokens", ["8 B", "1.58"], 3850, "Llama 3", TEXT),
    gguf(
        "bonsai-1.7b",
        ["prism-ml/Bonsai-1.7B-gguf", "Bonsai-1.7B-Q1_0.gguf"],
        kind(["1.7 B", "1"], Some(248), APACHE, QWEN_CHAT),
    ),
    gguf(
        "bonsai-4b",
        ["prism-ml/Bonsai-4B-gguf", "Bonsai-4B-Q1_0.gguf"],
        kind(["4 B", "1"], Some(572), APACHE, QWEN_CHAT),
    ),
    gguf(
        "bonsai-8b",
        ["prism-ml/Bonsai-8B-gguf", "Bonsai-8B-Q1_0.gguf"],
        kind(["8.2 B", "1"], Some(1159), APACHE, QWEN_CHAT),
    ),
    gguf(
        "ternary-bonsai-1.7b",
        ["prism-ml/Ternary-Bonsai-1.7B-gguf", "Ternary-Bonsai-1.7B-Q2_0.gguf"],
        kind(["1.7 B", "1.58"], Some(463), APACHE, QWEN_CHAT),
    ),
    gguf(
        "ternary-bonsai-4b",
        ["prism-ml/Ternary-Bonsai-4B-gguf", "Ternary-Bonsai-4B-Q2_0.gguf"],
        kind(["4 B", "1.58"], Some(1075), APACHE, QWEN_CHAT),
    ),
    gguf(
        "ternary-bonsai-8b",
        ["prism-ml/Ternary-Bonsai-8B-gguf", "Ternary-Bonsai-8B-Q2_0.gguf"],
        kind(["8.2 B", "1.58"], Some(2182), APACHE, QWEN_CHAT),
    ),
    gguf(
        "bitcpm-0.5b",
        ["openbmb/BitCPM-CANN-0.5B-gguf", "bitcpm4-0.5b-tq2_0.gguf"],
        kind(["0.5 B", "1.58"], None, APACHE, BITCPM_CHAT),
    ),
    gguf(
        "bitcpm-1b",
        ["openbmb/BitCPM-CANN-1B-gguf", "bitcpm4-1b-tq2_0.gguf"],
        kind(["1.6 B", "1.58"], Some(551), APACHE, BITCPM_CHAT),
    ),
    gguf(
        "bitcpm-3b",
        ["openbmb/BitCPM-CANN-3B-gguf", "bitcpm4-3b-tq2_0.gguf"],
        kind(["3 B", "1.58"], None, APACHE, BITCPM_CHAT),
    ),
    gguf(
        "bitcpm-8b",
        ["openbmb/BitCPM-CANN-8B-gguf", "bitcpm4-8b-tq2_0.gguf"],
        kind(["8 B", "1.58"], Some(2372), APACHE, BITCPM_CHAT),
    ),
    folder("bitcpm4-0.5b", "openbmb/BitCPM4-0.5B", ["0.4 B", "1.58"], 876, APACHE, BITCPM_CHAT),
    folder("bitcpm4-1b", "openbmb/BitCPM4-1B", ["1.4 B", "1.58"], 2730, APACHE, BITCPM_CHAT),
    folder("bitnet-0.7b", "1bitLLM/bitnet_b1_58-large", ["0.7 B", "1.58"], 2920, "MIT", LATENT),
    folder("bitnet-1.3b", "1bitLLM/bitnet_b1_58-xl", ["1.3 B", "1.58"], 5100, "MIT", LATENT),
    folder("bitnet-3b", "1bitLLM/bitnet_b1_58-3B", ["3.3 B", "1.58"], 13300, "MIT", LATENT),
    trilm("trilm-99m", "SpectraSuite/TriLM_99M_Unpacked", "99 M", 200),
    trilm("trilm-190m", "SpectraSuite/TriLM_190M_Unpacked", "190 M", 380),
    trilm("trilm-390m", "SpectraSuite/TriLM_390M_Unpacked", "390 M", 780),
    trilm("trilm-560m", "SpectraSuite/TriLM_560M_Unpacked", "560 M", 1140),
    trilm("trilm-830m", "SpectraSuite/TriLM_830M_Unpacked", "830 M", 1660),
    trilm("trilm-1.1b", "SpectraSuite/TriLM_1.1B_Unpacked", "1.1 B", 2200),
    trilm("trilm-1.5b", "SpectraSuite/TriLM_1.5B_Unpacked", "1.5 B", 3000),
    trilm("trilm-2.4b", "SpectraSuite/TriLM_2.4B_Unpacked", "2.4 B", 4800),
    trilm("trilm-3.9b", "SpectraSuite/TriLM_3.9B_Unpacked", "3.9 B", 7980),
    gguf(
        "hy-mt1.5-1.8b",
        ["AngelSlim/Hy-MT1.5-1.8B-1.25bit-GGUF", "Hy-MT1.5-1.8B-1.25bit.gguf"],
        kind(["1.8 B", "1.25"], Some(462), HUNYUAN, TRANSLATION),
    ),
    gguf(
        "hy-mt2-1.8b",
        ["tencent/Hy-MT2-1.8B-1.25Bit-GGUF", "Hy-MT2-1.8B-1.25Bit.gguf"],
        kind(["1.8 B", "1.25"], Some(462), HUNYUAN, TRANSLATION),
    ),
];

const fn trilm(name: &'static str, repo: &'static str, parameters: &'static str, megabytes: u32) -> Release {
    folder(name, repo, [parameters, "1.58"], megabytes, APACHE, TEXT)
}

impl Release {
    /// The release that users call `name`.
    pub fn find(name: &str) -> Option<&'static Self> {
        RELEASES.iter().find(|release| release.name.eq_ignore_ascii_case(name))
    }

    /// The name that is most like `name`, if one is like it.
    pub fn near(name: &str) -> Option<&'static str> {
        // Of many names, most of which look alike: only one that hardly differs was meant.
        nearest(&name.to_ascii_lowercase(), RELEASES.iter().map(|release| release.name), 0.9)
    }

    /// What gets it and runs it.
    pub fn command(&self) -> String {
        format!("sherry run {}", self.name)
    }

    /// Where it is on this machine: under models/, or in the hub's cache.
    pub fn local(&self) -> Option<PathBuf> {
        let folder = Path::new("models").join(self.repo.rsplit('/').next().unwrap_or(self.repo));
        let cached = |repo| {
            let settings = Settings::from_env().ok()?;
            model_in(&Cache::new(&settings)?.snapshot(Repo::Model(repo), "main")?, self.file)
        };
        // Where the hub cannot be reached the demo model comes as one file of a package.
        let packaged = || {
            let in_folder = Some(Path::new("models").join(DEMO_GGUF)).filter(|path| path.is_file());
            in_folder.or_else(|| cached(PACKAGE_REPO))
        };
        model_in(&folder, self.file)
            .or_else(|| cached(self.repo))
            .or_else(|| if self.name == DEMO_NAME { packaged() } else { None })
    }
}

/// The model in a folder that holds files of a repository: `file`, or the folder, or its one GGUF file. A folder of which a
/// file of weights is missing is none.
pub fn model_in(folder: &Path, file: Option<&str>) -> Option<PathBuf> {
    if let Some(file) = file {
        return Some(folder.join(file)).filter(|path| path.is_file());
    }
    if has_weights(folder) {
        return Some(folder.to_path_buf());
    }
    let mut files = files_with(folder, "gguf");
    files.next().filter(|_| files.next().is_none())
}

/// Whether a folder holds a configuration and all the safetensors files of its index.
fn has_weights(folder: &Path) -> bool {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    if !folder.join("config.json").is_file() {
        return false;
    }
    match fs::read(folder.join("model.safetensors.index.json")) {
        Ok(index) => serde_json::from_slice::<Index>(&index)
            .is_ok_and(|index| index.weight_map.values().all(|name| folder.join(name).is_file())),
        Err(_) => files_with(folder, "safetensors").next().is_some(),
    }
}

fn files_with(folder: &Path, extension: &'static str) -> impl Iterator<Item = PathBuf> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(move |path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case(extension)) && path.is_file())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_can_be_typed() {
        let mut seen = HashSet::new();
        for release in &RELEASES {
            assert!(seen.insert(release.name), "{}", release.name);
            assert!(seen.insert(release.repo), "{}", release.repo);
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
            assert!(release.name.chars().all(plain), "{}", release.name);
            assert_eq!(release.repo.matches('/').count(), 1, "{}", release.repo);
            assert_eq!(Release::find(&release.name.to_uppercase()).unwrap().repo, release.repo);
        }
    }

    #[test]
    fn a_folder_without_all_of_its_weights_is_no_model() {
        let place = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
        let found = || model_in(place.path(), None);
        put("a.gguf", "");
        assert_eq!(found(), Some(place.path().join("a.gguf")));
        put("b.gguf", "");
        assert_eq!((found(), model_in(place.path(), Some("b.gguf"))), (None, Some(place.path().join("b.gguf"))));
        put("config.json", "{}");
        assert_eq!(found(), None);
        let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
        put("model.safetensors.index.json", index);
        put("model-1.safetensors", "");
        assert_eq!(found(), None);
        put("model-2.safetensors", "");
        assert_eq!(found(), Some(place.path().to_path_buf()));
        put("model.safetensors.index.json", "nonsense");
        assert_eq!(found(), None);
    }
}
