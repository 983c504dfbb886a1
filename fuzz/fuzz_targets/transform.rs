//! Any frame under any policy: the laws of tests/packet/laws.rs.
#![no_main]

#[path = "../../tests/packet/laws.rs"]
#[allow(dead_code, reason = "the other target uses the rest")]
mod laws;
#[path = "../../tests/packet/support.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod support;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| laws::transform_bytes(input));
