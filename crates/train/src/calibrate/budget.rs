//! From what types cost to a recipe within a budget.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Serialize;
use sherry::model::names::{Naming, Role};
use sherry::model::{ArchConfig, Checkpoint};
use sherry_convert::recipe::{self, MatrixType, Recipe};
use sherry_convert::{Container, Embeddings, room_beside_matrices};
use sherry_kernels::format::TensorType;

use super::knapsack::{Choice, Knapsack};
use super::sensitivity::{Group, Losses, candidates};
use crate::error::Result;

/// What a model may take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Mean bits per weight of the linear layers of the blocks, scales included. Embedding and head are as they were asked
    /// for.
    Bits(f64),
    /// Bytes of the whole file: the GGUF file, or the folder's `model.safetensors`.
    Size(u64),
}

/// A point of the curve that a budget lies on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Mean bits per weight of the linear layers.
    pub bits: f64,
    /// Bytes of all matrices.
    pub bytes: u64,
    /// Predicted divergence from the original, nats per token.
    pub loss: f64,
}

/// How many weights of which layers have a type.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// The type.
    #[serde(rename = "type")]
    pub ty: String,
    /// Matrices of this type by what they are: "q,k,v", "o", "gate,up", "down" and "embedding".
    pub matrices: BTreeMap<&'static str, usize>,
    /// Weights of this type.
    pub weights: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// How a budget was spent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mixture {
    /// The budget.
    pub limit: Limit,
    /// Mean bits per weight of the linear layers, scales included.
    pub bits: f64,
    /// Bytes of the whole file, at most.
    pub bytes: u64,
    /// Predicted divergence from the original, nats per token: the sum of what every matrix alone costs.
    pub loss: f64,
    /// By rising size.
    pub shares: Vec<Share>,
    /// The same for other budgets, by rising size.
    pub curve: Vec<Point>,
}

/// Points of the curve.
const POINTS: u64 = 16;
/// What a matrix is, for people.
pub const PLACES: [&str; 5] = ["q,k,v", "o", "gate,up", "down", "embedding"];

fn place(name: &str) -> &'static str {
    let parts = [(0, "self_attn.o_"), (1, "self_attn."), (2, "down_"), (3, "mlp.")];
    match parts.into_iter().find(|(_, part)| name.contains(part)) {
        Some((0, _)) => "o",
        Some((1, _)) => "q,k,v",
        Some((2, _)) => "down",
        Some(_) => "gate,up",
        None => "embedding",
    }
}

/// A group in terms of the model: its matrices, and the types it can have in the container.
struct Item {
    roles: Vec<Role>,
    types: Vec<MatrixType>,
    choices: Vec<Choice>,
}

/// The type of embedding and head, and `None` where the budget decides it.
fn asked_for(
    embeddings: Embeddings,
    limit: Limit,
    arch: &ArchConfig,
    container: Container,
) -> Result<Option<MatrixType>> {
    let ty = match (embeddings, limit) {
        (Embeddings::As(ty), _) => MatrixType::Dense(ty),
        (Embeddings::Auto, Limit::Size(_)) => return Ok(None),
        (Embeddings::Auto, Limit::Bits(_)) if arch.hidden.is_multiple_of(TensorType::Q8_0.block_len()) => {
            MatrixType::Dense(TensorType::Q8_0)
        }
        (Embeddings::Auto, Limit::Bits(_)) => MatrixType::Dense(TensorType::F16),
        (Embeddings::Keep, _) => {
            let problem = "a budget needs to know the type of embedding and head; --embed q8_0, for example, says it";
            return Err(sherry::Error::Invalid(problem.to_owned()).into());
        }
    };
    match ty.bytes(arch.vocab, arch.hidden, container) {
        Ok(_) => Ok(Some(ty)),
        Err(problem) => {
            Err(sherry::Error::Invalid(format!("embedding and head cannot be {ty}: {problem}; --embed names another"))
                .into())
        }
    }
}

