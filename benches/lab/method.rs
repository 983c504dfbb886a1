//! What is compared.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use nix::net::if_::if_nametoindex;
use xdpfrag::config::{HandbackChoice, Redirect};
use xdpfrag::lab::bench::bare::Bare;
use xdpfrag::lab::bench::{Cores, Limits, Testbed};
use xdpfrag::lab::{Daemon, LAN, Lab, LabConfig};
use xdpfrag::xdp::sys::{Link, TcxHook};

pub(crate) const SA_MTU: u32 = 1422;
pub(crate) const MSS: u32 = SA_MTU - 40;

/// A way to get packets across the gateway.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Method {
    /// No rewriting, to a link that takes 1500 bytes.
    Plain,
    /// DF cleared and MSS clamped by nftables, fragmented by the kernel.
    Nftables,
    /// `xdpfrag run`.
    Xdpfrag(HandbackChoice, Redirect),
    /// `run` of another xdpfrag.
    Another(PathBuf, HandbackChoice, Redirect),
    /// No method but what bounds them: plain forwarding behind programs that do next to nothing.
    Behind(Programs),
}

/// Programs at eth1, the least of their kind: XDP_PASS, and what a tcx program does behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Programs {
    /// Neither.
    None,
    /// Nothing.
    Empty,
    /// DF is cleared, and the MSS of SYNs set, without a look at what a frame is.
    Edit,
    /// That, and what is oversize is cut in two.
    Cut,
}

/// What works at a gateway, until this is dropped.
#[derive(Debug)]
pub(crate) enum Running {
    Nothing,
    Daemon(Daemon),
    Programs { _xdp: Bare, _tcx: Link },
}

impl Running {
    pub(crate) fn stop(self) -> Result<()> {
        match self {
            Running::Daemon(daemon) => daemon.stop().map(drop),
            Running::Nothing | Running::Programs { .. } => Ok(()),
        }
    }
}

impl Method {
    /// All, with every hand-back and redirect mode that xdpfrag has; with `late` next to nothing is handed back, so that
    /// one hand-back does.
    pub(crate) fn all() -> Vec<Method> {
        let handbacks = HandbackChoice::value_variants().iter();
        let pairs = handbacks
            .flat_map(|handback| Redirect::value_variants().iter().map(|redirect| (*handback, *redirect)));
        let told_apart = |pair: &(HandbackChoice, Redirect)| {
            pair.0 != HandbackChoice::Auto
                && pair.1 != Redirect::Auto
                && (pair.0 == HandbackChoice::Inject || pair.1 != Redirect::Late)
        };
        let ours = pairs.filter(told_apart).map(|(handback, redirect)| Method::Xdpfrag(handback, redirect));
        [Method::Plain, Method::Nftables].into_iter().chain(ours).collect()
    }

    /// Those that are measured unless asked for others: what people use today, and what `auto` does on one kernel or
    /// another.
    pub(crate) fn usual() -> Vec<Method> {
        let mut methods = Method::all();
        let rare = |method: &Method| {
            matches!(method, Method::Xdpfrag(HandbackChoice::Veth, _) | Method::Xdpfrag(_, Redirect::All))
        };
        methods.retain(|method| !rare(method));
        methods
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Method::Plain => "plain".into(),
            Method::Nftables => "nftables".into(),
            Method::Xdpfrag(handback, redirect) => match redirect {
                Redirect::Oversize => flag(handback),
                _ => format!("{}-{}", flag(handback), flag(redirect)),
            },
            Method::Another(_, handback, redirect) => {
                format!("{} (other)", Method::Xdpfrag(*handback, *redirect).name())
            }
            Method::Behind(programs) => format!("plain behind {programs:?}"),
        }
    }

    pub(crate) fn description(&self) -> String {
        match self {
            Method::Plain => "plain forwarding to a link of 1500 bytes, nothing rewritten".into(),
            Method::Nftables => "DF cleared and MSS clamped by nftables, fragmented by the kernel".into(),
            Method::Xdpfrag(handback, redirect) => {
                format!("xdpfrag run --handback {} --redirect {}", flag(handback), flag(redirect))
            }
            Method::Another(binary, handback, redirect) => {
                format!("{}, by {}", Method::Xdpfrag(*handback, *redirect).description(), binary.display())
            }
            Method::Behind(_) => "what bounds every method".into(),
        }
    }

    /// The same by another binary; nothing of what is not xdpfrag.
    pub(crate) fn of_another(&self, binary: &Path) -> Option<Method> {
        match self {
            Method::Xdpfrag(handback, redirect) => {
                Some(Method::Another(binary.to_owned(), *handback, *redirect))
            }
            _ => None,
        }
    }

    fn fragments(&self) -> bool {
        !matches!(self, Method::Plain | Method::Behind(_))
    }

    pub(crate) fn lab(&self) -> Result<Lab> {
        let sa_mtu = if self.fragments() { SA_MTU } else { 1500 };
        Lab::new(&LabConfig { sa_mtu, ..LabConfig::default() })
    }

    pub(crate) fn limits(&self) -> Limits {
        match self.fragments() {
            true => Limits { mtu: SA_MTU, mss: MSS },
            false => Limits { mtu: 1500, mss: 1460 },
        }
    }

    /// Lets the gateway do it.
    pub(crate) fn start(
        &self,
        lab: &Lab,
        testbed: &mut Testbed<'_>,
        cores: Cores,
        binary: &Path,
        more: &str,
    ) -> Result<Running> {
        match self {
            Method::Plain => Ok(Running::Nothing),
            Method::Nftables => {
                lab.clear_df_with_nftables()?;
                let clamp = format!(
                    "add rule ip lab early iifname {LAN} tcp flags syn tcp option maxseg size set {MSS}"
                );
                lab.gateway.output("nft", &[&clamp])?;
                Ok(Running::Nothing)
            }
            Method::Another(binary, handback, redirect) => {
                Method::Xdpfrag(*handback, *redirect).start(lab, testbed, cores, binary, more)
            }
            Method::Xdpfrag(handback, redirect) => {
                let mut flags: Vec<(&str, String)> = vec![
                    ("--mtu", SA_MTU.to_string()),
                    ("--cores", cores.router.to_string()),
                    ("--tcp", "resegment".into()),
                    ("--poll", "wait".into()),
                    ("--handback", flag(handback)),
                    ("--redirect", flag(redirect)),
                ];
                let more: Vec<&str> = more.split_whitespace().collect();
                flags.retain(|(name, _)| !more.contains(name));
                let arguments: Vec<&str> = flags
                    .iter()
                    .flat_map(|(name, value)| [*name, value])
                    .chain(more.iter().copied())
                    .collect();
                testbed.start(lab, binary, &arguments).map(Running::Daemon)
            }
            Method::Behind(programs) => programs.start(lab),
        }
    }
}

impl Programs {
    fn start(self, lab: &Lab) -> Result<Running> {
        let behind = match self {
            Programs::None => return Ok(Running::Nothing),
            Programs::Empty => "bench_next",
            Programs::Edit => "bench_edit",
            Programs::Cut => "bench_cut",
        };
        let xdp = Bare::passing(lab)?;
        let behind = xdp.behind(behind)?;
        let attach = || Ok(Link::tcx(behind.as_fd(), if_nametoindex(LAN)?, TcxHook::Ingress)?);
        Ok(Running::Programs { _tcx: lab.gateway.run(attach)?, _xdp: xdp })
    }
}

/// As it is written on the command line.
fn flag(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
