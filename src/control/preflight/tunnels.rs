//! What `--mtu auto` needs: the kernel's SAs.

use crate::control::finding::Finding;
use crate::net::xfrm;

pub(super) fn check(findings: &mut Vec<Finding>) {
    findings.push(match xfrm::states() {
        Ok(sas) if sas.is_empty() => Finding::note(
            "IPsec",
            "no SA yet: with --mtu auto everything passes untouched until there is one",
        ),
        Ok(sas) => Finding::ok("IPsec", format!("{} SAs, which --mtu auto follows", sas.len())),
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
            let why = "this kernel has no XFRM interface for programs, which --mtu auto reads";
            Finding::fatal("IPsec", why).remedy("modprobe xfrm_user")
        }
        Err(error) => Finding::fatal("IPsec", format!("--mtu auto cannot read the kernel's SAs: {error}")),
    });
}
