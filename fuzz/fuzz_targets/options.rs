//! Any option list: the law of tests/packet/laws.rs.
#![no_main]

#[path = "../../tests/packet/laws.rs"]
#[allow(dead_code, reason = "the other target uses the rest")]
mod laws;
#[path = "../../tests/packet/support.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod support;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|list: &[u8]| laws::options(list));
