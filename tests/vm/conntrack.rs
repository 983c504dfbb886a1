//! experiment
use std::io::Write;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use xdpfrag::lab::Namespace;

use crate::esp::{datagrams, transfer};
use crate::gateways::{Gateways, Site};
use crate::sa::{Esp, Route, Tunnel};

fn nft(namespace: &Namespace, rules: &str) -> Result<()> {
    namespace.run(|| {
        let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
        child.stdin.take().unwrap().write_all(rules.replace("}", "\n}\n").as_bytes())?;
        ensure!(child.wait()?.success(), "nft: {rules}");
        Ok(())
    })
}

const FIREWALLS: [(&str, &str); 5] = [
    ("none", ""),
    ("tracked", "table inet fw { chain input { type filter hook input priority 0; policy accept; ct state established,related accept; } }"),
    ("exempt", "table ip nat { chain postrouting { type nat hook postrouting priority srcnat; oifname wan0 rt ipsec exists accept; oifname wan0 masquerade; } }"),
    ("snat-into", "table ip nat { chain postrouting { type nat hook postrouting priority srcnat; iifname eth1 ip daddr 198.18.0.0/15 snat to ADDR; } }"),
    ("stateful", "table inet fw { chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; ct state new accept; } }"),
];
const NOTRACK: &str = "table ip early { chain pre { type filter hook prerouting priority -450; iifname eth1 ip frag-off & 0x3fff != 0 notrack; } }";

fn udp(what: &str, from: &Site, to: &Site) {
    from.capture.reset();
    let tally = datagrams(from, to, vec![1472, 1200, 1472, 100, 1472, 1472]);
    println!("{what} udp {}/{} {:?}", tally.intact, tally.sent, from.capture.wan());
}
fn tcp(what: &str, from: &Site, to: &Site) {
    from.capture.reset();
    let t = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| transfer(from, to, 8)));
    println!("{what} tcp {t:?} {:?}", from.capture.wan());
}
fn reply(what: &str, from: &Site, to: &Site) {
    let open = |site: &Site| site.appliance.run(|| { let s = UdpSocket::bind((site.address, 5060))?; s.set_read_timeout(Some(Duration::from_secs(1)))?;
        rustix::net::sockopt::set_ip_mtu_discover(&s, rustix::net::sockopt::Ipv4PathMtuDiscovery::PROBE)?; Ok(s) }).unwrap();
    let (a, b) = (open(from), open(to));
    let mut buf = [0; 2000];
    a.send_to(&[7; 1472], (to.address, 5060)).unwrap();
    let got = b.recv_from(&mut buf);
    if let Ok((_, peer)) = got { b.send_to(b"ok", peer).unwrap(); }
    println!("{what} big datagram first: there {:?}, reply {:?}", got.map_err(|e| e.kind()), a.recv(&mut buf).map_err(|e| e.kind()));
}

#[test]
fn experiment() {
    println!("");
    for (route, lowered) in [(Route::Interface, true), (Route::Interface, false)] {
        for (name, rules) in FIREWALLS.into_iter().skip(3) {
            let g = Gateways::new(4, Some(Tunnel { route, esp: Esp::Gcm16, nat_t: false, outer: 4 })).unwrap();
            for (n, site) in g.sites.iter().enumerate() {
                nft(&site.router, &rules.replace("ADDR", &format!("198.18.{}.1", n + 1))).unwrap();
                if lowered { site.router.ip("link set xfrm0 mtu 1446").unwrap(); }
            }
            let [a, b] = &g.sites;
            let what = format!("{route:?}{} {name}", if lowered { "-lowered" } else { "" });
            if name == "tracked" && route == Route::Policy { println!("{}", a.router.output("nft", &["list", "hooks"]).unwrap_or_else(|e| format!("{e:#}"))); }
            let daemons = g.protect(1446).unwrap();
            udp(&what, a, b);
            tcp(&what, a, b);
            nft(&a.router, NOTRACK).unwrap();
            let w = format!("{what} +notrack");
            udp(&w, a, b);
            tcp(&w, a, b);
            if name == "stateful" {
                a.router.output("nft", &["insert rule inet fw forward ct state untracked accept"]).unwrap();
                let w = format!("{w} +accept");
                udp(&w, a, b);
                tcp(&w, a, b);
                nft(&a.router, "flush chain inet fw forward; table inet fw { chain forward { ct state established,related accept; ct state untracked accept; iifname eth1 accept; } }").unwrap();
                reply(&w, a, b);
                nft(&a.router, "delete table ip early").unwrap();
                reply(&format!("{what} tracked"), a, b);
            }
            drop(daemons);
            if name != "stateful" { nft(&a.router, "delete table ip early").unwrap(); }
            let daemons = [a.serve(1446, &["--tcp", "resegment"]).unwrap(), b.serve(1446, &["--tcp", "resegment"]).unwrap()];
            tcp(&format!("{what} resegment"), a, b);
            drop(daemons);
        }
    }
}
