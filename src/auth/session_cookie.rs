//! Selects the session cookie of a request that has several.
//!
//! Two configurations, two gateways on one host, or an attacker on a sibling host leave several cookies of
//! one name in a browser. The MAC proves which of them this installation issued, without a look-up.

use crate::message::CookieLookup;
use crate::secret::KeyRing;
use crate::session::Token;

/// Returns the only value that this installation issued; of one session, the newest token. Without any,
/// returns one value, which is refused as a foreign token.
pub(super) fn select(keys: &KeyRing, mut values: Vec<Vec<u8>>) -> CookieLookup {
    let foreign = values.first().cloned();
    let mut issued: Vec<(Token, Vec<u8>)> = Vec::new();
    for value in values.drain(..) {
        let Ok(token) = Token::parse(keys, &value) else { continue };
        match issued.iter_mut().find(|(other, _)| other.key == token.key) {
            None => issued.push((token, value)),
            Some(other) if other.0.generation < token.generation => *other = (token, value),
            Some(_) => {}
        }
    }
    match (issued.len(), issued.pop(), foreign) {
        (0 | 1, Some((_, value)), _) | (_, None, Some(value)) => CookieLookup::One(value),
        (_, Some((_, last)), _) => CookieLookup::Several(
            issued.into_iter().map(|(_, value)| value).chain([last]).collect(),
        ),
        (_, None, None) => CookieLookup::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::random_bytes;
    use crate::session::{SessionId, SessionKey, UserTag};

    fn key() -> SessionKey {
        SessionKey { tag: UserTag([1; 8]), id: SessionId(random_bytes()) }
    }

    fn value(keys: &KeyRing, key: SessionKey, generation: u32) -> Vec<u8> {
        let token = Token::new(keys.signing_key().0, key, generation, random_bytes());
        token.encode(keys).expect("the signing key").as_bytes().to_vec()
    }

    #[test]
    fn foreign_values_do_not_count_beside_an_issued_one() {
        let (keys, other) = (KeyRing::generate("now"), KeyRing::generate("elsewhere"));
        let ours = value(&keys, key(), 0);
        let foreign = [b"junk".to_vec(), value(&other, key(), 0)];
        for junk in foreign.clone() {
            for values in [vec![junk.clone(), ours.clone()], vec![ours.clone(), junk.clone()]] {
                assert_eq!(select(&keys, values), CookieLookup::One(ours.clone()));
            }
        }
        assert_eq!(select(&keys, foreign.to_vec()), CookieLookup::One(b"junk".to_vec()));
    }

    #[test]
    fn several_sessions_stay_and_one_session_is_its_newest_token() {
        let keys = KeyRing::generate("now");
        let (alice, bob) = (key(), key());
        let [old, new] = [0, 1].map(|generation| value(&keys, alice, generation));
        for values in [vec![old.clone(), new.clone()], vec![new.clone(), old.clone()]] {
            assert_eq!(select(&keys, values), CookieLookup::One(new.clone()));
        }
        let other = value(&keys, bob, 0);
        let both = CookieLookup::Several(vec![new.clone(), other.clone()]);
        assert_eq!(select(&keys, vec![old, other, new]), both);
    }
}
