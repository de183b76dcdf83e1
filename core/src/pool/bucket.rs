//! Buckets: the units of ownership, and how a key finds its own.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// A bucket's name: a number in a hashed pool, an item's name in a named one.
/// Numbers come first, in the order of their value; then names, bytewise.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(value_type = String))]
#[serde(transparent)]
pub struct Bucket(Arc<str>);

impl Bucket {
    /// The bucket of that name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// A hashed pool's bucket.
    #[must_use]
    pub fn number(number: u32) -> Self {
        Self(Arc::from(number.to_string()))
    }

    /// The bucket's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Numbers without leading zeros compare by length, then by digits.
    fn key(&self) -> (bool, usize, &str) {
        let numeric =
            self.0.bytes().all(|b| b.is_ascii_digit()) && (!self.0.starts_with('0') || &*self.0 == "0");
        (!numeric, if numeric { self.0.len() } else { 0 }, &self.0)
    }
}

/// The bucket of a hashed pool that `key` belongs to: `xxh3_64(key) mod
/// buckets`, seed 0. Test vectors are in `docs/routing.md`.
#[must_use]
pub fn bucket_of_key(key: &[u8], buckets: u32) -> u32 {
    let bucket = xxh3_64(key) % u64::from(buckets.max(1));
    u32::try_from(bucket).expect("less than a u32")
}

impl Ord for Bucket {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Bucket {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_order_of_value_then_names() {
        let mut buckets: Vec<Bucket> = ["b", "10", "9", "0", "a", "010"].map(Bucket::new).to_vec();
        buckets.sort();
        let names: Vec<&str> = buckets.iter().map(Bucket::as_str).collect();
        assert_eq!(names, ["0", "9", "10", "010", "a", "b"]);
    }

    /// The same vectors stand in `docs/routing.md` for other languages.
    #[test]
    fn keys_find_their_buckets() {
        let vectors = [
            ("", 1024),
            ("alice@example.org", 1024),
            ("bob@example.org", 1024),
            ("\u{43a}\u{43b}\u{44e}\u{447}", 7),
        ];
        let found: Vec<u32> = vectors.iter().map(|(key, n)| bucket_of_key(key.as_bytes(), *n)).collect();
        assert_eq!(found, VECTORS);
    }

    const VECTORS: [u32; 4] = [194, 412, 634, 1];
}
