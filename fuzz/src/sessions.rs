//! Session tokens, session records and store entries.

use bytes::Bytes;
use doorward::secret::seal;
use doorward::session::{Record, SessionId, SessionKey, Token, UserTag};
use doorward::store::Slot;
use doorward::store::entry::{pack_ended, pack_live, unpack};

use super::keys::KEYS;

/// An authentic token has one spelling; any other, also with one bit changed, is rejected.
pub fn token(bytes: &[u8]) {
    if let Ok(token) = Token::parse(&KEYS, bytes) {
        let text = token.encode(&KEYS).expect("the key is there");
        assert_eq!(text.as_bytes(), bytes, "one token, one spelling");
    }
    let Some((seed, rest)) = bytes.split_first_chunk::<60>() else { return };
    minted(seed, rest);
}

/// Issues a token from the input bytes and damages it as they direct.
fn minted(seed: &[u8; 60], damage: &[u8]) {
    let secret = std::array::from_fn(|at| seed[at + 28]);
    let generation = u32::from_be_bytes([seed[24], seed[25], seed[26], seed[27]]);
    let token = Token::new(1 + seed[0] % 2, session_key(seed), generation, secret);
    let text = token.encode(&KEYS).expect("the key is there");
    let again = Token::parse(&KEYS, text.as_bytes()).expect("our own");
    assert_eq!((again.key, again.generation, again.hash()), (token.key, generation, token.hash()));
    let [at, bits, ..] = *damage else { return };
    let mut other = text.as_bytes().to_vec();
    other[usize::from(at) % text.len()] ^= bits;
    assert_eq!(Token::parse(&KEYS, &other).is_ok(), bits == 0, "damage is seen");
}

/// A record opens only unmodified. The first 24 bytes are the session key.
pub fn record(bytes: &[u8]) {
    let Some((seed, rest)) = bytes.split_first_chunk::<24>() else { return };
    let key = session_key(seed);
    opens_whole_or_not(&key, rest);
    // Only a holder of the keys can produce this: the format itself must never panic.
    let Some((head, plain)) = rest.split_first_chunk::<4>() else { return };
    for format in [4, 5] {
        let stored = sealed(&key, format, *head, plain);
        let Ok(record) = Record::open(&KEYS, &key, &stored) else { continue };
        assert_eq!(record.generation, u32::from_be_bytes(*head));
        let again = Record::open(&KEYS, &key, &record.seal(&KEYS, &key));
        assert_eq!(again.as_ref(), Ok(&record), "it reads back");
        opens_whole_or_not(&key, &stored);
    }
}

/// A valid record does not open under another session, nor with a bit changed. The corpus contains
/// valid ones.
fn opens_whole_or_not(key: &SessionKey, stored: &[u8]) {
    if Record::open(&KEYS, key, stored).is_err() {
        return;
    }
    let other = SessionKey { id: SessionId(key.id.0.map(|byte| !byte)), ..*key };
    assert!(Record::open(&KEYS, &other, stored).is_err(), "moved to another session");
    for at in [1, 5, stored.len() / 2, stored.len() - 1] {
        let mut damaged = stored.to_vec();
        damaged[at] ^= 1;
        assert!(Record::open(&KEYS, key, &damaged).is_err(), "damage at {at} is seen");
    }
}

/// Seals any plaintext in the layout of `Record::seal`.
fn sealed(key: &SessionKey, format: u8, generation: [u8; 4], plain: &[u8]) -> Vec<u8> {
    let authenticated = if format == 4 { &[][..] } else { &[format] };
    let binding = [&key.tag.0[..], &key.id.0, &generation, authenticated].concat();
    let sealed = seal::seal(&KEYS, &key.id.0, &binding, plain);
    [&[format][..], &generation, &sealed].concat()
}

/// A slot round-trips; foreign bytes are rejected.
pub fn store_entry(bytes: &[u8]) {
    let Some(slot) = unpack(Bytes::copy_from_slice(bytes)) else { return };
    let packed = match &slot {
        Slot::Live { revision, sealed } => pack_live(*revision, sealed),
        Slot::Ended { reason, at } => pack_ended(*reason, *at),
        Slot::Absent => panic!("bytes are there"),
    };
    assert_eq!(unpack(Bytes::from(packed)), Some(slot));
}

fn session_key<const N: usize>(seed: &[u8; N]) -> SessionKey {
    // The only user that a corpus can name is the empty one.
    let tag = if seed[0] == 0 { KEYS.user_tag("") } else { std::array::from_fn(|at| seed[at]) };
    SessionKey { tag: UserTag(tag), id: SessionId(std::array::from_fn(|at| seed[at + 8])) }
}
