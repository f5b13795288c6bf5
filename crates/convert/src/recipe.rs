//! Recipes: which type every matrix of a model gets.
//!
//! A recipe is a small JSON file (see FORMAT.md). It names every linear layer, the embedding and, where that is not tied, the
//! head; `*` stands for the number of every block.
//!
//! ```
//! use sherry_convert::recipe::MatrixType;
//! use sherry_convert::Container;
//!
//! let ty = MatrixType::parse("sherry-1.25").unwrap();
//! // 720 bytes of codes and a scale of two bytes a row.
//! assert_eq!(ty.bytes(8, 4608, Container::Folder), Ok(8 * 722));
//! assert!(MatrixType::parse("q4_k").unwrap().bytes(8, 576, Container::Gguf).is_err());
//! ```

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sherry::io::json::{self, Fields, shown};
use sherry::io::write_atomic;
use sherry::model::ArchConfig;
use sherry::model::names::{Naming, Role};
use sherry::{Error, Result};
use sherry_kernels::format::{QuadOrder, ScaleGroup, TensorType, TernaryFormat};

use crate::container::{Container, STQ1_0_SPEC};
use crate::nearest::nearest;
use crate::quant::{Projection, QuantSpec};

/// What one matrix can become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatrixType {
    /// Ternary codes with a scale per row; in a GGUF file the block type that holds them.
    Packed(TernaryFormat),
    /// Floats or blocks of a GGUF type.
    Dense(TensorType),
}

impl MatrixType {
    /// All of them, by rising size.
    pub const ALL: [Self; 13] = [
        Self::Packed(TernaryFormat::Sherry),
        Self::Packed(TernaryFormat::Ternary167),
        Self::Packed(TernaryFormat::Ternary2),
        Self::Dense(TensorType::Q2_0),
        Self::Dense(TensorType::SQ3_0),
        Self::Dense(TensorType::Q4_0),
        Self::Dense(TensorType::Q4_K),
        Self::Dense(TensorType::Q5_0),
        Self::Dense(TensorType::Q6_K),
        Self::Dense(TensorType::Q8_0),
        Self::Dense(TensorType::F16),
        Self::Dense(TensorType::BF16),
        Self::Dense(TensorType::F32),
    ];

    /// The type called `name`, in upper or lower case; `sherry` is `sherry-1.25`.
    pub fn parse(name: &str) -> Option<Self> {
        let name = if name.eq_ignore_ascii_case("sherry") { "sherry-1.25" } else { name };
        Self::ALL.into_iter().find(|ty| ty.to_string().eq_ignore_ascii_case(name))
    }

    /// Bytes of `rows` x `cols` weights in `container`.
    ///
    /// # Errors
    /// Why the container cannot hold such rows.
    pub fn bytes(self, rows: usize, cols: usize, container: Container) -> std::result::Result<u64, String> {
        let ty = match (self, container) {
            (Self::Packed(_), Container::Folder) => {
                let layout = self.spec(container, false).map_or(Err(String::new()), |spec| spec.layout(rows, cols))?;
                return Ok((layout.rows * (layout.row_bytes() + 2 * layout.row_scales())) as u64);
            }
            (Self::Packed(format), Container::Gguf) => gguf_type(format),
            (Self::Dense(ty), _) if !container.has(ty) => return Err("GGUF has no such type; folders have".to_owned()),
            (Self::Dense(ty), _) => ty,
        };
        ty.tensor_bytes(rows, cols)
            .map(|bytes| bytes as u64)
            .ok_or_else(|| format!("it has rows of {cols} weights, {ty} blocks hold {}", ty.block_len()))
    }

    /// Whether embedding and head can have it.
    pub fn is_for_embeddings(self) -> bool {
        matches!(self, Self::Dense(ty) if !ty.is_ternary())
    }

    /// How ternary codes are made for `container`; `exact`: of weights that are their values already.
    pub(crate) fn spec(self, container: Container, exact: bool) -> Option<QuantSpec> {
        let Self::Packed(format) = self else { return None };
        let projection = match format {
            _ if exact => Projection::Exact,
            TernaryFormat::Sherry => Projection::SparseAbsMean,
            _ => Projection::AbsMean,
        };
        Some(match (container, format) {
            (Container::Folder, _) => {
                QuantSpec { format, order: QuadOrder::Contiguous, scale: ScaleGroup::Row, projection }
            }
            (Container::Gguf, TernaryFormat::Sherry) => QuantSpec { projection, ..STQ1_0_SPEC },
            // Blocks of 256 have a scale each.
            (Container::Gguf, _) => {
                let (format, scale) = (TernaryFormat::Ternary2, ScaleGroup::Group(256));
                QuantSpec { format, order: QuadOrder::Contiguous, scale, projection }
            }
        })
    }
}

/// The block type of GGUF that holds a ternary format.
pub(crate) const fn gguf_type(format: TernaryFormat) -> TensorType {
    match format {
        TernaryFormat::Sherry => TensorType::STQ1_0,
        TernaryFormat::Ternary167 => TensorType::TQ1_0,
        TernaryFormat::Ternary2 => TensorType::TQ2_0,
        TernaryFormat::Binary => TensorType::Q1_0,
    }
}

