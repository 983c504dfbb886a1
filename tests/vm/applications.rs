//! Programs that people use, between deaf appliances, through gateways as they are in the field: an xfrm interface,
//! masquerading to the Internet, a stateful firewall. Each stalls or fails without xdpfrag.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use xdpfrag::lab::namespace::Tethered;
use xdpfrag::lab::{Daemon, Namespace};

use crate::capture::Wan;
use crate::conntrack::nft;
use crate::gateways::Gateways;
use crate::sa::{Esp, Route, Tunnel};

const MTU: u16 = 1422;
const RULES: &str = "table inet fw { chain forward { type filter hook forward priority 0; policy drop;
    ct state established,related accept; ct state invalid drop; meta l4proto { tcp, udp } ct state new accept; }\n}
    table ip nat { chain post { type nat hook postrouting priority srcnat; oifname wan0 masquerade; }\n}";
/// How long emulated programs may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

fn gateways() -> Gateways {
    let tunnel =
        Tunnel { route: Route::Interface, esp: Esp::CbcSha256, nat_t: true, outer: 4, copy_df: true };
    let gateways = Gateways::new(4, Some(tunnel)).unwrap();
    for site in &gateways.sites {
        nft(&site.router, RULES);
    }
    gateways
}

fn protect(gateways: &Gateways, arguments: &[&str]) -> [Daemon; 2] {
    let daemons = gateways.sites.each_ref().map(|site| site.serve(MTU, arguments).unwrap());
    gateways.sites.iter().for_each(|site| site.capture.reset());
    daemons
}

/// What both routers sent on the WAN was whole ESP packets, some of them full.
#[track_caller]
fn whole(gateways: &Gateways) {
    for site in &gateways.sites {
        let wan = site.capture.wan();
        let Wan { esp, fragments, longest, clear } = wan;
        assert!(esp > 0 && longest <= 1500 && (fragments, clear) == (0, 0), "{} {wan:?}", site.router.name());
    }
}

fn command(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

fn output(namespace: &Namespace, line: &str) -> Output {
    namespace.run(|| Ok(command(line).output()?)).unwrap()
}

/// A program that serves until it is dropped.
struct Server(Tethered);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; the next one needs its port.
        let _killed = self.0.child.kill();
        let _reaped = self.0.child.wait();
    }
}

/// Starts a server and waits until the port is taken.
fn listen(namespace: &Namespace, line: &str, protocol: &str, port: u16) -> Server {
    let server = Server(namespace.spawn(command(line)).unwrap());
    let deadline = Instant::now() + PATIENCE;
    let taken = || {
        let table =
            namespace.run(|| Ok(fs::read_to_string(format!("/proc/thread-self/net/{protocol}"))?)).unwrap();
        table.contains(&format!(":{port:04X} "))
    };
    while !taken() {
        assert!(Instant::now() < deadline, "{line} does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

/// A directory of this test.
fn directory(name: &str) -> PathBuf {
    let directory = PathBuf::from("/run").join(name);
    fs::create_dir_all(&directory).unwrap();
    directory
}

#[test]
fn http_download_both_ways() {
    let gateways = gateways();
    let directory = directory("http");
    let content: Vec<u8> = (0..400_000u32).map(|number| (number / 7 % 251) as u8).collect();
    fs::write(directory.join("file"), &content).unwrap();
    let serve = format!("busybox httpd -f -p 8080 -h {}", directory.display());
    let _servers = gateways.sites.each_ref().map(|site| listen(&site.appliance, &serve, "tcp6", 8080));
    let [one, two] = &gateways.sites;
    let get = |client: &Namespace, server, seconds: u8| {
        let ended =
            output(client, &format!("timeout {seconds} busybox wget -q -O - http://{server}:8080/file"));
        (ended.status.success(), ended.stdout == content)
    };
    assert_eq!(get(&one.appliance, two.address, 4), (false, false), "without xdpfrag");
    let _daemons = protect(&gateways, &[]);
    assert_eq!(get(&one.appliance, two.address, 40), (true, true));
    assert_eq!(get(&two.appliance, one.address, 40), (true, true));
    whole(&gateways);
}

#[test]
fn iperf3_both_ways() {
    let gateways = gateways();
    let [one, two] = &gateways.sites;
    let _server = listen(&two.appliance, "iperf3 -s", "tcp6", 5201);
    let measure = |arguments: &str| {
        let line = format!("timeout 40 iperf3 -J -c {} {arguments}", two.address);
        let ended = output(&one.appliance, &line);
        serde_json::from_slice::<serde_json::Value>(&ended.stdout).unwrap_or_default()
    };
    let _daemons = protect(&gateways, &["--tcp", "resegment"]);
    for direction in ["", "-R"] {
        let report = measure(&format!("-b 4M -t 3 {direction}"));
        assert!(report["end"]["sum_received"]["bytes"].as_u64() >= Some(100_000), "{direction} {report}");
        let report = measure(&format!("-u -b 1M -l 1472 -t 2 {direction}"));
        let sum = &report["end"]["sum"];
        assert_eq!(
            (sum["lost_packets"].as_u64(), sum["packets"].as_u64() > Some(100)),
            (Some(0), true),
            "{report}"
        );
    }
    whole(&gateways);
}

/// A scenario of sipp whose session description is `body` bytes longer than one needs.
fn scenario(name: &str, body: usize) -> String {
    let padding = format!("a=x-padding:{}", "0123456789".repeat(body / 10));
    let text = fs::read_to_string(format!("{}/tests/vm/sip/{name}.xml", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let path = directory("sip").join(format!("{name}-{body}.xml"));
    fs::write(&path, text.replace("@PADDING@", &padding)).unwrap();
    path.to_string_lossy().into_owned()
}

/// Calls from the first site to the second over `transport` (sipp's `-t`), with bodies longer by `body` bytes.
fn calls(gateways: &Gateways, transport: &str, body: usize, calls: u32, seconds: u32) -> bool {
    // Of its own: the connection of an earlier call may linger.
    let port = 5061 + body as u32 + seconds;
    let [one, two] = &gateways.sites;
    let [caller, callee] = ["caller", "callee"].map(|name| scenario(name, body));
    let (here, there) = (one.address, two.address);
    let common = format!("-t {transport} -nostdin -timeout {seconds}s -timeout_error");
    let protocol = if transport == "t1" { "tcp" } else { "udp" };
    let answer = format!("sipp -sf {callee} -i {there} -p 5060 {common}");
    let _callee = listen(&two.appliance, &answer, protocol, 5060);
    let call = format!("sipp -sf {caller} -i {here} -p {port} {common} -m {calls} -r 5 {there}:5060");
    let ended = output(&one.appliance, &call);
    if !ended.status.success() {
        println!("{}", String::from_utf8_lossy(&ended.stderr));
    }
    ended.status.success()
}

/// Bodies that make one oversize packet, and one that a host sends in fragments of 1500 bytes.
fn sip(transport: &str) {
    let gateways = gateways();
    assert!(!calls(&gateways, transport, 940, 1, 6), "without xdpfrag");
    let _daemons = protect(&gateways, &[]);
    for body in [940, 4000] {
        assert!(calls(&gateways, transport, body, 5, 30), "{body}");
    }
    whole(&gateways);
}

#[test]
fn sip_over_udp() {
    sip("u1");
}

#[test]
fn sip_over_tcp() {
    sip("t1");
}
