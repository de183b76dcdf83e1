//! Laws of the kernel and of what is derived from it, over random histories.

mod damaged;
mod history;
mod machine;
mod paths;
mod pool_history;
mod pool_views;
mod snapshots;

use proptest::prelude::ProptestConfig;

/// A counterexample becomes a golden script or a named test, not a file of seeds.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
