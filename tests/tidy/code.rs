//! Rust sources, parsed, as the generator of stacks reads them: a fragment may say only what the code does.

pub use stacks::code::{Arm, Main, OF_A_CONSUMER, Program, Source, is_cfg_test, path_text};
