//! Two strongSwan gateways, set up as the README says: `swanctl/` holds the files that it shows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xdpfrag::lab::Daemon;
use xdpfrag::lab::namespace::Tethered;

use crate::esp;
use crate::gateways::{Gateways, Site};

/// How long a daemon may take to listen and two to agree, under emulation.
const PATIENCE: Duration = Duration::from_secs(30);

/// A charon in a router's namespace, ended with the handle.
pub(crate) struct Charon<'a> {
    site: &'a Site,
    directory: PathBuf,
    _process: Tethered,
}

impl<'a> Charon<'a> {
    pub(crate) fn start(site: &'a Site) -> Result<Charon<'a>> {
        let name = site.router.name();
        let directory = Path::new("/run/swan").join(name);
        fs::create_dir_all(&directory)?;
        // Files and socket of its own: the machine's strongSwan, if there is one, uses those in /etc and /run.
        let settings = format!(
            "charon-systemd {{\n load = random nonce openssl drbg kdf hmac kernel-netlink socket-default vici\n \
             plugins {{ vici {{ socket = unix://{0}/vici }} }}\n \
             filelog {{ log {{ path = {0}/log\n default = 1 }} }}\n}}\n",
            directory.display()
        );
        fs::write(directory.join("strongswan.conf"), settings)?;
        // Left behind by an earlier one.
        let _removed = fs::remove_file(directory.join("vici"));
        let mut command = Command::new("env");
        command.arg(format!("STRONGSWAN_CONF={}/strongswan.conf", directory.display()));
        command.arg("/usr/sbin/charon-systemd");
        let charon = Charon { site, _process: site.router.spawn(command)?, directory };
        let deadline = Instant::now() + PATIENCE;
        while !charon.directory.join("vici").exists() {
            if Instant::now() > deadline {
                bail!("{name}: charon does not listen");
            }
            sleep(Duration::from_millis(100));
        }
        Ok(charon)
    }

    pub(crate) fn swanctl(&self, arguments: &[&str]) -> Result<String> {
        let settings = format!("STRONGSWAN_CONF={}/strongswan.conf", self.directory.display());
        let socket = format!("unix://{}/vici", self.directory.display());
        let all = [&[settings.as_str(), "swanctl"], arguments, &["--uri", &socket]].concat();
        self.site.router.output("env", &all)
    }

    /// Loads the file of its gateway below tests/vm/swanctl.
    pub(crate) fn load(&self) -> Result<()> {
        self.write_settings("")?;
        self.run("swanctl --load-all")
    }

    /// Puts the file of its gateway below tests/vm/swanctl in place, with `more` settings of its child.
    fn write_settings(&self, more: &str) -> Result<()> {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/swanctl").join(self.site.router.name());
        let settings = fs::read_to_string(file.with_extension("conf"))?;
        fs::write(
            self.directory.join("swanctl.conf"),
            settings.replace("lan {", &format!("lan {{\n{more}")),
        )?;
        Ok(())
    }

    /// Runs a command as the README has it, with this daemon and its file.
    fn run(&self, command: &str) -> Result<()> {
        let file = self.directory.join("swanctl.conf").to_string_lossy().into_owned();
        let mut words: Vec<_> = command.split_whitespace().skip(1).collect();
        if words == ["--load-all"] {
            words.extend(["--file", &file]);
        }
        self.swanctl(&words).with_context(|| self.log())?;
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_else(|error| error.to_string())
    }
}

/// The section of the README.
fn section() -> &'static str {
    let rest = include_str!("../../README.md").split_once("## With strongSwan").unwrap().1;
    rest.split_once("\n## ").unwrap().0
}

/// Its commands.
fn commands() -> Vec<&'static str> {
    let lines = section().lines().filter_map(|line| line.strip_prefix("    "));
    let commands = lines.filter(|line| line.starts_with("swanctl") || line.starts_with("xdpfrag"));
    commands.map(|line| line.split('#').next().unwrap().trim()).collect()
}

/// SPIs differ each time.
fn without_spis(text: &str) -> String {
    let mut parts = text.split("0x");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "SPI" + part.get(8..).unwrap_or_default())
}

/// Does what the README says, with `more` settings of the child, and sends through the tunnel.
fn carry(more: &str) {
    let gateways = Gateways::new(4, None).unwrap();
    let charons @ [one, _] = &gateways.sites.each_ref().map(|site| Charon::start(site).unwrap());
    let [load, initiate, mtu, run] = commands().try_into().unwrap();
    for charon in charons {
        charon.write_settings(more).unwrap();
        charon.run(load).unwrap();
    }
    one.run(initiate).unwrap();
    let words = |command: &'static str| command.split(' ').skip(1).collect::<Vec<_>>();
    let printed = one.site.router.output(esp::BINARY, &words(mtu)).unwrap();
    println!("{printed}");
    let shown = without_spis(section());
    for line in printed.lines() {
        assert!(shown.contains(without_spis(line).trim()), "the README does not show '{line}'");
    }
    // UDP encapsulation, because the file asks for it: `encap = yes`.
    esp::before(&gateways, 1422);
    let daemons = gateways.sites.each_ref().map(|site| {
        // `run --iface eth1` is Daemon's; the rest as it is, for this site.
        let there = |word| if word == "198.18.2.0/24" { site.remote_net } else { word };
        let arguments = words(run).into_iter().skip(3).map(there).chain(["--stall", "10000", "--json"]);
        let arguments: Vec<_> = arguments.collect();
        Daemon::start(&site.router, Path::new(esp::BINARY), &arguments).unwrap()
    });
    esp::after(&gateways, 1422, daemons);
}

#[test]
fn two_strongswan_gateways() {
    carry("");
}

#[test]
fn two_strongswan_gateways_without_copy_df() {
    carry("copy_df = no");
}
