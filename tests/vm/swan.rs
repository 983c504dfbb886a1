//! Two strongSwan gateways, set up as the README says: `swanctl/` holds the files that it shows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
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
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/swanctl").join(self.site.router.name());
        let file = file.with_extension("conf");
        self.swanctl(&["--load-all", "--file", &file.to_string_lossy()])?;
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_else(|error| error.to_string())
    }
}

#[test]
fn two_strongswan_gateways() {
    let gateways = Gateways::new(4, None).unwrap();
    let [one, two] = gateways.sites.each_ref().map(|site| Charon::start(site).unwrap());
    for charon in [&one, &two] {
        charon.load().with_context(|| charon.log()).unwrap();
    }
    one.swanctl(&["--initiate", "--child", "lan"]).with_context(|| one.log()).unwrap();
    println!("{}", gateways.sites[0].router.output(esp::BINARY, &["mtu"]).unwrap());
    // UDP encapsulation, because the file asks for it: `encap = yes`.
    esp::before(&gateways, 1422);
    let daemons = gateways.protect(1422).unwrap();
    esp::after(&gateways, 1422, daemons);
}
