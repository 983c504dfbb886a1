//! `mtu`: the SA MTU of every security association of this machine, or of one described by flags.

use std::fmt::Write;
use std::io;
use std::net::IpAddr;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{Failure, output};
use crate::ipsec::{Encapsulation, Esp, Mode, Outer, SaMtu};
use crate::net::links::{self, Link, Tunnel};
use crate::net::xfrm::{self, Policy, Sa};
use crate::net::{addresses, route};
use crate::observe::layout;

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
    /// Destination prefixes of the policies that use it.
    selectors: Vec<String>,
    /// Sizes in bytes.
    sizes: Option<SaMtu>,
    /// Why there are no sizes.
    unknown: Option<String>,
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
    let sizes =
        Encapsulation { esp, mode, nat_t: args.nat_t, outer }.sa_mtu(args.path_mtu).ok_or_else(|| {
            Failure::Usage(format!("--path-mtu {} is too short for any packet in this ESP", args.path_mtu))
        })?;
    if args.json {
        return output::print_json(&sizes);
    }
    output::print(&format!("SA MTU {} (MSS: IPv4 {}, IPv6 {})\n{sizes}\n", sizes.mtu, sizes.mss4, sizes.mss6))
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
        eprintln!("no ESP security association in this network namespace; try --esp PROPOSAL");
    }
    output::print(&report(&rows).context("formatting")?)
}

fn rows() -> io::Result<Vec<Row>> {
    let local = addresses::local()?;
    let policies = xfrm::policies()?;
    let links = links::all()?;
    xfrm::states()?.into_iter().map(|sa| row(&sa, local.contains(&sa.src), &policies, &links)).collect()
}

fn row(sa: &Sa, outbound: bool, policies: &[Policy], links: &[Link]) -> io::Result<Row> {
    let (here, peer) = if outbound { (sa.src, sa.dst) } else { (sa.dst, sa.src) };
    let served = policies.iter().filter(|policy| outbound && policy.uses(sa));
    // An SA of a VTI has its mark, or none, and then its policies have it.
    let marks: Vec<u32> =
        served.clone().map(|policy| policy.mark).chain([sa.mark]).map(|mark| mark.0).collect();
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
        selectors: served.map(|policy| format!("{}/{}", policy.dst.0, policy.dst.1)).collect(),
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

/// Destinations, and the interface that leads to them.
fn serves(row: &Row) -> String {
    let interface = match (&row.interface, row.if_id) {
        (Some(name), 0) => format!("via {name}"),
        (Some(name), if_id) => format!("via {name} (if_id {if_id})"),
        (None, 0) => String::new(),
        (None, if_id) => format!("if_id {if_id}"),
    };
    format!("{} {interface}", row.selectors.join(" ")).trim().to_owned()
}

/// A table, and below it the derivations.
fn report(rows: &[Row]) -> Result<String, std::fmt::Error> {
    if rows.is_empty() {
        return Ok(String::new());
    }
    let mut table = layout::table(&["DIR", "PEER", "SPI", "MODE", "SA MTU", "MSS 4/6", "FOR"]);
    for row in rows {
        let [mtu, mss] = row.sizes.map_or(["?".into(), "?".into()], |sizes| {
            [sizes.mtu.to_string(), format!("{}/{}", sizes.mss4, sizes.mss6)]
        });
        let peer = row.peer.to_string();
        let serves = serves(row);
        table.add_row([row.direction, &peer, &row.spi, mode(row), &mtu, &mss, &serves]);
    }
    let mut text = layout::text(&table);
    for row in rows {
        let mode = mode(row);
        let nat_t = if row.nat_t { " in UDP" } else { "" };
        writeln!(text, "\n{} {mode}, {}, over {}{nat_t}:", row.spi, row.algorithm, row.outer)?;
        match (&row.sizes, &row.unknown) {
            (Some(sizes), _) => writeln!(text, "  {sizes}")?,
            (None, why) => writeln!(text, "  not known: {}", why.as_deref().unwrap_or_default())?,
        }
    }
    Ok(text)
}
