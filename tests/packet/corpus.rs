//! The seeds of the fuzz targets, kept in fuzz/corpus, and every input there as a test.
//!
//! `XDPFRAG_SEEDS=write cargo test --test packet corpus` writes them anew.

use std::fs;
use std::path::PathBuf;

use xdpfrag::packet::Tcp;

use crate::laws;
use crate::support::{DF, MF, Packet, Packet6, pattern};

fn corpus(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", target].iter().collect()
}

/// As `laws::transform_bytes` reads it.
fn input(tcp: Tcp, mtu: u16, frame: &[u8]) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    [&[u8::from(tcp == Tcp::Resegment), high, low, 2, 0x18, 4, 0xc4], frame].concat()
}

fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let syn = Packet::tcp(0x02, &[1, 2, 4, 5, 0xb4, 0, 0, 0], &[]);
    let segment = Packet::tcp(0x99, &[1; 12], &pattern(100));
    let options = vec![0x94, 4, 0, 0, 7, 3, 4, 0];
    let fragment = Packet { flags_offset: DF | MF | 5, options, ..Packet::new(17, pattern(96)) };
    let extensions = vec![(60, vec![0; 8])];
    let six = Packet6 { extensions, tpids: vec![0x8100], ..Packet6::carrying(segment.clone()) };
    vec![
        ("transform", "udp", input(Tcp::Fragment, 80, &Packet { padding: 5, ..Packet::udp(90) }.frame())),
        ("transform", "fragment", input(Tcp::Fragment, 76, &fragment.frame())),
        ("transform", "syn", input(Tcp::Fragment, 1422, &syn.frame())),
        ("transform", "segment", input(Tcp::Resegment, 92, &segment.frame())),
        ("transform", "segment6", input(Tcp::Resegment, 130, &six.frame())),
        ("transform", "syn6", input(Tcp::Fragment, 1422, &Packet6::carrying(syn).frame())),
        ("options", "syn", vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]),
        ("options", "md5", [&[1, 1, 19, 18][..], &[7; 16]].concat()),
        ("options", "overread", vec![1, 2, 40, 5]),
    ]
}

#[test]
fn seeds_are_those_of_the_builders() {
    for (target, name, bytes) in seeds() {
        let path = corpus(target).join(name);
        if std::env::var("XDPFRAG_SEEDS").is_ok_and(|value| value == "write") {
            fs::create_dir_all(corpus(target)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), bytes, "{}", path.display());
    }
}

#[test]
fn every_input_of_the_corpus_obeys_the_laws() {
    let inputs = |target: &str| {
        let files = fs::read_dir(corpus(target)).unwrap();
        files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect::<Vec<_>>()
    };
    for input in inputs("options") {
        laws::options(&input);
    }
    for input in inputs("transform") {
        laws::transform_bytes(&input);
    }
}
