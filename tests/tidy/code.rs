//! Rust sources, parsed.

pub use programs::{Arm, Main, OF_A_CONSUMER, Program, Source, is_cfg_test, path_text};
