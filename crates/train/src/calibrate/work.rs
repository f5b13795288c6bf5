//! The work folder: what is done so far, so that a run that stopped goes on where it was and ends with the same bytes.
//!
//! `progress.json` says which blocks are done and names every file with its SHA-256; it is written last and in one step.
//! A file that it does not name, or that does not match, does not count.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sherry::Progress;
use sherry::io::safetensors::Writer;
use sherry::io::{ReadMode, Safetensors, TensorInfo, TensorSource, write_atomic};
use sherry::model::ArchConfig;
use sherry_kernels::format::TensorType;

use super::adapt;
use super::adapt::AdaptationReport;
use super::block::{BlockReport, Quantized, QuantizedBlock};
use super::rounding::{Blocks, Shape};
use super::stream::Shard;
use crate::checkpoint::{self, Entry, entry};
use crate::error::{Error, Result};
use crate::layout::Kind;
use crate::run_folder::RunFolder;

const PROGRESS: &str = "progress.json";

/// The state of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    /// Everything that the result depends on.
    settings: serde_json::Value,
    /// Blocks done, in order.
    blocks: Vec<BlockReport>,
    /// How blocks that were not rounded yet were trained in between, in order.
    #[serde(default)]
    adaptations: Vec<AdaptationReport>,
    files: BTreeMap<String, Entry>,
}

/// A work folder, held by this process.
#[derive(Debug)]
pub struct Work {
    folder: RunFolder,
    state: State,
}

fn block_name(block: usize) -> String {
    format!("block-{block:04}.safetensors")
}

fn streams_name(blocks: usize) -> String {
    format!("streams-{blocks:04}.safetensors")
}

/// Of what a file of a float or block type holds; the file's metadata say which type.
const BLOCKS: &str = ".blocks";
const SUFFIXES: [&str; 4] = [".codes", ".scales", ".importance", ".latents"];

impl Work {
    /// Opens the folder, or creates it, for a run of these settings.
    ///
    /// # Errors
    /// [`Error::Locked`]; [`Error::Changed`] when the folder holds a run of other settings.
    pub fn open(path: &Path, settings: &serde_json::Value, progress: &dyn Progress) -> Result<Self> {
        let folder = RunFolder::open(path)?;
        let file = path.join(PROGRESS);
        let mut state = State { settings: settings.clone(), ..State::default() };
        if file.exists() {
            let bytes = sherry::io::read_regular(&file, sherry::io::json::MAX_JSON_BYTES)?;
            match serde_json::from_slice::<State>(&bytes) {
                Ok(found) => {
                    same_settings(&file, &found.settings, settings)?;
                    state = found;
                }
                Err(error) => progress.note(&format!("{}: {error}; beginning anew", file.display())),
            }
        }
        let mut work = Self { folder, state };
        let whole = work.verified(progress);
        work.state.blocks.truncate(whole);
        work.state.adaptations.retain(|report| report.blocks <= whole);
        Ok(work)
    }

    /// How many blocks are done and have all their files.
    fn verified(&self, progress: &dyn Progress) -> usize {
        let done = self.state.blocks.len();
        let rest = self.state.adaptations.last().map(|report| adapt::file_name(report.blocks));
        let needed = (0..done).map(block_name).chain([streams_name(done)]).chain(rest);
        let bad = needed.into_iter().find(|name| !self.is_good(name, progress));
        match bad {
            _ if done == 0 => 0,
            Some(name) => {
                progress.note(&format!("{} is damaged; rounding begins anew", self.path().join(name).display()));
                0
            }
            None => done,
        }
    }

    /// Whether the file `name` counts: it is there and is what was recorded.
    pub fn is_good(&self, name: &str, progress: &dyn Progress) -> bool {
        let expected = self.state.files.get(name);
        expected.is_some_and(|expected| entry(&self.file(name), progress).is_ok_and(|found| found == *expected))
    }

    /// Makes the file `name`, as it is now, count.
    ///
    /// # Errors
    /// [`sherry::Error::Io`].
    pub fn record(&mut self, name: &str, progress: &dyn Progress) -> Result<()> {
        let entry = entry(&self.file(name), progress)?;
        self.state.files.insert(name.to_owned(), entry);
        self.write_state()
    }

    fn write_state(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.state).unwrap_or_default();
        Ok(write_atomic(&self.file(PROGRESS), &text)?)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Reports of the blocks that are done.
    pub fn blocks(&self) -> &[BlockReport] {
        &self.state.blocks
    }

    /// Reports of the adaptations that are done.
    pub fn adaptations(&self) -> &[AdaptationReport] {
        &self.state.adaptations
    }

