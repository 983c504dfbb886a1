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

impl Ethtool {
    /// Connects.
    pub fn open() -> io::Result<Ethtool> {
        Ok(Ethtool { family: Family::open("ethtool")? })
    }

    /// RX queues in use: combined channels and those for RX alone. `None` if the driver does not say.
    pub fn rx_channels(&mut self, interface: &str) -> io::Result<Option<u32>> {
        let attributes = match self.get(EthtoolMessage::new_channel_get(Some(interface))) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(None),
            answer => answer?,
        };
        let channels = attributes.into_iter().filter_map(|attribute| match attribute {
            EthtoolAttr::Channel(
                EthtoolChannelAttr::RxCount(count) | EthtoolChannelAttr::CombinedCount(count),
            ) => Some(count),
            _ => None,
        });
        Ok(Some(channels.sum()).filter(|count| *count > 0))
    }

    /// Features that are on, by the kernel's names (`netdev_features_strings`), which are longer
    /// than those of `ethtool -K`.
    pub fn active_features(&mut self, interface: &str) -> io::Result<BTreeSet<String>> {
        let attributes = self.get(EthtoolMessage::new_feature_get(Some(interface)))?;
        Ok(attributes
            .into_iter()
            .filter_map(|attribute| match attribute {
                EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => Some(bits),
                _ => None,
            })
            .flatten()
            .map(|bit| bit.name)
            .collect())
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
