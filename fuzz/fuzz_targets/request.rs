//! Any line on the control socket: the law of tests/parsers/laws.rs.
#![no_main]

#[path = "../../tests/parsers/laws.rs"]
#[allow(dead_code, reason = "the other target uses the rest")]
mod laws;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| laws::request(line));