    /// Where the file `name` lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Keeps a block and the streams after it; what is kept counts once this returns.
    ///
    /// # Errors
    /// [`sherry::Error::Io`], for example when the disk is full; what was kept earlier stays.
    pub fn keep(
        &mut self,
        block: &QuantizedBlock,
        report: BlockReport,
        shards: &[Shard],
        progress: &dyn Progress,
    ) -> Result<()> {
        let index = report.block;
        let name = block_name(index);
        write_block(&self.file(&name), block)?;
        let streams = streams_name(index + 1);
        write_streams(&self.file(&streams), shards)?;
        for name in [name, streams] {
            let entry = entry(&self.file(&name), progress)?;
            self.state.files.insert(name, entry);
        }
        self.state.blocks.push(report);
        self.replace(&streams_name(index))
    }

    /// Makes the file `name`, with what an adaptation has trained, count instead of the one before.
    ///
    /// # Errors
    /// [`sherry::Error::Io`].
    pub fn adapted(&mut self, name: &str, report: AdaptationReport, progress: &dyn Progress) -> Result<()> {
        self.state.files.insert(name.to_owned(), entry(&self.file(name), progress)?);
        let old = self.state.adaptations.last().map(|report| adapt::file_name(report.blocks));
        self.state.adaptations.push(report);
        match old {
            Some(old) => self.replace(&old),
            None => self.write_state(),
        }
    }

    /// Writes the state without the file `old`, and then removes it.
    fn replace(&mut self, old: &str) -> Result<()> {
        self.state.files.remove(old);
        self.write_state()?;
        let old = self.file(old);
        if old.exists() {
            fs::remove_file(&old).map_err(sherry::Error::io(&old, "remove"))?;
        }
        Ok(())
    }

    /// Block `index`, which is done.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the file is not what was written.
    pub fn block(&self, arch: &ArchConfig, index: usize, progress: &dyn Progress) -> Result<QuantizedBlock> {
        read_block(&self.file(&block_name(index)), arch, progress)
    }

    /// Reads the streams after the last block that is done into `shards`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when they are not those of this text.
    pub fn streams(&self, shards: &mut [Shard], progress: &dyn Progress) -> Result<()> {
        let path = self.file(&streams_name(self.state.blocks.len()));
        let source = Safetensors::open(&path, ReadMode::Map)?;
        for (i, shard) in shards.iter_mut().enumerate() {
            let shape = [shard.original.len()];
            checkpoint::read_floats(&source, &format!("original.{i}"), &shape, &mut shard.original, progress)?;
            checkpoint::read_floats(&source, &format!("quantized.{i}"), &shape, &mut shard.quantized, progress)?;
        }
        Ok(())
    }
}

/// A tensor of f32.
pub fn floats(name: String, shape: Vec<usize>) -> TensorInfo {
    let bytes = shape.iter().product::<usize>() * 4;
    TensorInfo { name, ty: TensorType::F32, shape, bytes }
}

fn write_streams(path: &Path, shards: &[Shard]) -> Result<()> {
    let plan = shards.iter().enumerate().flat_map(|(i, shard)| {
        ["original", "quantized"].map(|name| floats(format!("{name}.{i}"), vec![shard.original.len()]))
    });
    let mut writer = Writer::create(path, &plan.collect::<Vec<_>>(), &BTreeMap::new())?;
    for (i, shard) in shards.iter().enumerate() {
        checkpoint::write_floats(&mut writer, &format!("original.{i}"), &shard.original)?;
        checkpoint::write_floats(&mut writer, &format!("quantized.{i}"), &shard.quantized)?;
    }
    Ok(writer.finish()?)
}

/// Names of what shares its inputs, in the order of [`QuantizedBlock::importance`].
const MAPS: [&str; 4] = ["qkv", "o", "gate_up", "down"];

fn write_block(path: &Path, block: &QuantizedBlock) -> Result<()> {
    let mut plan = Vec::new();
    let mut types = BTreeMap::new();
    for (kind, linear) in Kind::ALL.into_iter().zip(&block.linears) {
        let (name, bytes) = (format!("{}{}", kind.name(), SUFFIXES[3]), 2 * linear.latents.len());
        plan.push(TensorInfo { name, ty: TensorType::U8, bytes, shape: vec![bytes] });
        if let Some(Blocks { ty, bytes }) = &linear.blocks {
            types.insert(kind.name().to_owned(), ty.name().to_owned());
            let (name, bytes) = (format!("{}{BLOCKS}", kind.name()), bytes.len());
            plan.push(TensorInfo { name, ty: TensorType::U8, bytes, shape: vec![bytes] });
            continue;
        }
        let shape = vec![linear.shape.rows, linear.shape.cols];
        let name = format!("{}{}", kind.name(), SUFFIXES[0]);
        plan.push(TensorInfo { name, ty: TensorType::U8, bytes: linear.codes.len(), shape });
        let shape = vec![linear.shape.rows, linear.shape.groups()];
        plan.push(floats(format!("{}{}", kind.name(), SUFFIXES[1]), shape));
    }
    let mut vectors: Vec<(String, &[f32])> =
        vec![("attn_norm".to_owned(), &block.attn_norm), ("ffn_norm".to_owned(), &block.ffn_norm)];
    vectors.extend(MAPS.iter().zip(&block.importance).map(|(map, x)| (format!("{map}{}", SUFFIXES[2]), &x[..])));
    plan.extend(vectors.iter().map(|(name, values)| floats(name.clone(), vec![values.len()])));
    let mut writer = Writer::create(path, &plan, &types)?;
    for (kind, linear) in Kind::ALL.into_iter().zip(&block.linears) {
        let latents: Vec<u8> = linear.latents.iter().flat_map(|latent| latent.to_le_bytes()).collect();
        writer.write(&format!("{}{}", kind.name(), SUFFIXES[3]), &latents)?;
        if let Some(blocks) = &linear.blocks {
            writer.write(&format!("{}{BLOCKS}", kind.name()), &blocks.bytes)?;
            continue;
        }
        let codes: Vec<u8> = linear.codes.iter().map(|code| code.cast_unsigned()).collect();
        writer.write(&format!("{}{}", kind.name(), SUFFIXES[0]), &codes)?;
        checkpoint::write_floats(&mut writer, &format!("{}{}", kind.name(), SUFFIXES[1]), &linear.scales)?;
    }
    for (name, values) in vectors {
        checkpoint::write_floats(&mut writer, &name, values)?;
    }
    Ok(writer.finish()?)
}

