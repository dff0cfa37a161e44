//! Hash slots of a cluster.

pub(super) const SLOT_COUNT: usize = 16_384;

/// A hash slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HashSlot(pub(super) u16);

impl HashSlot {
    /// Returns the slot of all keys with this hash tag.
    pub(crate) fn from_hash_tag(hashed: &[u8]) -> HashSlot {
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
    use super::*;

    #[test]
    fn slots_match_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // From CLUSTER KEYSLOT of {user1000} and foo.
        assert_eq!(HashSlot::from_hash_tag(b"user1000"), HashSlot(3443));
        assert_eq!(HashSlot::from_hash_tag(b"foo"), HashSlot(12182));
    }
}
