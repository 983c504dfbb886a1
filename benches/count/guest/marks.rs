//! What the guest tells `plugin/counter.c`: whose code is whose, and when to count.
#![allow(unsafe_code)]

use std::arch::asm;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// `char line[]` of `obey()`.
const LINE: usize = 512;

/// Modules whose functions are to have names, all that the rows need: read once, since reading takes seconds.
const MODULES: &str = "veth esp4 xfrm_user xfrm_interface tun af_packet cls_bpf sch_ingress nf_tables nft_ct nft_nat \
    nft_chain_nat nf_nat nft_flow_offload nf_flow_table nf_flow_table_inet";

/// Marked functions: name, kind and owner, as `add_mark()` of the plugin has them. Of each pair that calls each other one
/// would do; kernels differ in which is called.
const MARKS: [(&str, &str); 14] = [
    ("__switch_to", "switch"),
    ("handle_softirqs", "owner softirq"),
    ("veth_xmit", "sends"),
    ("veth_poll", "poll"),
    // Of a tunnel by policy the whole machine has one: here the second gateway, since what it decapsulates is what we count.
    ("gro_cell_poll", "poll"),
    ("__netif_receive_skb", "device-of-skb"),
    ("__netif_receive_skb_one_core", "device-of-skb"),
    ("__netif_receive_skb_core.constprop.0", "device-of-list"),
    ("__netif_receive_skb_list_core", "device-of-list"),
    ("netif_receive_skb_list_internal", "device-of-list"),
    ("xfrm_output", "within esp gateway1"),
    ("ip_output", "within after esp"),
    ("bpf_test_run_xdp_live", "within live daemon"),
    ("bpf_check", "owner verifier"),
];

/// Executes the no-op that the plugin knows.
pub(crate) fn tell(line: &str) {
    let mut buffer = [0u8; LINE];
    let length = line.len().min(LINE - 1);
    buffer[..length].copy_from_slice(&line.as_bytes()[..length]);
    // SAFETY: the instruction is a no-op (Intel SDM, NOP with a memory operand, which is not accessed); the plugin reads
    // the buffer, which lives until after it.
    unsafe {
        asm!(".byte 0x0f, 0x1f, 0x80, 0x63, 0x75, 0x6e, 0x74", in("rdi") buffer.as_ptr(), options(nostack, preserves_flags));
    }
}

/// From here on the calling thread works for `owner`.
pub(crate) fn work_for(owner: &str) {
    tell(&format!("task {owner}"));
}

/// Loads modules, saves the kernel's symbols beside the results and marks functions.
pub(crate) fn prepare(shared: &Path, aesni: bool) -> Result<()> {
    let mut modules: Vec<_> = MODULES.split_whitespace().collect();
    if aesni {
        modules.push("aesni_intel");
    }
    for module in modules {
        let status = Command::new("modprobe").arg(module).status().context("modprobe")?;
        ensure!(status.success(), "modprobe {module} fails");
    }
    let symbols = fs::read_to_string("/proc/kallsyms").context("/proc/kallsyms")?;
    let addresses: HashMap<_, _> = symbols.lines().filter_map(symbol).map(|(at, name)| (name, at)).collect();
    for (function, kind) in MARKS {
        let address = addresses.get(function).with_context(|| format!("this kernel has no {function}()"))?;
        tell(&format!("mark {address} {kind}"));
    }
    tell("strangers daemon");
    fs::write(shared.join("kallsyms"), symbols)?;
    Ok(())
}

/// Address and name of a line of /proc/kallsyms.
fn symbol(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    let (address, _kind, name) = (words.next()?, words.next()?, words.next()?);
    Some((address, name))
}