fn read_block(path: &Path, arch: &ArchConfig, progress: &dyn Progress) -> Result<QuantizedBlock> {
    let source = Safetensors::open(path, ReadMode::Map)?;
    let wrong = |name: &str| Error::checkpoint(path, format!("tensor '{name}' is missing or has the wrong shape"));
    let vector = |name: &str, len: usize| -> Result<Vec<f32>> {
        let mut values = vec![0.0; len];
        checkpoint::read_floats(&source, name, &[len], &mut values, progress)?;
        Ok(values)
    };
    let linears = Kind::ALL.into_iter().map(|kind| {
        let (codes_name, scales_name) =
            (format!("{}{}", kind.name(), SUFFIXES[0]), format!("{}{}", kind.name(), SUFFIXES[1]));
        let [rows, cols] = kind.shape(arch);
        let latents_name = format!("{}{}", kind.name(), SUFFIXES[3]);
        let bytes = source.data(&latents_name)?;
        let (latents, rest) = bytes.as_chunks::<2>();
        let is_whole = rest.is_empty() && [0, rows * cols].contains(&latents.len());
        let latents: Vec<i16> = latents.iter().map(|bytes| i16::from_le_bytes(*bytes)).collect();
        if !is_whole {
            return Err(wrong(&latents_name));
        }
        if let Some(ty) = source.metadata().get(kind.name()) {
            let name = format!("{}{BLOCKS}", kind.name());
            let ty = TensorType::ALL.into_iter().find(|known| known.name() == ty && known.is_dequantizable());
            let ty = ty.ok_or_else(|| wrong(&name))?;
            let bytes = source.data(&name)?.to_vec();
            if ty.tensor_bytes(rows, cols) != Some(bytes.len()) {
                return Err(wrong(&name));
            }
            let (shape, blocks) = (Shape { rows, cols, group: cols }, Some(Blocks { ty, bytes }));
            return Ok(Quantized { shape, codes: Vec::new(), latents, scales: vec![1.0; rows], blocks });
        }
        let info = source.find(&codes_name).filter(|info| info.ty == TensorType::U8 && info.shape == [rows, cols]);
        info.ok_or_else(|| wrong(&codes_name))?;
        let codes = source.data(&codes_name)?.iter().map(|byte| byte.cast_signed()).collect();
        let groups = source.find(&scales_name).and_then(|info| info.shape.get(1).copied());
        let groups = groups.filter(|groups| *groups > 0 && cols % groups == 0).ok_or_else(|| wrong(&scales_name))?;
        let mut scales = vec![0.0; rows * groups];
        checkpoint::read_floats(&source, &scales_name, &[rows, groups], &mut scales, progress)?;
        Ok(Quantized { shape: Shape { rows, cols, group: cols / groups }, codes, latents, scales, blocks: None })
    });
    let widths = [arch.hidden, arch.q_dim(), arch.hidden, arch.ffn];
    let importance = |i: usize| vector(&format!("{}{}", MAPS[i], SUFFIXES[2]), widths[i]);
    Ok(QuantizedBlock {
        linears: linears.collect::<Result<_>>()?,
        attn_norm: vector("attn_norm", arch.hidden)?,
        ffn_norm: vector("ffn_norm", arch.hidden)?,
        importance: [importance(0)?, importance(1)?, importance(2)?, importance(3)?],
    })
}

/// Refuses to go on with other settings than those that the file `path` names.
pub(super) fn same_settings(path: &Path, was: &serde_json::Value, now: &serde_json::Value) -> Result<()> {
    for (field, now) in now.as_object().into_iter().flatten() {
        let was = was.get(field).unwrap_or(&serde_json::Value::Null);
        if was != now {
            let (was, now) = (was.to_string(), now.to_string());
            return Err(Error::Changed { path: path.to_path_buf(), field: field.clone(), was, now });
        }
    }
    Ok(())
}
