//! Mappings, in the order of insertion.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use num_bigint::BigInt;
use num_traits::{FromPrimitive, ToPrimitive};

use super::meter::{Meter, SLOT};
use super::operators::equal;
use super::text::Text;
use super::value::{Value, View, depth_over};
use super::{Fault, Result};

/// Mappings up to this length are searched from one end to the other.
const SHORT: usize = 8;
/// Marks the end of entries with the same hash.
const END: u32 = u32::MAX;

/// A mapping. Keys are compared as Python compares them: 1, 1.0 and true are the same key.
#[derive(Default)]
pub(super) struct Dict<'t> {
    entries: Vec<Entry<'t>>,
    /// Of longer mappings: the last entry of each hash.
    index: HashMap<u64, u32, BuildHasherDefault<Hashed>>,
    depth: u16,
}

struct Entry<'t> {
    hash: u64,
    /// Another entry with the same hash.
    before: u32,
    key: Value<'t>,
    value: Value<'t>,
}

/// Keys of the index are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The hash of a key; of the values that can be one.
pub(super) fn hash(meter: &Meter, key: &Value<'_>) -> Result<u64> {
    meter.step()?;
    Ok(match key {
        Value::Undefined(_) => 1,
        Value::None => 2,
        Value::Bool(value) => meter.hash(i64::from(*value)),
        Value::Int(value) => meter.hash(value),
        Value::Big(value) => hash_big(meter, value)?,
        Value::Float(value) => match BigInt::from_f64(*value) {
            Some(whole) if value.fract() == 0.0 => match whole.to_i64() {
                Some(whole) => meter.hash(whole),
                None => hash_big(meter, &whole)?,
            },
            _ => meter.hash(value.to_bits()),
        },
        Value::Text(text) => hash_text(meter, text.as_str())?,
        Value::Tuple(tuple) => {
            let hashes = tuple.items.iter().map(|item| hash(meter, item)).collect::<Result<Vec<u64>>>()?;
            meter.hash(hashes)
        }
        Value::Range(range) => meter.hash((range.length, (range.length > 0).then_some(range.start))),
        Value::Namespace(number) => meter.hash(*number),
        Value::Function(_) | Value::Macro(_) | Value::Loop(_) | Value::Cycler(_) | Value::Joiner(_) => 3,
        Value::View(View::Values, _) => 4,
        Value::Generator(_) | Value::Method(_) | Value::This(_) | Value::Block(..) => 4,
        Value::List(_) | Value::Dict(_) | Value::View(..) => {
            return Err(Fault::new(format!("unhashable type: '{}'", key.kind())));
        }
    })
}

fn hash_big(meter: &Meter, value: &BigInt) -> Result<u64> {
    meter.read(value.bits() as usize / 8)?;
    Ok(meter.hash(value.to_signed_bytes_le()))
}

fn hash_text(meter: &Meter, text: &str) -> Result<u64> {
    meter.read(text.len())?;
    Ok(meter.hash(text))
}

impl<'t> Dict<'t> {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn depth(&self) -> u16 {
        self.depth
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Value<'t>, &Value<'t>)> + ExactSizeIterator {
        self.entries.iter().map(|entry| (&entry.key, &entry.value))
    }

    /// Entry number `at`.
    pub fn entry(&self, at: usize) -> Option<(&Value<'t>, &Value<'t>)> {
        self.entries.get(at).map(|entry| (&entry.key, &entry.value))
    }

    /// The entry with this hash that `is_key` accepts.
    fn find(&self, hash: u64, mut is_key: impl FnMut(&Value<'t>) -> Result<bool>) -> Result<Option<usize>> {
        if self.entries.len() <= SHORT {
            for (at, entry) in self.entries.iter().enumerate() {
                if entry.hash == hash && is_key(&entry.key)? {
                    return Ok(Some(at));
                }
            }
            return Ok(None);
        }
        let mut at = self.index.get(&hash).copied().unwrap_or(END);
        while at != END {
            let entry = &self.entries[at as usize];
            if is_key(&entry.key)? {
                return Ok(Some(at as usize));
            }
            at = entry.before;
        }
        Ok(None)
    }

    pub fn get(&self, meter: &Meter, key: &Value<'t>) -> Result<Option<&Value<'t>>> {
        let found = self.find(hash(meter, key)?, |other| equal(meter, other, key))?;
        Ok(found.map(|at| &self.entries[at].value))
    }

    pub fn get_str(&self, meter: &Meter, key: &str) -> Result<Option<&Value<'t>>> {
        let found = self.find(hash_text(meter, key)?, |other| Ok(other.as_str() == Some(key)))?;
        Ok(found.map(|at| &self.entries[at].value))
    }

    /// Sets the value of `key`. A key that exists stays as it is and where it is.
    pub fn insert(&mut self, meter: &Meter, key: Value<'t>, value: Value<'t>) -> Result<()> {
        let hash = hash(meter, &key)?;
        self.depth = self.depth.max(depth_over([&key, &value].into_iter())?);
        if let Some(at) = self.find(hash, |other| equal(meter, other, &key))? {
            self.entries[at].value = value;
            return Ok(());
        }
        meter.bytes(4 * SLOT)?;
        let next = u32::try_from(self.entries.len()).map_err(|_| Fault::limit("makes too large mappings"))?;
        self.entries.push(Entry { hash, before: END, key, value });
        if self.entries.len() == SHORT + 1 {
            for at in 0..=next {
                self.add_to_index(at);
            }
        } else if self.entries.len() > SHORT {
            self.add_to_index(next);
        }
        Ok(())
    }

    fn add_to_index(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        entry.before = self.index.insert(entry.hash, at).unwrap_or(END);
    }

    pub fn insert_str(&mut self, meter: &Meter, key: &str, value: Value<'t>) -> Result<()> {
        self.insert(meter, Value::Text(Text::plain(meter, key)?), value)
    }

    /// A copy with all entries of this one.
    pub fn copy(&self, meter: &Meter) -> Result<Self> {
        let mut copy = Self::default();
        for (key, value) in self.iter() {
            copy.insert(meter, key.clone(), value.clone())?;
        }
        Ok(copy)
    }
}
