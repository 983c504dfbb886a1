//! Queues and offloads, over the ethtool generic netlink family (kernel 5.6 and later).

use std::collections::BTreeSet;
use std::io;

use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolFeatureAttr, EthtoolMessage};

use super::generic::Family;
use super::links::Link;

/// A connection to the ethtool family.
#[derive(Debug)]
pub struct Ethtool {
    family: Family,
}

/// Features of an interface by the kernel's names (`netdev_features_strings`), which are longer than those of
/// `ethtool -K`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// On.
    pub active: BTreeSet<String>,
    /// Not `[fixed]`.
    pub changeable: BTreeSet<String>,
}

impl Features {
    /// True if it is on.
    pub fn has(&self, feature: &str) -> bool {
        self.active.contains(feature)
    }

    /// True if it is on and cannot be switched off.
    pub fn is_stuck(&self, feature: &str) -> bool {
        self.has(feature) && !self.changeable.contains(feature)
    }
}

impl Ethtool {
    /// Connects.
    pub fn open() -> io::Result<Ethtool> {
        Ok(Ethtool { family: Family::open("ethtool")? })
    }

    /// RX queues in use: combined channels and those for RX alone. `None` if the driver does not say.
    pub fn rx_channels(&mut self, interface: &str) -> io::Result<Option<u32>> {
        self.channels(interface, |channel| match channel {
            EthtoolChannelAttr::RxCount(count) | EthtoolChannelAttr::CombinedCount(count) => Some(*count),
            _ => None,
        })
    }

    /// TX queues in use, likewise.
    pub fn tx_channels(&mut self, interface: &str) -> io::Result<Option<u32>> {
        self.channels(interface, |channel| match channel {
            EthtoolChannelAttr::TxCount(count) | EthtoolChannelAttr::CombinedCount(count) => Some(*count),
            _ => None,
        })
    }

    fn channels(
        &mut self,
        interface: &str,
        counted: impl Fn(&EthtoolChannelAttr) -> Option<u32>,
    ) -> io::Result<Option<u32>> {
        let attributes = match self.get(EthtoolMessage::new_channel_get(Some(interface))) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(None),
            answer => answer?,
        };
        let channels = attributes.iter().filter_map(|attribute| match attribute {
            EthtoolAttr::Channel(channel) => counted(channel),
            _ => None,
        });
        Ok(Some(channels.sum()).filter(|count| *count > 0))
    }

    /// What is on and what may be changed.
    pub fn features(&mut self, interface: &str) -> io::Result<Features> {
        let mut features = Features::default();
        for attribute in self.get(EthtoolMessage::new_feature_get(Some(interface)))? {
            let EthtoolAttr::Feature(attribute) = attribute else { continue };
            let (set, bits) = match attribute {
                EthtoolFeatureAttr::Active(bits) => (&mut features.active, bits),
                EthtoolFeatureAttr::Hw(bits) => (&mut features.changeable, bits),
                _ => continue,
            };
            // Of what can be changed the kernel sends every name it knows, with a value.
            set.extend(bits.into_iter().filter(|bit| bit.value).map(|bit| bit.name));
        }
        Ok(features)
    }

    fn get(&mut self, request: EthtoolMessage) -> io::Result<Vec<EthtoolAttr>> {
        Ok(self.family.request(request)?.into_iter().flat_map(|message| message.nlas).collect())
    }
}

/// RX queues of `link` in use; those it was made with where the driver does not say.
pub fn rx_queues(link: &Link) -> u32 {
    let channels = Ethtool::open().and_then(|mut ethtool| ethtool.rx_channels(&link.name));
    channels.ok().flatten().unwrap_or(link.rx_queues)
}
