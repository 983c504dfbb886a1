//! Security associations with fixed keys, as `ip xfrm` takes them.

/// How packets get into the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// By policy alone.
    Policy,
    /// Over an xfrm interface of MTU 1500.
    Interface,
}

/// What encrypts and authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Esp {
    CbcSha256,
    CbcSha1,
    CbcSha512,
    Gcm16,
    Gcm8,
    ChaCha20,
}

/// A tunnel between the two routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub(crate) route: Route,
    pub(crate) esp: Esp,
    /// ESP in UDP, port 4500.
    pub(crate) nat_t: bool,
    /// IP version between the routers.
    pub(crate) outer: u8,
}

impl Esp {
    /// The algorithm part of `ip xfrm state add`.
    fn algorithm(self) -> String {
        let key = |bytes: usize| format!("0x{}", "5a".repeat(bytes));
        let cbc = |hash: &str, hash_key: usize, icv_bits: u32| {
            format!("auth-trunc hmac({hash}) {} {icv_bits} enc cbc(aes) {}", key(hash_key), key(32))
        };
        match self {
            Esp::CbcSha256 => cbc("sha256", 32, 128),
            Esp::CbcSha1 => cbc("sha1", 20, 96),
            Esp::CbcSha512 => cbc("sha512", 64, 256),
            Esp::Gcm16 => format!("aead rfc4106(gcm(aes)) {} 128", key(36)),
            Esp::Gcm8 => format!("aead rfc4106(gcm(aes)) {} 64", key(20)),
            Esp::ChaCha20 => format!("aead rfc7539esp(chacha20,poly1305) {} 128", key(36)),
        }
    }
}

/// One side of a tunnel, as the router there sees it.
pub(crate) struct Side<'a> {
    /// Addresses on the WAN.
    pub(crate) local: &'a str,
    pub(crate) remote: &'a str,
    /// IPv4 networks behind each side.
    pub(crate) local_net: &'a str,
    pub(crate) remote_net: &'a str,
    /// SPIs of what leaves and of what arrives.
    pub(crate) spi_out: u32,
    pub(crate) spi_in: u32,
}

impl Tunnel {
    /// Lines for `ip -batch`: the SAs of both directions.
    pub(crate) fn states(&self, side: &Side) -> String {
        let Side { local, remote, spi_out, spi_in, .. } = side;
        let any = if self.outer == 4 { "0.0.0.0" } else { "::" };
        let encap = if self.nat_t { format!("encap espinudp 4500 4500 {any}") } else { String::new() };
        let if_id = self.if_id();
        // af-unspec: the inner packets may be of the other IP version.
        let state = format!("proto esp reqid 1 mode tunnel flag af-unspec {if_id} {}", self.esp.algorithm());
        [
            format!("xfrm state add src {remote} dst {local} spi {spi_in} {state} {encap}"),
            format!("xfrm state add src {local} dst {remote} spi {spi_out} {state} {encap}"),
        ]
        .join("\n")
    }

    /// Lines for `ip -batch` that delete the SAs of both directions.
    pub(crate) fn delete(Side { local, remote, spi_out, spi_in, .. }: &Side) -> String {
        let delete = |from: &str, to: &str, spi: u32| {
            format!("xfrm state delete src {from} dst {to} proto esp spi {spi}")
        };
        [delete(local, remote, *spi_out), delete(remote, local, *spi_in)].join("\n")
    }

    /// Lines for `ip -batch`: the policies of all directions.
    pub(crate) fn policies(&self, side: &Side) -> String {
        let Side { local, remote, local_net, remote_net, .. } = side;
        let if_id = self.if_id();
        let template =
            |from: &str, to: &str| format!("{if_id} tmpl src {from} dst {to} proto esp reqid 1 mode tunnel");
        [
            format!("xfrm policy add src {local_net} dst {remote_net} dir out {}", template(local, remote)),
            format!("xfrm policy add src {remote_net} dst {local_net} dir in {}", template(remote, local)),
            format!("xfrm policy add src {remote_net} dst {local_net} dir fwd {}", template(remote, local)),
        ]
        .join("\n")
    }

    fn if_id(&self) -> &'static str {
        if self.route == Route::Interface { "if_id 42" } else { "" }
    }

    /// Lines for `ip -batch`: states and policies, and the interface and route that lead into them.
    pub(crate) fn commands(&self, side: &Side) -> String {
        let remote_net = side.remote_net;
        let mut lines = vec![self.states(side), self.policies(side)];
        match self.route {
            Route::Interface => lines.extend([
                "link add xfrm0 type xfrm dev wan0 if_id 42".into(),
                "link set xfrm0 up".into(),
                format!("route add {remote_net} dev xfrm0"),
            ]),
            // Somewhere: the policy takes the packet before it gets there.
            Route::Policy => lines.push(format!("route add {remote_net} dev wan0")),
        }
        lines.join("\n")
    }
}