impl fmt::Display for MatrixType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packed(format) => write!(f, "{format}"),
            Self::Dense(ty) => write!(f, "{}", ty.name().to_ascii_lowercase()),
        }
    }
}

/// The types of all matrices of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// The file it is from, for messages.
    path: PathBuf,
    types: HashMap<Role, MatrixType>,
}

const VERSION: u64 = 1;
const VERSION_FIELD: &str = "sherry_recipe";
const TENSORS: &str = "tensors";
/// What wrote the recipe may leave remarks here, for people.
const ABOUT: &str = "about";
/// Likeness from which a name is worth suggesting.
const LIKE: f64 = 0.7;

/// Every matrix of the model that a recipe speaks of: linear layers, embedding, head.
pub fn matrices(config: &ArchConfig) -> impl Iterator<Item = Role> {
    Role::all(config).filter(|role| role.is_linear() || role.is_embedding())
}

impl Recipe {
    /// A recipe of `types`, to be known as `path`.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the first matrix of the model that has no type.
    pub fn new(path: &Path, config: &ArchConfig, types: HashMap<Role, MatrixType>) -> Result<Self> {
        let recipe = Self { path: path.to_path_buf(), types };
        match matrices(config).find(|role| !recipe.types.contains_key(role)) {
            None => Ok(recipe),
            Some(role) => Err(recipe.error(config, role, "is missing: a recipe says the type of every matrix")),
        }
    }

    /// The same type for all linear layers, and another for embedding and head.
    pub fn uniform(path: &Path, config: &ArchConfig, linears: MatrixType, embeddings: MatrixType) -> Self {
        let ty = |role: Role| if role.is_linear() { linears } else { embeddings };
        Self { path: path.to_path_buf(), types: matrices(config).map(|role| (role, ty(role))).collect() }
    }

    /// Reads the file `path` for models of configuration `config`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] naming the field or tensor: not a recipe, a tensor that the model does not have,
    /// that is missing or there twice, an unknown type.
    pub fn read(path: &Path, config: &ArchConfig) -> Result<Self> {
        let value = json::read(path)?;
        let fields = Fields::new(path, &value)?;
        let version = fields.u64(VERSION_FIELD)?;
        if version != VERSION {
            let what = format!("{VERSION_FIELD} is {version}; this program knows recipes of version {VERSION}");
            return Err(Error::unsupported(path, what));
        }
        let known = [VERSION_FIELD, TENSORS, ABOUT];
        if let Some((name, _)) = fields.entries().find(|(name, _)| !known.contains(name)) {
            let hint = suggestion(name, known.into_iter());
            return Err(fields.error(name, format!("recipes have no such field{hint}")));
        }
        let entries = fields.opt_fields(TENSORS)?.ok_or_else(|| fields.error(TENSORS, "missing"))?;
        // A name that is written out goes before a pattern.
        let (mut named, mut matched) = (HashMap::new(), HashMap::new());
        for (name, value) in entries.entries() {
            let ty = entry_type(&entries, name, value)?;
            let is_pattern = name.contains('*');
            let types = if is_pattern { &mut matched } else { &mut named };
            for role in roles(path, config, name)? {
                if role.is_embedding() && !ty.is_for_embeddings() {
                    let known = MatrixType::ALL.into_iter().filter(|ty| ty.is_for_embeddings());
                    let problem = format!("embedding and head cannot be {ty}; they can be {}", listed(known));
                    return Err(Error::malformed(path, format!("tensor '{}'", shown(name)), problem));
                }
                if types.insert(role, ty).is_some() {
                    let what = if is_pattern { "two patterns" } else { "two names" };
                    let problem = format!("{} has a type by {what}", display(config, role));
                    return Err(Error::malformed(path, format!("tensor '{}'", shown(name)), problem));
                }
            }
        }
        matched.extend(named);
        Self::new(path, config, matched)
    }

    /// Writes it to `path`, which it is then known as, with remarks of any form.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is another file and `overwrite` does not say that it may go; [`Error::Io`].
    pub fn write(&mut self, path: &Path, config: &ArchConfig, about: Value, overwrite: bool) -> Result<()> {
        let mut value = json!({ VERSION_FIELD: VERSION });
        if !about.is_null() {
            value[ABOUT] = about;
        }
        value[TENSORS] = self.to_json(config);
        let text = serde_json::to_string_pretty(&value).map_err(|error| Error::Invalid(error.to_string()))? + "\n";
        if !overwrite && path.exists() && std::fs::read(path).ok().as_deref() != Some(text.as_bytes()) {
            let problem = "exists already and is not this recipe; --force replaces it";
            return Err(Error::Invalid(format!("{}: {problem}", path.display())));
        }
        self.path = path.to_path_buf();
        write_atomic(path, text.as_bytes())
    }

