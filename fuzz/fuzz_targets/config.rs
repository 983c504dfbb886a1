//! Any configuration file: the law of tests/parsers/laws.rs.
#![no_main]

#[path = "../../tests/parsers/laws.rs"]
#[allow(dead_code, reason = "the other target uses the rest")]
mod laws;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| laws::config(text));
