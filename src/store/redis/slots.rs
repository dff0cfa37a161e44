//! A cluster's slots: which one a key belongs to.

use data_encoding::HEXLOWER;

use super::names::EVERYONE;
use crate::session::UserTag;

pub(super) const SLOTS: usize = 16_384;

/// The part of a cluster that a key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u16);

impl Slot {
    /// Of all keys of one user, who share the hash tag `{TAG}`.
    pub(super) fn of_user(tag: &UserTag) -> Slot {
        Slot::of(HEXLOWER.encode(&tag.0).as_bytes())
    }

    pub(super) fn of_everyone() -> Slot {
        Slot::of(EVERYONE.as_bytes())
    }

    fn of(hashed: &[u8]) -> Slot {
        Slot(crc16(hashed) % 16_384)
    }
}

/// CRC-16/XMODEM, as the cluster specification asks.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::names::AHEAD;
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As CLUSTER KEYSLOT says of {user1000} and of foo.
        assert_eq!(Slot::of(b"user1000"), Slot(3443));
        assert_eq!(Slot::of(b"foo"), Slot(12182));
        let tag = AHEAD.split(['{', '}']).nth(1).expect("a hash tag");
        assert_eq!(Slot::of(tag.as_bytes()), Slot::of_everyone());
    }
}
