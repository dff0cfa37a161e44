//! The one key ring of all targets, so that a corpus can hold authentic tokens.

use std::sync::LazyLock;

use doorward::secret::KeyRing;

/// Two keys, of which the second mints. They are in a public repository: of use to nobody.
const FILE: &str = "
tag = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='
[[key]]
id = 1
root = 'AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE='
[[key]]
id = 2
root = 'AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI='
";

pub static KEYS: LazyLock<KeyRing> = LazyLock::new(|| KeyRing::parse(FILE).expect("a key ring"));