    /// Names and types, in the order of the model.
    pub fn to_json(&self, config: &ArchConfig) -> Value {
        let entry = |role: Role| Some((display(config, role), Value::from(self.types.get(&role)?.to_string())));
        Value::Object(matrices(config).filter_map(entry).collect::<Map<_, _>>())
    }

    /// The type of a matrix; `None` of what is none.
    pub fn get(&self, role: Role) -> Option<MatrixType> {
        self.types.get(&role).copied()
    }

    /// Refuses what `container` cannot hold.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the recipe and the tensor, with the types that fit it.
    pub fn check(&self, config: &ArchConfig, container: Container) -> Result<()> {
        for role in matrices(config) {
            let (Some(ty), &[rows, cols]) = (self.get(role), &role.shape(config)[..]) else { continue };
            let Err(problem) = ty.bytes(rows, cols, container) else { continue };
            let fits = MatrixType::ALL
                .into_iter()
                .filter(|ty| (role.is_linear() || ty.is_for_embeddings()) && ty.bytes(rows, cols, container).is_ok());
            let file = if container == Container::Gguf { "a GGUF file" } else { "a native folder" };
            return Err(self.error(
                config,
                role,
                &format!("cannot be {ty} in {file}: {problem}; it can be {}", listed(fits)),
            ));
        }
        Ok(())
    }

    /// Bytes of linear layers, of embedding and head, and weights of the linear layers; of what `container` can hold.
    pub fn bytes(&self, config: &ArchConfig, container: Container) -> [u64; 3] {
        matrices(config).fold([0; 3], |[linears, embeddings, weights], role| {
            let (Some(ty), &[rows, cols]) = (self.get(role), &role.shape(config)[..]) else {
                return [linears, embeddings, weights];
            };
            let bytes = ty.bytes(rows, cols, container).unwrap_or(0);
            match role.is_linear() {
                true => [linears + bytes, embeddings, weights + (rows * cols) as u64],
                false => [linears, embeddings + bytes, weights],
            }
        })
    }

    fn error(&self, config: &ArchConfig, role: Role, problem: &str) -> Error {
        Error::malformed(&self.path, format!("tensor '{}'", display(config, role)), problem)
    }
}

/// A matrix as Hugging Face calls it.
pub fn display(config: &ArchConfig, role: Role) -> String {
    role.name(config.family, Naming::HuggingFace).unwrap_or_else(|| format!("{role:?}"))
}

fn listed(types: impl Iterator<Item = MatrixType>) -> String {
    types.map(|ty| ty.to_string()).collect::<Vec<_>>().join(", ")
}

fn suggestion<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> String {
    nearest(word, names, LIKE).map(|name| format!(" (did you mean '{name}'?)")).unwrap_or_default()
}

fn entry_type(entries: &Fields<'_>, name: &str, value: &Value) -> Result<MatrixType> {
    let bad = |problem: String| Error::malformed(entries.path(), format!("tensor '{}'", shown(name)), problem);
    let text = value.as_str().ok_or_else(|| bad("expected the name of a type".to_owned()))?;
    MatrixType::parse(text).ok_or_else(|| {
        let all: Vec<String> = MatrixType::ALL.iter().map(ToString::to_string).collect();
        let hint = suggestion(&text.to_ascii_lowercase(), all.iter().map(String::as_str));
        bad(format!("there is no type '{}'{hint}; known are {}", shown(text), all.join(", ")))
    })
}

/// The matrices that `name` stands for: a name of Hugging Face, with or without `.weight`, or of GGUF, in which `*` may
/// stand for every block.
fn roles(path: &Path, config: &ArchConfig, name: &str) -> Result<Vec<Role>> {
    let bad = |problem: String| Err(Error::malformed(path, format!("tensor '{}'", shown(name)), problem));
    let parse = |name: &str| {
        let whole = format!("{name}.weight");
        let with = [name, &whole].into_iter().flat_map(|name| [(name, Naming::HuggingFace), (name, Naming::Gguf)]);
        with.into_iter().find_map(|(name, naming)| Role::parse(name, config.family, naming))
    };
    let found: Vec<Option<Role>> = match name.split_once('*') {
        None => vec![parse(name)],
        Some((before, after)) => (0..config.layers).map(|layer| parse(&format!("{before}{layer}{after}"))).collect(),
    };
    let mut roles = Vec::new();
    for role in found {
        match role {
            Some(Role::Layer(layer, _)) if layer >= config.layers => {
                return bad(format!("the model has {} blocks, numbered from 0", config.layers));
            }
            Some(Role::Head) if config.tied => {
                return bad("the head of this model is its embedding, which has one type".to_owned());
            }
            Some(role) if role.is_linear() || role.is_embedding() => roles.push(role),
            Some(_) => return bad("is no matrix; norms and biases keep their types".to_owned()),
            None => {
                let names: Vec<String> = matrices(config).map(|role| display(config, role)).collect();
                return bad(format!(
                    "the model has no such tensor{}",
                    suggestion(name, names.iter().map(String::as_str))
                ));
            }
        }
    }
    Ok(roles)
}

#[cfg(test)]
mod tests;
