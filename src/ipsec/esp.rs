//! The sizes of ESP algorithms, by their names in the kernel and in strongSwan.

use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// What an ESP algorithm adds to a packet, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Esp {
    /// Initialisation vector in each packet.
    pub iv: u32,
    /// The cipher's block; the kernel pads to multiples of it, and of 4 at least (RFC 4303 section 2.4).
    pub block: u32,
    /// Integrity check value.
    pub icv: u32,
}

/// An algorithm of unknown sizes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the sizes of the ESP algorithm '{0}' are not known; known are such as aes256-sha256, aes128gcm16, chacha20poly1305"
)]
pub struct UnknownEsp(pub String);

impl Esp {
    /// From the names that `ip xfrm state` shows: a cipher with the ICV of its authenticator or, of AEAD, its own.
    ///
    /// # Errors
    /// [`UnknownEsp`] if the kernel can use a cipher that this table has not.
    pub fn from_kernel(cipher: &str, icv_bits: u32) -> Result<Esp, UnknownEsp> {
        // crypto/: the IV and block sizes that the templates declare.
        let (iv, block) = match cipher {
            "cbc(aes)" | "cbc(camellia)" | "cbc(serpent)" | "cbc(twofish)" | "cbc(sm4)" => (16, 16),
            "cbc(des3_ede)" | "cbc(des)" | "cbc(blowfish)" | "cbc(cast5)" => (8, 8),
            "rfc3686(ctr(aes))" | "rfc3686(ctr(sm4))" => (8, 4),
            "rfc4106(gcm(aes))" | "rfc4309(ccm(aes))" | "rfc4543(gcm(aes))" => (8, 4),
            "rfc7539esp(chacha20,poly1305)" => (8, 4),
            // Integrity alone.
            "ecb(cipher_null)" | "cipher_null" => (0, 4),
            _ => return Err(UnknownEsp(cipher.to_owned())),
        };
        Ok(Esp { iv, block, icv: icv_bits / 8 })
    }
}

/// A proposal as in swanctl.conf, such as `aes256-sha256` or `aes128gcm16-x25519`; key exchange and ESN do
/// not matter.
impl FromStr for Esp {
    type Err = UnknownEsp;

    fn from_str(proposal: &str) -> Result<Esp, UnknownEsp> {
        let unknown = || UnknownEsp(proposal.to_owned());
        let mut words = proposal.split('-');
        let cipher = words.next().unwrap_or_default();
        let aead = |icv| Ok(Esp { iv: 8, block: 4, icv });
        let (iv, block) = match cipher {
            "chacha20poly1305" => return aead(16),
            "3des" => (8, 8),
            "null" => (0, 4),
            "aes" | "aes128" | "aes192" | "aes256" => (16, 16),
            "camellia" | "camellia128" | "camellia192" | "camellia256" => (16, 16),
            "aes128ctr" | "aes192ctr" | "aes256ctr" => (8, 4),
            _ => {
                let rest = ["aes128", "aes192", "aes256"].iter().find_map(|key| cipher.strip_prefix(key));
                let rest = rest.ok_or_else(unknown)?;
                // ICVs in bytes or, as strongSwan also takes them, in bits (RFC 4106 and 4309).
                match rest.strip_prefix("gcm").or_else(|| rest.strip_prefix("ccm")).ok_or_else(unknown)? {
                    "" | "16" | "128" => return aead(16),
                    "12" | "96" => return aead(12),
                    "8" | "64" => return aead(8),
                    _ => return Err(unknown()),
                }
            }
        };
        let icv = match words.next().ok_or_else(unknown)? {
            "sha256" | "sha2_256" | "sha384_128" => 16,
            "sha" | "sha1" | "md5" | "aesxcbc" | "aescmac" | "sha256_96" | "sha2_256_96" => 12,
            "sha384" | "sha2_384" => 24,
            "sha512" | "sha2_512" => 32,
            _ => return Err(unknown()),
        };
        Ok(Esp { iv, block, icv })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strongswan_and_the_kernel_name_the_same_sizes() {
        for (proposal, cipher, icv_bits) in [
            ("aes256-sha256-modp2048", "cbc(aes)", 128),
            ("aes128-sha1", "cbc(aes)", 96),
            ("aes192-sha512-ecp256-esn", "cbc(aes)", 256),
            ("aes128gcm16", "rfc4106(gcm(aes))", 128),
            ("aes256gcm8-x25519", "rfc4106(gcm(aes))", 64),
            ("aes256ccm96", "rfc4309(ccm(aes))", 96),
            ("chacha20poly1305", "rfc7539esp(chacha20,poly1305)", 128),
            ("3des-sha384", "cbc(des3_ede)", 192),
            ("null-sha256", "ecb(cipher_null)", 128),
            ("aes256ctr-sha256", "rfc3686(ctr(aes))", 128),
        ] {
            assert_eq!(proposal.parse(), Esp::from_kernel(cipher, icv_bits), "{proposal}");
        }
    }

    #[test]
    fn what_is_not_known_is_said() {
        for bad in ["", "aes256", "aes256-", "aes256-sha3", "aes512-sha256", "aes128gcm15", "rot13-sha256"] {
            assert_eq!(bad.parse::<Esp>(), Err(UnknownEsp(bad.into())));
        }
        assert_eq!(Esp::from_kernel("cbc(rot13)", 96), Err(UnknownEsp("cbc(rot13)".into())));
    }
}
