//! The parsers of the control socket, of the configuration file and of captures: any input, and the corpus of `make
//! fuzz`.
//!
//! `XDPFRAG_SEEDS=write cargo test --test parsers` writes the seeds anew.

mod captures;
mod laws;

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use proptest::sample::{Index, select};

const REQUESTS: [(&str, &str); 6] = [
    ("stats", "\"stats\""),
    ("reload", "\"reload\""),
    ("capture", "{\"capture\":{\"host\":\"198.18.1.10\",\"port\":502}}"),
    ("capture6", "{\"capture\":{\"host\":\"2001:db8::1\",\"port\":null}}"),
    ("nested", "[[[[[[[[[[[[[[[[[[[[[[{\"capture\":"),
    ("twice", "{\"capture\":{\"port\":1,\"port\":2},\"stats\":null}"),
];

const CONFIGS: [(&str, &str); 6] = [
    ("small", "iface = \"eth1\"\nmtu = 1422\n"),
    (
        "whole",
        "iface = ['eth1', 'eth2']\nmtu = 'auto' # of the SA\ndst = [\n  '10.0.0.0/8=1400',\n  '2001:db8::/32',\n]\n\
         notify = true\nqueues = '0,2-3'\nsticky = 1_000\nzero-copy = \"off\"\nmetrics = '127.0.0.1:9435'\n",
    ),
    ("conflict", "iface = 'eth1'\nmtu = 'auto'\nid-partition = '1/2'\nzero-copy = 'on'\nmode = 'generic'\n"),
    ("unknown", "\"a\\u001b[2Jb\" = 1\n"),
    ("unended", "iface = [\"eth1\",\n\"\\u20ac"),
    ("tables", "[iface]\nmtu = { a = 1.5 }\n[[dst]]\n"),
];

fn corpus(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", target].iter().collect()
}

fn seeds_are_kept<S: AsRef<[u8]>>(target: &str, seeds: &[(&str, S)]) {
    for (name, seed) in seeds {
        let path = corpus(target).join(name);
        if std::env::var("XDPFRAG_SEEDS").is_ok_and(|value| value == "write") {
            fs::create_dir_all(corpus(target)).unwrap();
            fs::write(&path, seed).unwrap();
        }
        assert!(fs::read(&path).unwrap() == seed.as_ref(), "{}", path.display());
    }
}

#[test]
fn every_input_of_the_corpus_obeys_the_laws() {
    seeds_are_kept("request", &REQUESTS);
    seeds_are_kept("config", &CONFIGS);
    seeds_are_kept("capture", &captures::seeds());
    for entry in fs::read_dir(corpus("request")).unwrap() {
        laws::request(&fs::read(entry.unwrap().path()).unwrap());
    }
    for entry in fs::read_dir(corpus("capture")).unwrap() {
        laws::capture(&fs::read(entry.unwrap().path()).unwrap());
    }
    for entry in fs::read_dir(corpus("config")).unwrap() {
        laws::config(&String::from_utf8_lossy(&fs::read(entry.unwrap().path()).unwrap()));
    }
}

/// One of the seeds with some bytes changed, put in or taken out.
fn mutated(seeds: &'static [(&'static str, &'static str)]) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), prop_oneof![any::<u8>(), select(&b"\"'{}[],:=\n\\#-0"[..])], 0..3);
    (select(seeds), prop::collection::vec(change, 0..6)).prop_map(|((_, text), changes)| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len() + 1);
            match how {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => bytes[at] = byte,
                _ => drop(bytes.drain(at..bytes.len().min(at + 3))),
            }
        }
        bytes
    })
}

/// Settings that there are, and some that there are not, with values that may suit them.
fn settings() -> impl Strategy<Value = String> {
    const KEYS: &[&str] = &[
        "iface",
        "mtu",
        "dst",
        "df",
        "mss",
        "tcp",
        "force",
        "notify",
        "id-partition",
        "redirect",
        "handback",
        "queues",
        "cores",
        "poll",
        "mode",
        "zero-copy",
        "notrack",
        "sticky",
        "stall",
        "metrics",
        "capture",
        "log",
        "config",
        "json",
        "mut",
        "\"\\u0007\"",
    ];
    const VALUES: &[&str] = &[
        "true",
        "false",
        "1422",
        "-1",
        "67",
        "0x10",
        "1_000",
        "1.5",
        "''",
        "'eth1'",
        "['eth1', 'eth1']",
        "'auto'",
        "['10.0.0.0/8', '10.0.0.0/8=1400']",
        "'10.1.2.3/8'",
        "'2001:db8::/32=1400'",
        "'all'",
        "'0,2-3'",
        "'3-1'",
        "'late'",
        "'resegment'",
        "'deaf'",
        "'on'",
        "'off'",
        "'veth'",
        "'1/2'",
        "'3/2'",
        "'127.0.0.1:9435'",
        "[]",
        "[[1]]",
        "{ a = 1 }",
        "2026-01-01",
        "'\u{202e}\u{20ac}'",
        "\"\\u001b[2J\\n\"",
        "\"\"\"\n\n\"\"\"",
    ];
    let line = (select(KEYS).prop_map(str::to_owned), select(VALUES).prop_map(str::to_owned));
    prop::collection::vec(line, 0..8)
        .prop_map(|lines| lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect())
}

proptest! {
    #[test]
    fn any_request(line in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), mutated(&REQUESTS)]) {
        laws::request(&line);
    }

    #[test]
    fn any_capture(bytes in captures::mutated()) {
        laws::capture(&bytes);
    }

    #[test]
    fn any_file(text in prop_oneof![".{0,200}", settings(), mutated(&CONFIGS).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())]) {
        laws::config(&text);
    }
}
