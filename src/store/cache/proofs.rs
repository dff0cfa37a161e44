//! The proofs of several primaries: one by one they prove little, together as much as the oldest.

use std::sync::{Arc, Mutex, PoisonError};

use super::proof::{Moment, Proof};

/// The last proof of each primary, and what they prove together.
#[derive(Debug)]
pub(in crate::store) struct Proofs {
    each: Mutex<Vec<Option<Moment>>>,
    together: Arc<Proof>,
}

/// One primary's part.
#[derive(Clone, Debug)]
pub(in crate::store) struct Part {
    pub(in crate::store) proofs: Arc<Proofs>,
    pub(in crate::store) number: usize,
}

impl Proofs {
    pub(in crate::store) fn of(primaries: usize, together: Arc<Proof>) -> Proofs {
        together.withdraw();
        Proofs { each: Mutex::new(vec![None; primaries]), together }
    }

    fn note(&self, number: usize, proof: Option<Moment>) {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = each.get_mut(number) {
            *part = proof;
        }
        // Under the lock: an older sum must not overwrite a newer one.
        match oldest(&each) {
            Some(moment) => self.together.set(moment),
            None => self.together.withdraw(),
        }
    }
}

impl Part {
    /// All changes that this primary made before `at` have arrived.
    pub(in crate::store) fn prove(&self, at: Moment) {
        self.proofs.note(self.number, Some(at));
    }

    pub(in crate::store) fn withdraw(&self) {
        self.proofs.note(self.number, None);
    }
}

/// By either clock; nothing while one is missing.
fn oldest(each: &[Option<Moment>]) -> Option<Moment> {
    let older = |one: Moment, two: Moment| Moment {
        run: one.run.min(two.run),
        wall: one.wall.min(two.wall),
    };
    let all: Option<Vec<Moment>> = each.iter().copied().collect();
    all?.into_iter().reduce(older)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(run: u64) -> Moment {
        Moment { run, wall: 1_000_000 + run }
    }

    #[test]
    fn several_primaries_prove_only_what_the_slowest_of_them_proves() {
        let together = Arc::new(Proof::default());
        let proofs = Arc::new(Proofs::of(2, Arc::clone(&together)));
        let [one, two] = [0, 1].map(|number| Part { proofs: Arc::clone(&proofs), number });
        one.prove(at(9_000));
        assert_eq!(together.age(at(9_000)), None, "one of two says nothing yet");
        two.prove(at(6_500));
        assert_eq!(together.age(at(9_000)), Some(Duration::from_millis(2_500)));
        one.prove(at(9_600));
        assert!(!together.holds(at(9_600)), "the other one is silent");
        two.prove(at(9_500));
        assert!(together.holds(at(9_600)));
        one.withdraw();
        assert_eq!(together.age(at(9_600)), None);
    }

    #[test]
    fn no_primary_proves_nothing() {
        let together = Arc::new(Proof::default());
        together.set(at(5));
        drop(Proofs::of(0, Arc::clone(&together)));
        assert_eq!(together.age(at(5)), None);
    }
}
