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
    let mirrored = two
        .replace("198.51.100.1", "A")
        .replace("198.51.100.2", "198.51.100.1")
        .replace('A', "198.51.100.2")
        .replace("198.18.1.0", "B")
        .replace("198.18.2.0", "198.18.1.0")
        .replace('B', "198.18.2.0");
    let settings = |text: &str| words(text.split_once("connections").unwrap().1);
    assert_eq!(settings(&one).matches("router").count(), settings(&two).matches("router").count());
    let plain = |text: &str| settings(text).replace("router1", "router").replace("router2", "router");
    assert_eq!(plain(&one), plain(&mirrored));
}
