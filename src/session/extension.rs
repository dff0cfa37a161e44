//! Fields that format 5 adds to a session record.

use serde::{Deserialize, Serialize};

/// A field that format 5 adds to the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    pub id: u16,
    pub value: Vec<u8>,
}