/// Bytes that sizes do not decide on, and weights of the linear layers.
struct Given {
    /// Of embedding and head, where they are asked for.
    embeddings: u64,
    /// Of everything but matrices.
    beside: u64,
    weights: u64,
}

impl Given {
    fn bits(&self, bytes: u64) -> f64 {
        8.0 * bytes as f64 / self.weights as f64
    }

    /// Bytes that there are for what is chosen.
    ///
    /// # Errors
    /// The least that is possible, when `least` is more than that.
    fn room(&self, limit: Limit, least: u64) -> Result<u64> {
        let problem = match limit {
            Limit::Bits(bits) if self.bits(least) > bits => format!(
                "{bits} bits per weight of the linear layers cannot be had: {:.3} are the least, scales included",
                (1000.0 * self.bits(least)).ceil() / 1000.0
            ),
            Limit::Bits(bits) => return Ok((bits * self.weights as f64 / 8.0) as u64),
            Limit::Size(size) => {
                let least = self.embeddings + self.beside + least;
                if least <= size {
                    return Ok(size - self.embeddings - self.beside);
                }
                let mega = |bytes: u64| bytes as f64 / 1e6;
                format!(
                    "a file of {:.3} MB cannot be had: {:.3} MB are the least for this model, {:.3} MB of it for all but \
                     matrices",
                    mega(size),
                    mega(least.div_ceil(1000) * 1000),
                    mega(self.beside)
                )
            }
        };
        Err(sherry::Error::Invalid(problem).into())
    }
}

/// Refuses a budget that cannot be met, before anything is measured.
///
/// # Errors
/// [`sherry::Error::Invalid`] with the least that is possible.
pub fn check(
    checkpoint: &Checkpoint,
    arch: &ArchConfig,
    container: Container,
    limit: Limit,
    embeddings: Embeddings,
) -> Result<()> {
    let asked = asked_for(embeddings, limit, arch, container)?;
    let mut given = given(checkpoint, arch, container)?;
    let mut least = 0;
    for role in recipe::matrices(arch) {
        let smallest = candidates(role, arch).into_iter().filter_map(|ty| bytes(role, ty, arch, container)).min();
        let smallest = smallest.ok_or_else(|| {
            sherry::Error::Invalid(format!("no type fits the rows of {}", recipe::display(arch, role)))
        })?;
        match asked.filter(|_| role.is_embedding()) {
            Some(ty) => given.embeddings += bytes(role, ty, arch, container).unwrap_or(0),
            // Embedding and head are no part of bits per linear weight.
            None => least += smallest,
        }
    }
    given.room(limit, least).map(|_| ())
}

fn given(checkpoint: &Checkpoint, arch: &ArchConfig, container: Container) -> Result<Given> {
    let linears = recipe::matrices(arch).filter(|role| role.is_linear());
    let weights = linears.map(|role| role.elements(arch)).sum();
    Ok(Given { embeddings: 0, beside: room_beside_matrices(checkpoint, container)?, weights })
}

fn item(group: &Group, arch: &ArchConfig, container: Container) -> Option<Item> {
    let roles: Option<Vec<Role>> =
        group.tensors.iter().map(|name| Role::parse(name, arch.family, Naming::HuggingFace)).collect();
    let roles = roles?;
    let (mut types, mut choices) = (Vec::new(), Vec::new());
    for cost in &group.costs {
        let ty = MatrixType::parse(&cost.ty)?;
        let bytes: Option<u64> = roles.iter().map(|role| bytes(*role, ty, arch, container)).sum();
        if let Some(bytes) = bytes.filter(|_| cost.loss.is_finite()) {
            types.push(ty);
            choices.push(Choice { bytes, loss: cost.loss });
        }
    }
    (!types.is_empty()).then_some(Item { roles, types, choices })
}

