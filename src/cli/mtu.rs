//! `mtu`: the SA MTU of every security association of this machine, or of one described by flags.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::io;
use std::net::IpAddr;

use anyhow::Context;
use clap::{Args, ValueEnum};
use comfy_table::ContentArrangement;
use serde::Serialize;

use super::{Failure, output};
use crate::ipsec::{Encapsulation, Esp, Mode, Outer, SaMtu};
use crate::net::links::{self, Link, Tunnel};
use crate::net::xfrm::{self, Policy, Sa};
use crate::net::{addresses, route};
use crate::observe::layout;
use crate::packet::MIN_MTU;

/// The flags of `mtu`.
#[derive(Debug, Args)]
pub(super) struct MtuArgs {
    /// Calculate for this ESP proposal, such as aes256-sha256 or aes128gcm16, and not for the kernel's SAs
    #[arg(long, value_name = "PROPOSAL")]
    esp: Option<Esp>,

    /// With --esp: ESP in UDP, as behind NAT
    #[arg(long, requires = "esp")]
    nat_t: bool,

    /// With --esp: transport mode
    #[arg(long, requires = "esp")]
    transport: bool,

    /// With --esp: IP version between the gateways
    #[arg(long, value_enum, default_value_t = Version::V4, requires = "esp")]
    outer: Version,

    /// With --esp: MTU of the path between the gateways, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500, requires = "esp",
          value_parser = clap::value_parser!(u32).range(68..=65535))]
    path_mtu: u32,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Version {
    #[value(name = "4")]
    V4,
    #[value(name = "6")]
    V6,
}

/// One security association.
#[derive(Debug, Serialize)]
struct Row {
    /// `out` if this machine encrypts with it.
    direction: &'static str,
    peer: IpAddr,
    spi: String,
    mode: Option<Mode>,
    algorithm: String,
    nat_t: bool,
    outer: Outer,
    /// Of its XFRM interface; 0 for none.
    if_id: u32,
    /// Name of its XFRM interface or VTI.
    interface: Option<String>,
    /// What the policies that use it select.
    selectors: Vec<Selector>,
    /// Sizes in bytes.
    sizes: Option<SaMtu>,
    /// Why there are no sizes.
    unknown: Option<String>,
}

/// Which packets a policy selects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Selector {
    source: String,
    destination: String,
    /// Name or number; `None` for any.
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    /// A port or a range, or the ICMP type.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<String>,
    /// A port or a range, or the ICMP code.
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<String>,
}

impl From<&Policy> for Selector {
    fn from(policy: &Policy) -> Selector {
        let prefix = |(address, length): (IpAddr, u8)| format!("{address}/{length}");
        Selector {
            source: prefix(policy.src),
            destination: prefix(policy.dst),
            protocol: (policy.protocol != 0).then(|| protocol(policy.protocol)),
            source_port: ports(policy.src_port),
            destination_port: ports(policy.dst_port),
        }
    }
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        47 => "gre".into(),
        58 => "ipv6-icmp".into(),
        132 => "sctp".into(),
        other => other.to_string(),
    }
}

/// A value under a mask as a port or a range; `None` for any.
fn ports((value, mask): (u16, u16)) -> Option<String> {
    let last = value | !mask;
    match mask {
        0 => None,
        u16::MAX => Some(value.to_string()),
        _ if mask.leading_ones() + mask.trailing_zeros() == u16::BITS => Some(format!("{value}-{last}")),
        _ => Some(format!("{value:#x}/{mask:#x}")),
    }
}

/// As swanctl writes traffic selectors.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let protocol = self.protocol.as_deref();
        let part = |prefix: &str, protocol: Option<&str>, port: &Option<String>| match (protocol, port) {
            (None, None) => prefix.to_owned(),
            (Some(protocol), None) => format!("{prefix}[{protocol}]"),
            (protocol, Some(port)) => format!("{prefix}[{}/{port}]", protocol.unwrap_or("any")),
        };
        let source = part(&self.source, protocol.filter(|_| self.source_port.is_some()), &self.source_port);
        let destination = part(&self.destination, protocol, &self.destination_port);
        write!(f, "{source} -> {destination}")
    }
}

pub(super) fn mtu(args: &MtuArgs) -> Result<(), Failure> {
    match args.esp {
        Some(esp) => described(args, esp),
        None => of_the_kernel(args.json),
    }
}

fn described(args: &MtuArgs, esp: Esp) -> Result<(), Failure> {
    let outer = match args.outer {
        Version::V4 => Outer::V4,
        Version::V6 => Outer::V6,
    };
    let mode = if args.transport { Mode::Transport } else { Mode::Tunnel };
    let path_mtu = args.path_mtu;
    let short = |why: String| Failure::Usage(format!("--path-mtu {path_mtu}: {why}"));
    let sizes = Encapsulation { esp, mode, nat_t: args.nat_t, outer }
        .sa_mtu(path_mtu)
        .ok_or_else(|| short("too short for any packet in this ESP".into()))?;
    if sizes.mtu < u32::from(MIN_MTU) {
        return Err(short(format!(
            "the SA MTU would be {} bytes, below the {MIN_MTU} that every IPv4 network carries (RFC 791 section 3.2); \
             give the MTU of the path between the gateways, such as 1500",
            sizes.mtu
        )));
    }
    if args.json {
        return output::print_json(&sizes);
    }
    output::print(&format!(
        "SA MTU {} (MSS: IPv4 {}, IPv6 {})\n{}\n",
        sizes.mtu,
        sizes.mss4,
        sizes.mss6,
        sizes.derivation("path MTU")
    ))
}

