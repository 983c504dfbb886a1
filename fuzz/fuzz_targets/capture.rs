//! Any capture: the law of tests/parsers/laws.rs.
#![no_main]

#[path = "../../tests/parsers/laws.rs"]
#[allow(dead_code, reason = "the other targets use the rest")]
mod laws;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| laws::capture(bytes));
