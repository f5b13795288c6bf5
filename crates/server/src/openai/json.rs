//! JSON of any form inside a request, and lists: what a client sends must not become many times as large when it is read.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Values that one request may hold in fields of any form, all of them together. As a tree each takes some hundred bytes,
/// as text two.
pub const MAX_VALUES: usize = 1 << 16;

thread_local! {
    /// Values that the request being read on this thread may still hold.
    static LEFT: Cell<usize> = const { Cell::new(MAX_VALUES) };
}

/// Reads a request: the limit of [`MAX_VALUES`] holds for all that `read` takes in.
pub fn limited<T>(read: impl FnOnce() -> T) -> T {
    LEFT.set(MAX_VALUES);
    read()
}

/// JSON of any form. Of a name given twice the last value counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Json(pub Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(Json(element)) = elements.next_element()? {
                    list.push(element);
                }
                Ok(list.into())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
                let mut map = Map::new();
                while let Some((name, Json(value))) = entries.next_entry()? {
                    map.insert(name, value);
                }
                Ok(map.into())
            }
        }
        let left = LEFT.get();
        if left == 0 {
            return Err(de::Error::custom(format!("the request holds more than {MAX_VALUES} values of JSON")));
        }
        LEFT.set(left - 1);
        deserializer.deserialize_any(Form).map(Self)
    }
}

/// A list of at most `N` elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Several<T, const N: usize>(Vec<T>);

impl<T, const N: usize> std::ops::Deref for Several<T, N> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Several<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form<T, const N: usize>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Form<T, N> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {N}")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while list.len() < N {
                    match elements.next_element()? {
                        Some(element) => list.push(element),
                        None => return Ok(list),
                    }
                }
                match elements.next_element::<IgnoredAny>()? {
                    Some(_) => Err(de::Error::custom(format!("the list is too long; at most {N} are taken"))),
                    None => Ok(list),
                }
            }
        }
        deserializer.deserialize_seq(Form::<T, N>(std::marker::PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_those_of_serde_json_up_to_their_limit() {
        for text in [r#"{"a": [1, -2, 0.5, "x", null, true], "b": {}}"#, "[]", "18446744073709551615", "\"é\\n\""] {
            let read = limited(|| serde_json::from_str::<Json>(text)).unwrap();
            assert_eq!(read.0, serde_json::from_str::<Value>(text).unwrap());
        }
        assert_eq!(limited(|| serde_json::from_str::<Json>(r#"{"a": 1, "a": 2}"#)).unwrap().0["a"], 2);
        let list = |n: usize| format!("[{}[]]", "[],".repeat(n - 1));
        assert!(limited(|| serde_json::from_str::<Json>(&list(MAX_VALUES - 1))).is_ok());
        assert!(limited(|| serde_json::from_str::<Json>(&list(MAX_VALUES))).is_err());
        // The limit holds for all fields of a request together.
        let half = list(MAX_VALUES / 2 + 1);
        limited(|| {
            assert!(serde_json::from_str::<Json>(&half).is_ok());
            assert!(serde_json::from_str::<Json>(&half).is_err());
        });
    }

    #[test]
    fn lists_keep_their_bound() {
        assert_eq!(&*serde_json::from_str::<Several<u8, 2>>("[1, 2]").unwrap(), [1, 2]);
        let error = serde_json::from_str::<Several<u8, 2>>("[1, 2, 3]").unwrap_err().to_string();
        assert!(error.contains("at most 2"), "{error}");
        assert!(serde_json::from_str::<Several<u8, 2>>("5").is_err());
    }
}
