//! `bpf/intf.h` and its Rust mirrors agree: names, values, sizes.

use xdpfrag::packet::{Edit, Late, Reason, Way};
use xdpfrag::xdp::{Counters, DeafHost, Heartbeats, Meta, Route, Shared, layout};

const HEADER: &str = include_str!("../bpf/intf.h");

/// The header without its comments.
fn code() -> String {
    let mut code = String::new();
    for (n, part) in HEADER.split("/*").enumerate() {
        code.push_str(if n == 0 { part } else { part.split_once("*/").expect("comments are closed").1 });
    }
    code
}

/// What stands between the braces of `what`.
fn body(what: &str) -> String {
    let code = code();
    let (_, rest) = code.split_once(&format!("{what} {{")).unwrap_or_else(|| panic!("no {what} in intf.h"));
    rest.split_once('}').unwrap().0.to_owned()
}

/// The names of an enum whose values count from 0, less the last, which says how many there are.
fn names(what: &str, prefix: &str) -> Vec<String> {
    let body = body(what);
    assert!(!body.contains('='), "{what}: values must count from 0");
    let names = body.split(',').map(str::trim).filter(|name| !name.is_empty());
    let mut names: Vec<_> = names.map(|name| name.strip_prefix(prefix).unwrap().to_lowercase()).collect();
    assert!(names.pop().unwrap().ends_with("max"), "{what}: the last is the count");
    names
}

/// Size of a struct whose members are padded by hand: the sum of them.
fn size(what: &str) -> usize {
    let mut size = 0;
    for member in body(what).split(';').map(str::trim).filter(|member| !member.is_empty()) {
        let (kind, name) = member.split_once(char::is_whitespace).unwrap();
        let one = match kind {
            "__u8" => 1,
            "__u16" => 2,
            "__u32" => 4,
            "__u64" => 8,
            other => panic!("{what}: size of {other}?"),
        };
        let count = match name.split_once('[').map(|(_, count)| count.trim_end_matches(']')) {
            None => 1,
            Some("XF_REASON_MAX") => Reason::COUNT,
            Some("XF_EDIT_MAX") => Edit::COUNT,
            Some(count) => count.parse().unwrap(),
        };
        assert_eq!(size % one, 0, "{what}: {name} is padded by the compiler");
        size += one * count;
    }
    size
}

/// The value of a `#define`.
fn define(name: &str) -> u64 {
    let start = format!("#define {name} ");
    let code = code();
    let value =
        code.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no {name}"));
    let value = value.trim().trim_end_matches('u');
    match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
        None => value.parse().unwrap(),
    }
}

#[test]
fn reasons_are_those_of_the_header() {
    let labels: Vec<_> = Reason::ALL.iter().map(|reason| reason.label().to_owned()).collect();
    assert_eq!(labels, names("enum xf_reason", "XF_"));
    assert!(Reason::ALL.iter().enumerate().all(|(n, reason)| *reason as usize == n));
}

#[test]
fn edits_are_those_of_the_header() {
    let labels: Vec<_> = Edit::ALL.iter().map(|edit| edit.label().to_owned()).collect();
    assert_eq!(labels, names("enum xf_edit", "XF_EDIT_"));
    assert!(Edit::ALL.iter().enumerate().all(|(n, edit)| *edit as usize == n));
}

#[test]
fn ways_are_those_of_the_header() {
    let labels: Vec<_> = Way::ALL.iter().map(|way| way.label().to_owned()).collect();
    assert_eq!(labels, names("enum xf_way", "XF_WAY_"));
    assert!(Way::ALL.iter().enumerate().all(|(n, way)| *way as usize == n));
}

#[test]
fn what_is_done_late_is_that_of_the_header() {
    let labels: Vec<_> = Late::ALL.iter().map(|late| late.label().to_owned()).collect();
    assert_eq!(labels, names("enum xf_late", "XF_LATE_"));
    assert!(Late::ALL.iter().enumerate().all(|(n, late)| *late as usize == n));
}

#[test]
fn sizes_are_those_of_the_header() {
    assert_eq!(Counters::SIZE, size("struct xf_counters"));
    assert_eq!(Route::SIZE, size("struct xf_route"));
    assert_eq!(Meta::SIZE, size("struct xf_meta"));
    assert_eq!(layout::PREFIX4_SIZE, size("struct xf_prefix4"));
    assert_eq!(layout::PREFIX6_SIZE, size("struct xf_prefix6"));
    assert_eq!(layout::SOURCE4_SIZE, size("struct xf_source4"));
    assert_eq!(layout::SOURCE6_SIZE, size("struct xf_source6"));
    assert_eq!(DeafHost::KEY_SIZE, size("struct xf_address"));
    assert_eq!(DeafHost::SIZE, size("struct xf_deaf"));
    assert_eq!(layout::Live::SIZE, size("struct xf_live"));
    assert_eq!(Shared::SIZE, size("struct xf_shared"));
    assert_eq!(Heartbeats::ENTRY, size("struct xf_heartbeat"));
}

#[test]
fn constants_are_those_of_the_header() {
    assert_eq!(u64::from(layout::META_MAGIC), define("XF_META_MAGIC"));
    assert_eq!(Shared::HELD, define("XF_HELD"));
    assert!(define("XF_FLOW_SLOTS").is_power_of_two() && define("XF_PAIR_SLOTS").is_power_of_two());
    assert_eq!(u64::from(layout::ROUTE_LOCAL), define("XF_ROUTE_LOCAL"));
    assert_eq!(u64::from(layout::ROUTE_PASS), define("XF_ROUTE_PASS"));
    assert_eq!(u64::from(layout::WAY_UDP_SHIFT), define("XF_WAY_UDP_SHIFT"));
    assert_eq!(u64::from(layout::WAY_OTHER_SHIFT), define("XF_WAY_OTHER_SHIFT"));
    assert_eq!(layout::MAX_ROUTES as u64, define("XF_ROUTES"));
}
