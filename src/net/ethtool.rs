//! Queues and offloads, over the ethtool generic netlink family.

use std::collections::BTreeSet;
use std::io;

use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolFeatureAttr, EthtoolMessage};

use netlink_packet_generic::GenlMessage;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::links::Link;
use super::netlink::Connection;

/// A connection to the ethtool family.
#[derive(Debug)]
pub struct Ethtool {
    connection: Connection,
    family: u16,
}

impl Ethtool {
    /// Looks the family up; fails on kernels before 5.6.
    pub fn open() -> io::Result<Ethtool> {
        let mut connection = Connection::open(NETLINK_GENERIC)?;
        let request = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName("ethtool".to_owned())],
        });
        let family = connection
            .request(request)?
            .into_iter()
            .flat_map(|message| message.into_parts().1.nlas)
            .find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(id) => Some(id),
                _ => None,
            })
            .ok_or_else(|| io::Error::other("the kernel does not say the number of its ethtool family"))?;
        Ok(Ethtool { connection, family })
    }

    /// RX queues in use: combined channels and those for RX alone. `None` if the driver does not say.
    pub fn rx_channels(&mut self, interface: &str) -> io::Result<Option<u32>> {
        let attributes = match self.get(EthtoolMessage::new_channel_get(Some(interface))) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(None),
            answer => answer?,
        };
        let mut channels = None;
        for attribute in attributes {
            if let EthtoolAttr::Channel(
                EthtoolChannelAttr::RxCount(count) | EthtoolChannelAttr::CombinedCount(count),
            ) = attribute
            {
                channels = Some(channels.unwrap_or(0) + count);
            }
        }
        Ok(channels.filter(|count| *count > 0))
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

    fn get(&mut self, payload: EthtoolMessage) -> io::Result<Vec<EthtoolAttr>> {
        let mut request = GenlMessage::from_payload(payload);
        request.set_resolved_family_id(self.family);
        Ok(self
            .connection
            .request(request)?
            .into_iter()
            .flat_map(|message| message.into_parts().1.nlas)
            .collect())
    }
}

/// RX queues of `link` in use; those it was made with where the driver does not say.
pub fn rx_queues(link: &Link) -> u32 {
    let channels = Ethtool::open().and_then(|mut ethtool| ethtool.rx_channels(&link.name));
    channels.ok().flatten().unwrap_or(link.rx_queues)
}
