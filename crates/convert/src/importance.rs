//! Importance of input channels in files: mean squares of what each linear layer multiplies.
//!
//! Three forms: JSON, `{"model.layers.0.mlp.up_proj.weight": [..], ..}` by Hugging Face names, and llama.cpp's importance
//! matrices by GGUF names, as GGUF (`NAME.in_sum2` and `NAME.counts`) or in the older binary form (`.dat`). Inputs are in
//! the same order in all of them: containers differ in the order of rows only.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use sherry::io::gguf::{Array, GgufFile, GgufWriter, StqId, Value};
use sherry::io::read_regular;
use sherry::io::{ReadMode, TensorInfo, TensorSource, write_atomic};
use sherry::model::Family;
use sherry::model::names::{Naming, Role};
use sherry::{Error, Result};
use sherry_kernels::format::TensorType;

/// Importance by Hugging Face weight name.
pub type Importance = HashMap<String, Vec<f32>>;

/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 30;
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// What the text was that the importance comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Names of the text.
    pub datasets: Vec<String>,
    /// Sequences.
    pub chunks: u32,
    /// Tokens per sequence.
    pub chunk_tokens: u32,
}

/// Reads any of the three forms, for a model of this family.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] naming file and entry.
pub fn read(path: &Path, family: Family) -> Result<Importance> {
    let bytes = read_regular(path, MAX_BYTES)?;
    let named_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let found = if bytes.starts_with(b"GGUF") {
        read_gguf(path, family)?
    } else if named_json || bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
        serde_json::from_slice(&bytes).map_err(|error| {
            let problem = format!("{error}: expected an object of weight names to arrays of numbers");
            Error::malformed(path, "importance", problem)
        })?
    } else {
        read_dat(path, &bytes, family)?
    };
    match found.is_empty() {
        true => Err(Error::malformed(path, "importance", "no entry for any linear layer of a block")),
        false => Ok(found),
    }
}

/// The Hugging Face name of what GGUF calls `name`, where it is a linear layer of a block.
fn hf_name(name: &str, family: Family) -> Option<String> {
    let role = Role::parse(name, family, Naming::Gguf).filter(|role| role.is_linear())?;
    role.name(family, Naming::HuggingFace)
}

