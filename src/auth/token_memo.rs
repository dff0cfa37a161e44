//! Tokens whose MAC this worker has verified, by their text.
//!
//! A browser sends the same cookie with every request. The memo saves the decoding and the MAC, never a
//! decision: every request still loads its session and decides. An entry counts only under the keys that
//! verified it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::Equivalent;
use quick_cache::unsync::Cache;
use zeroize::Zeroizing;

use crate::secret::{KeyRing, constant_time_eq};
use crate::session::{Token, TokenError};

/// Maximum number of tokens, about 1.5 MB.
const CAPACITY: usize = 4096;

/// The verified tokens of one worker.
pub(super) struct TokenMemo(Mutex<VerifiedTokens>);

struct VerifiedTokens {
    /// The keys that verified all entries.
    keys: Arc<KeyRing>,
    tokens: Cache<TokenText, Arc<Token>>,
}

/// The text of a verified token.
struct TokenText(Zeroizing<Box<[u8]>>);

/// A cookie value that a client presents. The comparison takes constant time, so a client cannot learn the
/// text of a token from it.
struct PresentedText<'a>(&'a [u8]);

impl TokenMemo {
    pub(super) fn new(keys: Arc<KeyRing>) -> TokenMemo {
        TokenMemo(Mutex::new(VerifiedTokens::new(keys)))
    }

    /// As [`Token::parse`].
    pub(super) fn parse(&self, keys: &Arc<KeyRing>, text: &[u8]) -> Result<Arc<Token>, TokenError> {
        let mut verified = self.0.lock();
        if !Arc::ptr_eq(&verified.keys, keys) {
            *verified = VerifiedTokens::new(Arc::clone(keys));
        }
        if let Some(token) = verified.tokens.get(&PresentedText(text)) {
            return Ok(Arc::clone(token));
        }
        let token = Arc::new(Token::parse(keys, text)?);
        verified.tokens.insert(TokenText(Zeroizing::new(text.into())), Arc::clone(&token));
        Ok(token)
    }
}

impl VerifiedTokens {
    fn new(keys: Arc<KeyRing>) -> VerifiedTokens {
        VerifiedTokens { keys, tokens: Cache::new(CAPACITY) }
    }
}

impl Hash for TokenText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl PartialEq for TokenText {
    fn eq(&self, other: &TokenText) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl Eq for TokenText {}

impl Hash for PresentedText<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Equivalent<TokenText> for PresentedText<'_> {
    fn equivalent(&self, text: &TokenText) -> bool {
        constant_time_eq(self.0, &text.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::random_bytes;
    use crate::session::{SessionId, SessionKey, UserTag};
    use proptest::prelude::*;

    fn text(keys: &KeyRing) -> Vec<u8> {
        let key = SessionKey { tag: UserTag([1; 8]), id: SessionId(random_bytes()) };
        let token = Token::new(keys.signing_key().0, key, 0, random_bytes());
        token.encode(keys).expect("the signing key").as_bytes().to_vec()
    }

    #[test]
    fn a_known_token_is_not_verified_again() {
        let keys = Arc::new(KeyRing::generate("now"));
        let (memo, text) = (TokenMemo::new(Arc::clone(&keys)), text(&keys));
        let [first, second] = [(); 2].map(|()| memo.parse(&keys, &text).expect("authentic"));
        assert!(Arc::ptr_eq(&first, &second));
        let other = Arc::new(KeyRing::parse(&keys.to_file()).expect("the same keys"));
        let again = memo.parse(&other, &text).expect("authentic");
        assert!(!Arc::ptr_eq(&first, &again), "loaded keys verify anew");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        /// Genuine, damaged and foreign texts in any order, while keys are added and removed.
        #[test]
        fn the_memo_accepts_what_a_fresh_check_accepts(
            steps in proptest::collection::vec((0..6_usize, 0..108_usize, any::<bool>()), 1..60),
        ) {
            let mut keys = Arc::new(KeyRing::generate("now"));
            let memo = TokenMemo::new(Arc::clone(&keys));
            let mut texts = vec![text(&keys), text(&keys), text(&KeyRing::generate("elsewhere"))];
            for (step, at, damage) in steps {
                match step {
                    4 => change_keys(&mut keys, |keys| { keys.rotate("later").is_ok() }),
                    5 => change_keys(&mut keys, |keys| {
                        let oldest = keys.ids().next().map(|(id, _)| id);
                        oldest.is_some_and(|id| keys.retire(id).is_ok())
                    }),
                    _ => {}
                }
                if step == 4 {
                    texts.push(text(&keys));
                }
                let mut presented = texts[(step + at) % texts.len()].clone();
                if damage {
                    presented[at] ^= 1;
                }
                let (kept, fresh) = (memo.parse(&keys, &presented), Token::parse(&keys, &presented));
                let facts = |token: &Token| (token.key_id, token.key, token.generation, token.hash());
                prop_assert_eq!(
                    kept.as_ref().map(|token| facts(token)).map_err(|error| *error),
                    fresh.as_ref().map(facts).map_err(|error| *error),
                );
            }
        }
    }

    fn change_keys(keys: &mut Arc<KeyRing>, change: impl FnOnce(&mut KeyRing) -> bool) {
        let mut changed = KeyRing::parse(&keys.to_file()).expect("valid keys");
        if change(&mut changed) {
            *keys = Arc::new(changed);
        }
    }
}
