//! Hash slots of a cluster.

use data_encoding::HEXLOWER;

use super::keys::GLOBAL_CUTOFF;
use crate::session::UserTag;

pub(super) const SLOT_COUNT: usize = 16_384;

/// A hash slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HashSlot(pub(super) u16);

impl HashSlot {
    /// Returns the slot of all keys of a user, who share the hash tag `{TAG}`.
    pub(super) fn for_user(tag: &UserTag) -> HashSlot {
        HashSlot::from_hash_tag(HEXLOWER.encode(&tag.0).as_bytes())
    }

    pub(super) fn global() -> HashSlot {
        HashSlot::from_hash_tag(GLOBAL_CUTOFF.as_bytes())
    }

    fn from_hash_tag(hashed: &[u8]) -> HashSlot {
        HashSlot(crc16(hashed) % 16_384)
    }
}

/// CRC-16/XMODEM, as in the cluster specification.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::keys::LATEST_FUTURE_CREATED;
    use super::*;

    #[test]
    fn slots_match_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // From CLUSTER KEYSLOT of {user1000} and foo.
        assert_eq!(HashSlot::from_hash_tag(b"user1000"), HashSlot(3443));
        assert_eq!(HashSlot::from_hash_tag(b"foo"), HashSlot(12182));
        let tag = LATEST_FUTURE_CREATED.split(['{', '}']).nth(1).expect("a hash tag");
        assert_eq!(HashSlot::from_hash_tag(tag.as_bytes()), HashSlot::global());
    }
}