fn of_the_kernel(json: bool) -> Result<(), Failure> {
    let rows = rows().map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => {
            Failure::Unfit("reading the kernel's SAs needs CAP_NET_ADMIN: run as root".into())
        }
        Some(libc::EPROTONOSUPPORT) => {
            Failure::Unfit("this kernel has no XFRM (modprobe xfrm_user); try --esp PROPOSAL".into())
        }
        _ => anyhow::Error::new(error).context("cannot read the kernel's SAs").into(),
    })?;
    if json {
        return output::print_json(&rows);
    }
    if rows.is_empty() {
        output::tell("no ESP security association in this network namespace; try --esp PROPOSAL");
    }
    output::print(&report(&rows).context("formatting")?)
}

fn rows() -> io::Result<Vec<Row>> {
    let local = addresses::local()?;
    let policies = xfrm::all_policies()?;
    let links = links::all()?;
    xfrm::states()?.into_iter().map(|sa| row(&sa, local.contains(&sa.src), &policies, &links)).collect()
}

fn row(sa: &Sa, outbound: bool, policies: &[Policy], links: &[Link]) -> io::Result<Row> {
    let (here, peer) = if outbound { (sa.src, sa.dst) } else { (sa.dst, sa.src) };
    let served = policies.iter().filter(|policy| policy.outbound == outbound && policy.uses(sa));
    // An SA of a VTI has its mark, or none, and then its policies have it.
    let marks: Vec<u32> = served
        .clone()
        .filter(|policy| policy.outbound)
        .map(|policy| policy.mark)
        .chain([sa.mark])
        .map(|mark| mark.0)
        .collect();
    let through = |tunnel: &Tunnel| match tunnel {
        Tunnel::IfId(id) => *id == sa.if_id,
        Tunnel::Mark(mark) => *mark != 0 && marks.contains(mark),
        Tunnel::External => false,
    };
    let interface = links.iter().find(|link| link.tunnel.as_ref().is_some_and(through));
    let mut row = Row {
        direction: if outbound { "out" } else { "in" },
        peer,
        spi: format!("{:#010x}", sa.spi),
        mode: sa.mode(),
        algorithm: algorithm(sa),
        nat_t: sa.nat_t(),
        outer: sa.outer(),
        if_id: sa.if_id,
        interface: interface.map(|link| link.name.clone()),
        // What comes in and what is forwarded then have policies of the same selector.
        selectors: served.map(Selector::from).collect::<BTreeSet<_>>().into_iter().collect(),
        sizes: None,
        unknown: None,
    };
    let hop = route::first_hop(peer, outbound.then_some(here), sa.output_mark)?;
    match sa.sizes(hop.and_then(|hop| hop.path_mtu(links)), peer) {
        Ok(sizes) => row.sizes = Some(sizes),
        Err(why) => row.unknown = Some(why),
    }
    Ok(row)
}

fn algorithm(sa: &Sa) -> String {
    let bits = sa.icv_bits;
    match &sa.authenticator {
        Some(authenticator) => format!("{} {authenticator}/{bits}", sa.cipher),
        None => format!("{}/{bits}", sa.cipher),
    }
}

fn mode(row: &Row) -> &'static str {
    match row.mode {
        Some(Mode::Tunnel) => "tunnel",
        Some(Mode::Transport) => "transport",
        None => "other",
    }
}

/// The interface that leads to it.
fn interface(row: &Row) -> Option<String> {
    match (&row.interface, row.if_id) {
        (Some(name), 0) => Some(format!("via {name}")),
        (Some(name), if_id) => Some(format!("via {name} (if_id {if_id})")),
        (None, 0) => None,
        (None, if_id) => Some(format!("if_id {if_id}")),
    }
}

/// A table with the selectors below each SA, which are long, and below it the derivations.
fn report(rows: &[Row]) -> Result<String, fmt::Error> {
    if rows.is_empty() {
        return Ok(String::new());
    }
    let mut table = layout::table(&["DIR", "PEER", "SPI", "MODE", "SA MTU", "MSS 4/6"]);
    // A line each.
    table.set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        let [mtu, mss] = row.sizes.map_or(["?".into(), "?".into()], |sizes| {
            [sizes.mtu.to_string(), format!("{}/{}", sizes.mss4, sizes.mss6)]
        });
        table.add_row([row.direction, &row.peer.to_string(), &row.spi, mode(row), &mtu, &mss]);
    }
    let table = layout::text(&table);
    let mut lines = table.lines();
    let mut text = format!("{}\n", lines.next().unwrap_or_default());
    for (row, line) in rows.iter().zip(lines) {
        writeln!(text, "{line}")?;
        for selector in &row.selectors {
            writeln!(text, "     {selector}")?;
        }
        if let Some(interface) = interface(row) {
            writeln!(text, "     {interface}")?;
        }
    }
    for row in rows {
        let mode = mode(row);
        let nat_t = if row.nat_t { " in UDP" } else { "" };
        writeln!(text, "\n{} {mode}, {}, over {}{nat_t}:", row.spi, row.algorithm, row.outer)?;
        match (&row.sizes, &row.unknown) {
            (Some(sizes), _) => {
                writeln!(text, "  {}", sizes.derivation(&format!("path MTU to {}", row.peer)))?;
            }
            (None, why) => writeln!(text, "  not known: {}", why.as_deref().unwrap_or_default())?,
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