fn bytes(role: Role, ty: MatrixType, arch: &ArchConfig, container: Container) -> Option<u64> {
    let [rows, cols] = role.shape(arch)[..] else { return None };
    ty.bytes(rows, cols, container).ok()
}

/// Chooses the types with the least loss within `limit`.
///
/// # Errors
/// [`sherry::Error::Invalid`] with the least that is possible when the budget cannot be met.
pub fn choose(
    losses: &Losses,
    checkpoint: &Checkpoint,
    arch: &ArchConfig,
    container: Container,
    limit: Limit,
    embeddings: Embeddings,
) -> Result<(Recipe, Mixture)> {
    let asked = asked_for(embeddings, limit, arch, container)?;
    let mut items = Vec::new();
    let mut fixed: Vec<(Role, MatrixType)> = Vec::new();
    for group in &losses.groups {
        let item = item(group, arch, container)
            .ok_or_else(|| sherry::Error::Invalid(format!("no type fits the rows of {}", group.tensors.join(", "))))?;
        match asked.filter(|_| item.roles.iter().all(|role| role.is_embedding())) {
            Some(ty) => fixed.extend(item.roles.iter().map(|role| (*role, ty))),
            None => items.push(item),
        }
    }
    let mut given = given(checkpoint, arch, container)?;
    given.embeddings = fixed.iter().filter_map(|(role, ty)| bytes(*role, *ty, arch, container)).sum();
    let knapsack = Knapsack::new(items.iter().map(|item| item.choices.clone()).collect());
    let room = given.room(limit, knapsack.least())?;
    let recipe_of = |room: u64| -> HashMap<Role, MatrixType> {
        let chosen = knapsack.choose(room).unwrap_or_default();
        let chosen =
            items.iter().zip(chosen).flat_map(|(item, i)| item.roles.iter().map(move |role| (*role, item.types[i])));
        chosen.chain(fixed.iter().copied()).collect()
    };
    let size_of = |types: &HashMap<Role, MatrixType>, linear: bool| -> u64 {
        let of = types.iter().filter(|(role, _)| role.is_linear() == linear);
        of.filter_map(|(role, ty)| bytes(*role, *ty, arch, container)).sum()
    };
    let types = recipe_of(room);
    let matrices = size_of(&types, true) + size_of(&types, false);
    let most = knapsack.most().max(knapsack.least() + 1);
    let mut curve: Vec<Point> = (0..POINTS)
        .map(|i| {
            // Closer together where there is little.
            let share = (i as f64 / (POINTS - 1) as f64).powi(2);
            let room = knapsack.least() + ((most - knapsack.least()) as f64 * share) as u64;
            let types = recipe_of(room);
            let linear = size_of(&types, true);
            let bytes = linear + size_of(&types, false);
            Point { bits: given.bits(linear), bytes, loss: knapsack.loss(room).unwrap_or(f64::NAN) }
        })
        .collect();
    curve.dedup();
    let mut shares: Vec<Share> = Vec::new();
    for ty in MatrixType::ALL {
        let of: Vec<Role> = recipe::matrices(arch).filter(|role| types.get(role) == Some(&ty)).collect();
        let mut places = BTreeMap::new();
        of.iter().for_each(|role| *places.entry(place(&recipe::display(arch, *role))).or_default() += 1);
        let bytes = of.iter().filter_map(|role| bytes(*role, ty, arch, container)).sum();
        let weights = of.iter().map(|role| role.elements(arch)).sum();
        if !of.is_empty() {
            shares.push(Share { ty: ty.to_string(), matrices: places, weights, bytes });
        }
    }
    let mixture = Mixture {
        limit,
        bits: given.bits(size_of(&types, true)),
        bytes: matrices + given.beside,
        loss: knapsack.loss(room).unwrap_or(f64::NAN),
        shares,
        curve,
    };
    Ok((Recipe::new(Path::new("the recipe of a budget"), arch, types)?, mixture))
}
