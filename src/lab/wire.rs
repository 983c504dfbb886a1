//! What arrives at an end host: counted, and mistreated on purpose (`bpf/lab.bpf.c`).

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, TC_EGRESS, TC_INGRESS, TcAttachPoint,
    TcHookBuilder,
};
use nix::net::if_::if_nametoindex;

use super::namespace::Namespace;

pub(super) static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lab.bpf.o"));

/// `LENGTHS` of `bpf/lab.bpf.c`.
const LENGTHS: u32 = 9217;

/// Bad manners: `struct lab_rules`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// Every n-th fragment is lost; 0 for none.
    pub lose_fragment: u32,
    /// SYNs announce an MSS of 1460 whatever they said, and ICMP 3/4 is dropped.
    pub deaf: bool,
    /// Nothing goes further than the program.
    pub sink: bool,
}

/// What has arrived so far: `struct lab_seen`, and the lengths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// IPv4 packets.
    pub packets: u64,
    /// Fragments among them.
    pub fragments: u64,
    /// Packets with DF.
    pub df: u64,
    /// Fragments lost on purpose.
    pub lost: u64,
    /// ICMP "fragmentation needed" messages.
    pub too_big: u64,
    /// TCP segments with SYN.
    pub syn: u64,
    /// Largest MSS that a SYN announced, before deafness raised it.
    pub syn_mss: u64,
    /// (IP total length, packets), ascending, lengths that occurred.
    pub lengths: Vec<(u32, u64)>,
}

impl Seen {
    /// Length of the longest packet, bytes; 0 if there was none.
    pub fn largest(&self) -> u32 {
        self.lengths.last().map_or(0, |(length, _)| *length)
    }
}

/// The program at the ingress of one interface. It goes with its namespace.
#[derive(Debug)]
pub struct Wire {
    rules: MapHandle,
    seen: MapHandle,
    lengths: MapHandle,
}

impl Wire {
    /// Attaches the program to what `interface` receives.
    ///
    /// # Errors
    /// Without CAP_BPF and CAP_NET_ADMIN, or if the kernel has no `cls_bpf`.
    pub fn attach(namespace: &Namespace, interface: &str, rules: Rules) -> Result<Wire> {
        let object = ObjectBuilder::default().open_memory(OBJECT)?.load()?;
        let wire = Wire {
            rules: map(&object, "rules")?,
            seen: map(&object, "seen")?,
            lengths: map(&object, "lengths")?,
        };
        wire.set(rules)?;
        attach(namespace, interface, &object, "lab_ingress", TC_INGRESS, 2)?;
        Ok(wire)
    }

    /// Changes the rules from now on.
    ///
    /// # Errors
    /// If the kernel refuses the map update.
    pub fn set(&self, rules: Rules) -> Result<()> {
        update(&self.rules, [rules.lose_fragment, u32::from(rules.deaf), u32::from(rules.sink), 0])
    }

    /// What has arrived since [`Wire::reset`].
    ///
    /// # Errors
    /// If the kernel refuses a map look-up.
    pub fn seen(&self) -> Result<Seen> {
        let [packets, fragments, df, lost, too_big, syn, syn_mss] = counters(&self.seen, 0)?;
        let mut lengths = Vec::new();
        for length in 0..LENGTHS {
            let [count] = counters(&self.lengths, length)?;
            if count > 0 {
                lengths.push((length, count));
            }
        }
        Ok(Seen { packets, fragments, df, lost, too_big, syn, syn_mss, lengths })
    }

    /// Counts from zero again.
    ///
    /// # Errors
    /// If the kernel refuses a map update.
    pub fn reset(&self) -> Result<()> {
        for (map, entries) in [(&self.seen, 1), (&self.lengths, LENGTHS)] {
            let zero = vec![0; map.value_size() as usize];
            for key in 0..entries {
                map.update(&key.to_ne_bytes(), &zero, MapFlags::ANY)?;
            }
        }
        Ok(())
    }
}

/// Tags all that `interface` sends and untags all that it receives: a VLAN for kernels without 8021q.
///
/// # Errors
/// See [`Wire::attach`].
pub fn tag(namespace: &Namespace, interface: &str, vlan: u16) -> Result<()> {
    let object = ObjectBuilder::default().open_memory(OBJECT)?.load()?;
    update(&map(&object, "rules")?, [0, 0, 0, u32::from(vlan)])?;
    attach(namespace, interface, &object, "lab_tag", TC_EGRESS, 1)?;
    attach(namespace, interface, &object, "lab_untag", TC_INGRESS, 1)
}

/// Occupies the XDP slot of `interface` with a program that passes everything, while the link is held.
///
/// # Errors
/// Without CAP_BPF and CAP_NET_ADMIN, or if the slot is taken.
pub fn occupy_xdp(namespace: &Namespace, interface: &str) -> Result<Link> {
    let object = ObjectBuilder::default().open_memory(OBJECT)?.load()?;
    namespace
        .run(|| {
            let squatter = object.progs_mut().find(|program| program.name() == "lab_squatter");
            let squatter = squatter.context("a program is missing")?;
            Ok(squatter.attach_xdp(i32::try_from(if_nametoindex(interface)?)?)?)
        })
        .with_context(|| format!("cannot attach an XDP program to {interface}"))
}

/// Attaches one program of the object; the filter keeps it alive.
pub(super) fn attach(
    namespace: &Namespace,
    interface: &str,
    object: &Object,
    name: &str,
    point: TcAttachPoint,
    priority: u32,
) -> Result<()> {
    let program = object.progs().find(|program| program.name() == name).context("a program is missing")?;
    let fd = program.as_fd();
    // libbpf would complain aloud about a qdisc that is there already.
    namespace.output("tc", &["qdisc", "replace", "dev", interface, "clsact"])?;
    namespace
        .run(|| {
            let index = i32::try_from(if_nametoindex(interface)?)?;
            TcHookBuilder::new(fd)
                .ifindex(index)
                .replace(false)
                .handle(1)
                .priority(priority)
                .hook(point)
                .attach()?;
            Ok(())
        })
        .with_context(|| format!("cannot attach {name} to {interface}"))
}

pub(super) fn map(object: &Object, name: &str) -> Result<MapHandle> {
    let map = object.maps().find(|map| map.name() == name).context("a map is missing")?;
    Ok(MapHandle::try_from(&map)?)
}

/// Sets `struct lab_rules`.
fn update(rules: &MapHandle, values: [u32; 4]) -> Result<()> {
    rules.update(&0u32.to_ne_bytes(), &values.map(u32::to_ne_bytes).concat(), MapFlags::ANY)?;
    Ok(())
}

/// One array entry as counters.
fn counters<const N: usize>(map: &MapHandle, key: u32) -> Result<[u64; N]> {
    let value = map.lookup(&key.to_ne_bytes(), MapFlags::ANY)?.context("an array entry is missing")?;
    let (words, rest) = value.as_chunks::<8>();
    anyhow::ensure!(
        rest.is_empty() && words.len() == N,
        "a map value has {} bytes, not {}",
        value.len(),
        N * 8
    );
    Ok(std::array::from_fn(|index| u64::from_ne_bytes(words[index])))
}
