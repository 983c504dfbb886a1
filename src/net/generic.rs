//! Generic netlink: families are looked up by name.

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{Emitable, ParseableParametrized};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::netlink::Connection;

/// A connection to one generic netlink family.
#[derive(Debug)]
pub(super) struct Family {
    connection: Connection,
    id: u16,
}

impl Family {
    /// Looks `name` up; `NotFound` where the kernel has no such family.
    pub(super) fn open(name: &str) -> io::Result<Family> {
        let mut connection = Connection::open(NETLINK_GENERIC)?;
        let request = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(name.to_owned())],
        });
        let id = connection
            .request(request)?
            .into_iter()
            .flat_map(|message| message.into_parts().1.nlas)
            .find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(id) => Some(id),
                _ => None,
            })
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Family { connection, id })
    }

    /// Sends `payload` and returns the payloads of the answer.
    pub(super) fn request<F>(&mut self, payload: F) -> io::Result<Vec<F>>
    where
        F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Debug,
    {
        let mut request = GenlMessage::from_payload(payload);
        request.set_resolved_family_id(self.id);
        Ok(self.connection.request(request)?.into_iter().map(|message| message.into_parts().1).collect())
    }
}