fn read_gguf(path: &Path, family: Family) -> Result<Importance> {
    let file = GgufFile::open(path, ReadMode::Read)?;
    let ty = file.metadata().find_str("general.type")?;
    if ty != Some("imatrix") {
        let problem = format!("'{}', expected 'imatrix'", ty.unwrap_or_default());
        return Err(Error::malformed(path, "key 'general.type'", problem));
    }
    let mut found = HashMap::new();
    for info in file.tensors() {
        let Some(weight) = info.name.strip_suffix(SUMS) else { continue };
        let Some(name) = hf_name(weight, family) else { continue };
        let bad = |problem: &str| Error::malformed(path, format!("tensor '{}'", info.name), problem);
        let floats = |name: &str| -> Result<Vec<f32>> {
            let info = file.find(name).filter(|info| info.ty == TensorType::F32);
            info.ok_or_else(|| bad("it or its counts are missing or no F32"))?;
            let data = file.data(name)?;
            Ok(data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        };
        let (mut sums, counts) = (floats(&info.name)?, floats(&format!("{weight}{COUNTS}"))?);
        let [count] = counts[..] else { return Err(bad("one count expected: experts are not supported")) };
        if count.is_nan() || count <= 0.0 {
            return Err(bad("no tokens were counted"));
        }
        sums.iter_mut().for_each(|sum| *sum /= count);
        found.insert(name, sums);
    }
    Ok(found)
}

fn read_dat(path: &Path, bytes: &[u8], family: Family) -> Result<Importance> {
    let mut rest = bytes;
    let bad = |problem: String| Error::malformed(path, "importance matrix", problem);
    let number = |rest: &mut &[u8], what: &str| -> Result<usize> {
        let (number, after) = rest.split_first_chunk::<4>().ok_or_else(|| bad(format!("ends within {what}")))?;
        *rest = after;
        usize::try_from(i32::from_le_bytes(*number)).map_err(|_| bad(format!("{what} is negative")))
    };
    let mut found = HashMap::new();
    let entries = number(&mut rest, "the number of entries")?;
    for entry in 0..entries {
        let length = number(&mut rest, &format!("the name of entry {entry}"))?;
        let (name, after) = rest.split_at_checked(length).ok_or_else(|| bad(format!("ends within entry {entry}")))?;
        rest = after;
        let name = String::from_utf8_lossy(name).into_owned();
        let calls = number(&mut rest, &format!("the calls of '{name}'"))?;
        let count = number(&mut rest, &format!("the values of '{name}'"))?;
        let bytes = count.checked_mul(4).and_then(|bytes| rest.split_at_checked(bytes));
        let (values, after) = bytes.ok_or_else(|| bad(format!("ends within the values of '{name}'")))?;
        rest = after;
        if let Some(name) = hf_name(&name, family) {
            let values = values.as_chunks::<4>().0.iter();
            found.insert(name, values.map(|bytes| f32::from_le_bytes(*bytes) / calls.max(1) as f32).collect());
        }
    }
    Ok(found)
}

/// Writes `importance` (by Hugging Face weight name) in the form that the name `path` asks for: `.gguf` and `.dat` for
/// llama.cpp, JSON otherwise.
///
/// # Errors
/// [`Error::Io`], and [`Error::Invalid`] for a name that GGUF has no place for.
pub fn write(path: &Path, importance: &BTreeMap<String, Vec<f32>>, family: Family, origin: &Origin) -> Result<()> {
    let gguf_name = |name: &String| {
        let role = Role::parse(name, family, Naming::HuggingFace);
        let name = role.and_then(|role| role.name(family, Naming::Gguf));
        name.ok_or_else(|| Error::Invalid(format!("{}: GGUF has no place for an entry", path.display())))
    };
    let tokens = origin.chunks as f32 * origin.chunk_tokens as f32;
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    if extension == "dat" {
        let mut bytes = (importance.len() as i32).to_le_bytes().to_vec();
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend((text.len() as i32).to_le_bytes());
            bytes.extend(text.as_bytes());
        };
        for (name, values) in importance {
            text(&mut bytes, &gguf_name(name)?);
            bytes.extend((origin.chunks as i32).to_le_bytes());
            bytes.extend((values.len() as i32).to_le_bytes());
            values.iter().for_each(|value| bytes.extend((value * origin.chunks as f32).to_le_bytes()));
        }
        bytes.extend((origin.chunks as i32).to_le_bytes());
        text(&mut bytes, &origin.datasets.join(","));
        return write_atomic(path, &bytes);
    }
    if extension != "gguf" {
        let text = serde_json::to_vec(importance).map_err(|error| Error::Invalid(error.to_string()))?;
        return write_atomic(path, &text);
    }
    let metadata = vec![
        ("general.type".to_owned(), Value::String("imatrix".to_owned())),
        ("imatrix.datasets".to_owned(), Value::Array(Array::String(origin.datasets.clone().into()))),
        ("imatrix.chunk_count".to_owned(), Value::U32(origin.chunks)),
        ("imatrix.chunk_size".to_owned(), Value::U32(origin.chunk_tokens)),
    ];
    let info = |name: String, len: usize| TensorInfo { name, ty: TensorType::F32, shape: vec![1, len], bytes: 4 * len };
    let mut plan = Vec::new();
    for (name, values) in importance {
        let name = gguf_name(name)?;
        plan.extend([info(format!("{name}{SUMS}"), values.len()), info(format!("{name}{COUNTS}"), 1)]);
    }
    let mut writer = GgufWriter::create(path, metadata, plan, StqId::default())?;
    for (name, values) in importance {
        let name = gguf_name(name)?;
        let sums: Vec<u8> = values.iter().flat_map(|value| (value * tokens).to_le_bytes()).collect();
        writer.write(&format!("{name}{SUMS}"), &sums)?;
        writer.write(&format!("{name}{COUNTS}"), &tokens.to_le_bytes())?;
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn some() -> BTreeMap<String, Vec<f32>> {
        let name = |part: &str| format!("model.layers.1.{part}.weight");
        BTreeMap::from([
            (name("self_attn.q_proj"), vec![1.0, 0.25, 8.0, 0.0]),
            (name("mlp.down_proj"), vec![0.5; 6]),
            (name("mlp.gate_proj"), vec![3.0, 2.0, 1.0, 0.5]),
        ])
    }

    fn origin() -> Origin {
        Origin { datasets: vec!["books".to_owned()], chunks: 16, chunk_tokens: 512 }
    }

    #[test]
    fn every_form_gives_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.json", "a.gguf", "a.dat", "a"] {
            let path = folder.path().join(name);
            write(&path, &some(), Family::Llama, &origin()).unwrap();
            let found: BTreeMap<String, Vec<f32>> = read(&path, Family::Llama).unwrap().into_iter().collect();
            assert_eq!(found, some(), "{name}");
        }
    }

    #[test]
    fn damaged_files_are_named_and_never_panic() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.json", "a.gguf", "a.dat"] {
            let path = folder.path().join(name);
            write(&path, &some(), Family::Llama, &origin()).unwrap();
            let good = fs::read(&path).unwrap();
            for cut in 0..good.len() {
                fs::write(&path, &good[..cut]).unwrap();
                if let Err(error) = read(&path, Family::Llama) {
                    assert!(error.to_string().contains(name), "{name} {cut}: {error}");
                }
                let mut bad = good.clone();
                bad[cut] ^= 0x80;
                fs::write(&path, &bad).unwrap();
                let _ = read(&path, Family::Llama);
            }
        }
        let path = folder.path().join("x.dat");
        fs::write(&path, [0xff; 40]).unwrap();
        assert!(read(&path, Family::Llama).unwrap_err().to_string().contains("negative"));
        fs::write(&path, 0i32.to_le_bytes()).unwrap();
        assert!(read(&path, Family::Llama).unwrap_err().to_string().contains("no entry"));
    }
}
