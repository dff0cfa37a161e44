//! The key ring of all targets, so that a corpus can contain authentic tokens.

use std::sync::LazyLock;

use doorward::secret::KeyRing;

/// Two keys; the second signs. They are public and protect nothing.
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
