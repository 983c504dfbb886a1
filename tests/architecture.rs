//! Holds the dependency rule of ARCHITECTURE.md and the list of files that may contain `unsafe`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which top-level modules each may name with `crate::`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("packet", &[]),
    ("ipsec", &["packet"]),
    ("net", &["ipsec"]),
    ("config", &["packet", "ipsec"]),
    ("pcap", &["packet", "config"]),
    ("observe", &["packet"]),
    ("xdp", &["packet", "config", "net"]),
    ("frame", &["packet"]),
    ("port", &["frame", "packet", "config", "xdp"]),
    ("handback", &["frame", "packet", "config", "xdp", "net"]),
    ("worker", &["port", "handback", "frame", "packet", "config", "observe", "xdp"]),
    (
        "control",
        &[
            "worker", "port", "handback", "frame", "packet", "config", "observe", "pcap", "xdp", "net",
            "ipsec",
        ],
    ),
    ("lab", &["observe", "net"]),
    ("cli", &["control", "lab", "config", "observe", "pcap", "packet", "ipsec", "net", "xdp"]),
];

/// The only files where `unsafe` may stand. Skeleton modules include generated code.
const MAY_BE_UNSAFE: &[&str] = &[
    "frame/region.rs",
    "port/xsk.rs",
    "handback/inject.rs",
    "handback/skeleton.rs",
    "handback/tap.rs",
    "handback/veth.rs",
    "worker/priority.rs",
    "xdp/sys.rs",
    "xdp/skeleton.rs",
];

/// Modules without I/O, of which the compiler forbids `unsafe`.
const PURE: &[&str] = &["packet/mod.rs", "ipsec/mod.rs"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every source file below src/, relative to it, with its code: comments and test modules left out.
fn code() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let name = path.strip_prefix(&root).expect("found below src").to_string_lossy().into_owned();
            (name, code.join("\n"))
        })
        .collect()
}

/// The modules that `code` names as `crate::module`, braces included (`use crate::{a, b::c}`).
fn named_modules(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut named = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            named.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    named.insert(word(item.trim()));
                    item.clear();
                    continue;
                }
                _ => {}
            }
            item.push(c);
        }
        named.insert(word(item.trim()));
    }
    named
}

#[test]
fn dependencies_point_one_way() {
    let rule: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for (file, code) in code() {
        let Some((module, _)) = file.split_once('/') else { continue };
        let Some(allowed) = rule.get(module) else {
            wrong.push(format!("src/{file}: module `{module}` is not in the dependency rule"));
            continue;
        };
        for named in named_modules(&code) {
            if named != module && rule.contains_key(named.as_str()) && !allowed.contains(&named.as_str()) {
                wrong.push(format!("src/{file}: `{module}` may not use `{named}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "dependency rule of ARCHITECTURE.md broken:\n{}", wrong.join("\n"));
}

#[test]
fn the_dependency_rule_has_no_cycle() {
    // MAY_USE is ordered so that each module names only modules above it, but for the pairs a
    // reader of ARCHITECTURE.md expects side by side; following it must end.
    let rule: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    fn visit<'a>(module: &'a str, rule: &BTreeMap<&'a str, &'a [&'a str]>, path: &mut Vec<&'a str>) {
        assert!(!path.contains(&module), "cycle: {path:?} -> {module}");
        path.push(module);
        for next in rule[module] {
            visit(next, rule, path);
        }
        path.pop();
    }
    for (module, _) in MAY_USE {
        visit(module, &rule, &mut Vec::new());
    }
}

#[test]
fn unsafe_stays_in_the_named_files() {
    let holds_unsafe = |code: &str| {
        code.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|token| token == "unsafe" || token == "unsafe_code")
    };
    let found: Vec<String> =
        code().into_iter().filter(|(_, code)| holds_unsafe(code)).map(|(file, _)| file).collect();
    let strays: Vec<&String> = found
        .iter()
        .filter(|file| !MAY_BE_UNSAFE.contains(&file.as_str()))
        // These name `unsafe_code` to forbid it.
        .filter(|file| !PURE.contains(&file.as_str()))
        .collect();
    assert!(strays.is_empty(), "unsafe outside the named files: {strays:?}");
    for file in MAY_BE_UNSAFE {
        assert!(found.iter().any(|f| f == file), "{file} holds no unsafe any more: take it off the list");
    }
}

/// They panic where nobody reads any more, or where the disk is full, and the forwarder would end.
#[test]
fn nothing_is_said_by_macros_that_panic() {
    let says = |code: &str| {
        ["print!", "println!", "eprint!", "eprintln!", "dbg!"].iter().any(|name| code.contains(name))
    };
    let found: Vec<String> =
        code().into_iter().filter(|(_, code)| says(code)).map(|(file, _)| file).collect();
    assert!(found.is_empty(), "say it with cli/output.rs or cli/log.rs: {found:?}");
}

#[test]
fn pure_modules_forbid_unsafe() {
    let code = code();
    for file in PURE {
        assert!(code[*file].contains("#![forbid(unsafe_code)]"), "{file}");
    }
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "tests", "benches"] {
        sources(&root.join(dir), &mut files);
    }
    let long: Vec<String> = files
        .iter()
        .map(|path| (path, fs::read_to_string(path).expect("source is UTF-8").lines().count()))
        .filter(|(_, lines)| *lines > 500)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "split these, their idea has split: {long:#?}");
}
