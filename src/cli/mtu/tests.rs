//! What is printed of the kernel's SAs; that these are read right: tests/vm.

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn sa(src: &str, dst: &str, spi: u32) -> Sa {
    Sa {
        src: ip(src),
        dst: ip(dst),
        spi,
        reqid: 1,
        if_id: 0,
        mark: (0, 0),
        output_mark: 0,
        inner_family: 0,
        mode: 1,
        cipher: "cbc(aes)".into(),
        authenticator: Some("hmac(sha256)".into()),
        icv_bits: 128,
        encap: Some(2),
    }
}

fn policy(outbound: bool, src: &str, dst: &str, sa: &Sa) -> Policy {
    let prefix = |text: &str| {
        let (address, length) = text.split_once('/').unwrap();
        (ip(address), length.parse().unwrap())
    };
    Policy {
        outbound,
        src: prefix(src),
        dst: prefix(dst),
        priority: 1,
        index: 1,
        if_id: sa.if_id,
        mark: (0, 0),
        oif: 0,
        upper: false,
        protocol: 0,
        src_port: (0, 0),
        dst_port: (0, 0),
        allow: true,
        templates: vec![xfrm::Template { src: sa.src, dst: sa.dst, reqid: sa.reqid, mode: sa.mode }],
    }
}

/// The row of an SA over loopback, on which every machine has a path.
fn row_of(sa: &Sa, outbound: bool, policies: &[Policy]) -> Row {
    let mut row = row(sa, outbound, policies, &[]).unwrap();
    row.sizes = sa.sizes(Some(1500), row.peer).ok();
    row.unknown = None;
    row
}

#[test]
fn each_sa_says_what_it_is_for() {
    let (out, back) = (sa("127.0.0.1", "127.0.0.2", 0xc71f_26a1), sa("127.0.0.2", "127.0.0.1", 0xce09_d663));
    let l2tp = Policy {
        protocol: 17,
        dst_port: (1701, u16::MAX),
        ..policy(true, "10.1.0.1/32", "10.2.0.1/32", &out)
    };
    let policies = [
        policy(true, "198.18.1.0/24", "198.18.2.0/24", &out),
        l2tp,
        // For this machine, and for what it forwards.
        policy(false, "198.18.2.0/24", "198.18.1.0/24", &back),
        policy(false, "198.18.2.0/24", "198.18.1.0/24", &back),
    ];
    let text = report(&[row_of(&out, true, &policies), row_of(&back, false, &policies)]).unwrap();
    let table = text.split("\n\n").next().unwrap();
    assert_eq!(
        table.lines().collect::<Vec<_>>(),
        [
            "DIR  PEER       SPI         MODE    SA MTU  MSS 4/6",
            "out  127.0.0.2  0xc71f26a1  tunnel  1422    1382/1362",
            "     10.1.0.1/32 -> 10.2.0.1/32[udp/1701]",
            "     198.18.1.0/24 -> 198.18.2.0/24",
            "in   127.0.0.2  0xce09d663  tunnel  1422    1382/1362",
            "     198.18.2.0/24 -> 198.18.1.0/24",
        ]
    );
    assert!(text.contains("\n  1500 (path MTU to 127.0.0.2) - 20 (IPv4) - 8 (UDP)"), "{text}");
}

#[test]
fn ipv6_stays_readable() {
    let mut out = sa("::1", "::1", 0x1001);
    out.if_id = 42;
    let net = "2001:db8:1111:2222:3333::/80";
    let mut row = row_of(&out, true, &[policy(true, net, net, &out)]);
    row.peer = ip("2001:db8:1111:2222::1");
    row.interface = Some("xfrm0".into());
    let text = report(&[row]).unwrap();
    let table = text.split("\n\n").next().unwrap();
    assert!(table.lines().all(|line| line.len() <= 80), "{table}");
    assert!(table.ends_with("\n     via xfrm0 (if_id 42)"), "{table}");
}

#[test]
fn selectors_are_written_as_swanctl_does() {
    let sa = sa("127.0.0.1", "127.0.0.2", 1);
    let any = policy(true, "10.1.0.0/16", "10.2.0.0/16", &sa);
    for (policy, text) in [
        (Policy { protocol: 6, ..any.clone() }, "10.1.0.0/16 -> 10.2.0.0/16[tcp]"),
        (
            Policy { protocol: 6, src_port: (443, u16::MAX), ..any.clone() },
            "10.1.0.0/16[tcp/443] -> 10.2.0.0/16[tcp]",
        ),
        (
            Policy { protocol: 17, dst_port: (1024, 0xfc00), ..any.clone() },
            "10.1.0.0/16 -> 10.2.0.0/16[udp/1024-2047]",
        ),
        (Policy { protocol: 99, ..any.clone() }, "10.1.0.0/16 -> 10.2.0.0/16[99]"),
        (Policy { dst_port: (1, 0x0101), ..any.clone() }, "10.1.0.0/16 -> 10.2.0.0/16[any/0x1/0x101]"),
    ] {
        assert_eq!(Selector::from(&policy).to_string(), text);
    }
    let json = serde_json::to_value(Selector::from(&any)).unwrap();
    assert_eq!(json, serde_json::json!({"source": "10.1.0.0/16", "destination": "10.2.0.0/16"}));
}

/// tests/vm/swan.rs compares with a real strongSwan; this needs no VM.
#[test]
fn the_readme_shows_what_is_printed() {
    let readme = include_str!("../../../README.md");
    let (out, back) = (sa("127.0.0.1", "127.0.0.2", 0xc71f_26a1), sa("127.0.0.2", "127.0.0.1", 0xce09_d663));
    let policies = [
        policy(true, "198.18.1.0/24", "198.18.2.0/24", &out),
        policy(false, "198.18.2.0/24", "198.18.1.0/24", &back),
    ];
    let mut rows = [row_of(&out, true, &policies), row_of(&back, false, &policies)];
    for row in &mut rows {
        row.peer = ip("198.51.100.2");
    }
    let printed: Vec<_> =
        report(&rows).unwrap().lines().map(|line| format!("    {line}").trim_end().to_owned()).collect();
    assert!(readme.contains(&printed.join("\n")), "the README does not show:\n{}", printed.join("\n"));
}
