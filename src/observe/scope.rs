//! What is in scope, as lines of a table for people.

use std::fmt::Write;

use super::layout::{grouped, wrapped};
use super::snapshot::{InterfaceSnapshot, RouteSnapshot, WaysSnapshot};

/// Where the lines of a route and of an exception begin, and where they go on.
const INDENT: (usize, usize) = (2, 6);

/// Appends routes and exceptions of `interface`, and of the routes the SPIs; or so many at most, and no SPIs.
pub(super) fn write(out: &mut String, interface: &InterfaceSnapshot, most: Option<usize>) {
    let routes = interface.routes.iter().map(|one| route(one, most.is_none()));
    let most = most.unwrap_or(usize::MAX);
    let exceptions = interface.exceptions.iter().map(|pair| format!("but to {pair}: untouched"));
    for line in routes.chain(exceptions).take(most) {
        out.push_str(&wrapped(&line, INDENT));
    }
    let all = interface.routes.len() + interface.exceptions.len();
    if let Some(more) = all.checked_sub(most).filter(|more| *more > 0) {
        let _ = writeln!(out, "  and {} more: xdpfrag stats", grouped(more as u64));
    }
    if interface.auto && interface.routes.is_empty() {
        out.push_str("  no tunnel: everything passes untouched\n");
    }
}

fn route(route: &RouteSnapshot, spis: bool) -> String {
    let mut line = format!("to {}", route.prefix);
    // Writing to a string does not fail.
    if let Some(source) = &route.source {
        let _ = write!(line, " from {source}");
    }
    let _ = write!(line, ": SA MTU {}", route.mtu);
    if let Some(mss) = route.mss4.or(route.mss6) {
        let _ = write!(line, ", MSS {mss}");
    }
    if let Some(via) = &route.via {
        let _ = write!(line, " ({via})");
    }
    if spis && !route.spis.is_empty() {
        let _ = write!(line, ", SPI {}", route.spis.join(" "));
    }
    if let Some(WaysSnapshot { udp, other, why }) = &route.ways {
        let _ = match udp == other {
            true => write!(line, "; {udp}"),
            false => write!(line, "; {udp} for UDP, else {other}"),
        };
        if spis && !why.is_empty() {
            let _ = write!(line, ": {why}");
        }
    }
    line
}
