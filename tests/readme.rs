//! The README shows what is tested. `tests/vm/swan.rs` runs its commands and compares what `xdpfrag mtu` prints.

use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The words of a text: indentation is not compared.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_readme_has_the_settings_of_strongswan_that_are_tested() {
    let settings = read("tests/vm/swanctl/router1.conf");
    // Without the comment on its first line.
    let settings = settings.split_once('\n').unwrap().1;
    assert!(words(&read("README.md")).contains(&words(settings)));
}

#[test]
fn the_two_gateways_are_each_other_s_mirror_image() {
    let [one, two] = ["router1", "router2"].map(|name| read(&format!("tests/vm/swanctl/{name}.conf")));
    let plain = |text: &str, from: [&str; 6], to: [&str; 6]| {
        let mut settings = words(text.split_once("connections").unwrap().1);
        for (from, to) in from.into_iter().zip(to) {
            settings = settings.replace(from, to);
        }
        settings
    };
    let [first, second] =
        [["router1", "198.51.100.1", "198.18.1.0"], ["router2", "198.51.100.2", "198.18.2.0"]];
    let both = [first, second].concat().try_into().unwrap();
    let swapped = [second, first].concat().try_into().unwrap();
    let names = ["A", "B", "C", "D", "E", "F"];
    assert_eq!(plain(&one, both, names), plain(&two, swapped, names));
}
