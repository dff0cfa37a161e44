//! Choice of an endpoint: the less busy one of two. Pure.
//!
//! Of two candidates, the first rotates and the second is random. This is as even as a comparison of all, and
//! gateways and workers with old figures do not all choose the same endpoint.

use super::health::Standing;

/// One endpoint of a route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) standing: Standing,
    /// Number of exchanges in progress.
    pub(super) outstanding: usize,
    /// Whether this request failed to connect to it.
    pub(super) is_tried: bool,
    /// The same number in all gateways.
    pub(super) identity: u64,
}

/// Requests with the same number go to the same endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Affinity(pub u64);

/// Returns the positions of the two endpoints to compare. `ticket` is the number of the request.
pub(super) fn pair(ticket: usize, endpoints: usize) -> (usize, usize) {
    let first = ticket % endpoints.max(1);
    let others = endpoints.saturating_sub(1).max(1);
    let distance = 1 + mix(ticket) % others;
    (first, (first + distance) % endpoints.max(1))
}

/// Returns the position of the endpoint for a request; `None` if all were tried.
pub(super) fn choose(ticket: usize, candidates: &[Candidate]) -> Option<usize> {
    let takes_share = |position: usize, share: u32| {
        mix(ticket ^ mix(position)) % 1000 < usize::try_from(share).unwrap_or(1000)
    };
    let positions = eligible(candidates, takes_share);
    let (first, second) = pair(ticket, positions.len());
    let (first, second) = (*positions.get(first)?, *positions.get(second)?);
    let outstanding = |position: usize| candidates.get(position).map(|it| it.outstanding);
    Some(if outstanding(second) < outstanding(first) { second } else { first })
}

/// Returns the position of the endpoint for a session; `None` if all were tried. If an endpoint fails, only its own
/// sessions move (rendezvous hashing).
pub(super) fn choose_for(affinity: Affinity, candidates: &[Candidate]) -> Option<usize> {
    let weight = |position: &usize| {
        candidates.get(*position).map(|it| mix64(affinity.0 ^ mix64(it.identity)))
    };
    // A share of a starting endpoint would split sessions.
    eligible(candidates, |_, _| true).into_iter().max_by_key(weight)
}

/// Returns the positions of the endpoints that may get the request. `takes_share` decides whether an endpoint with
/// this share gets it.
///
/// If fewer than half of the endpoints that accept connections are up, the request may go to any of them:
/// the others may only be slow, and the load of all would overload the rest.
fn eligible(candidates: &[Candidate], takes_share: impl Fn(usize, u32) -> bool) -> Vec<usize> {
    let count = |condition: fn(Standing) -> bool| {
        candidates.iter().filter(|it| condition(it.standing)).count()
    };
    let is_panic = 2 * count(Standing::is_up) < count(|it| !it.is_unreachable());
    let untried = || candidates.iter().enumerate().filter(|(_, it)| !it.is_tried);
    let positions = |condition: &dyn Fn(usize, Standing) -> bool| -> Vec<usize> {
        let chosen = untried().filter(|(position, it)| condition(*position, it.standing));
        chosen.map(|(position, _)| position).collect()
    };
    let is_preferred = |position: usize, standing: Standing| match standing {
        Standing::Up => true,
        Standing::Starting(share) => takes_share(position, share),
        Standing::Down(_) | Standing::TrialDue(_) => is_panic && !standing.is_unreachable(),
    };
    let preferences: [&dyn Fn(usize, Standing) -> bool; 4] = [
        &is_preferred,
        &|_, standing| standing.is_up(),
        &|_, standing| !standing.is_unreachable(),
        &|_, _| true,
    ];
    let mut sets = preferences.into_iter().map(positions);
    sets.find(|set| !set.is_empty()).unwrap_or_default()
}

/// Spreads consecutive numbers. Returns half of the bits, which fit into every `usize`.
fn mix(number: usize) -> usize {
    usize::try_from(mix64(number as u64) >> 33).unwrap_or_default()
}

/// The finalizer of splitmix64.
fn mix64(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::health::DownCause;
    use super::*;

    fn candidate(standing: Standing) -> Candidate {
        Candidate { standing, outstanding: 0, is_tried: false, identity: 0 }
    }

    /// Number of requests of 3,000 for each endpoint.
    fn shares(candidates: &[Candidate]) -> Vec<usize> {
        let mut shares = vec![0; candidates.len()];
        (0..3000).for_each(|ticket| shares[choose(ticket, candidates).expect("one")] += 1);
        shares
    }

    #[test]
    fn two_different_endpoints_are_compared() {
        for endpoints in 2..20 {
            let mut pairs = std::collections::BTreeSet::new();
            for ticket in 0..4000 {
                let (first, second) = pair(ticket, endpoints);
                assert!(first != second && first < endpoints && second < endpoints);
                pairs.insert((first, second));
            }
            assert_eq!(pairs.len(), endpoints * (endpoints - 1));
        }
        assert_eq!(pair(5, 1), (0, 0));
    }

    #[test]
    fn the_less_busy_of_two_gets_the_request() {
        let mut three = [candidate(Standing::Up); 3];
        assert_eq!(shares(&three), [1000, 1000, 1000]);
        three[0].outstanding = 9;
        assert_eq!(shares(&three)[0], 0);
    }

    #[test]
    fn load_stays_even_when_requests_differ_in_duration() {
        // Every third request lasts long, in step with the rotation.
        let mut three = [candidate(Standing::Up); 3];
        let mut ends: Vec<(usize, usize)> = Vec::new();
        for ticket in 0..10_000 {
            ends.retain(|(end, position)| {
                let ended = *end == ticket;
                three[*position].outstanding -= usize::from(ended);
                !ended
            });
            let position = choose(ticket, &three).expect("one");
            three[position].outstanding += 1;
            ends.push((ticket + if ticket % 3 == 0 { 300 } else { 3 }, position));
            let (least, most) = (
                three.iter().map(|it| it.outstanding).min(),
                three.iter().map(|it| it.outstanding).max(),
            );
            assert!(most.expect("three") - least.expect("three") <= 20, "{three:?}");
        }
    }

    #[test]
    fn an_endpoint_that_is_down_gets_no_request() {
        for down in [Standing::Down(DownCause::Connect), Standing::TrialDue(DownCause::Timeout)] {
            assert_eq!(shares(&[candidate(Standing::Up), candidate(down)]), [3000, 0]);
        }
    }

    #[test]
    fn below_half_all_reachable_endpoints_get_requests() {
        let (slow, dead) = (Standing::Down(DownCause::Check), Standing::Down(DownCause::Connect));
        let of = |standings: &[Standing]| {
            shares(&standings.iter().map(|it| candidate(*it)).collect::<Vec<_>>())
        };
        assert_eq!(of(&[Standing::Up, slow, slow]), [1000, 1000, 1000]);
        assert_eq!(of(&[Standing::Up, dead, dead]), [3000, 0, 0]);
        assert_eq!(of(&[slow, dead, dead]), [3000, 0, 0]);
        assert_eq!(of(&[dead, dead, dead]), [1000, 1000, 1000]);
    }

    #[test]
    fn a_starting_endpoint_gets_its_share() {
        let two = [candidate(Standing::Up), candidate(Standing::Starting(100))];
        let starting = shares(&two)[1];
        assert!((100..200).contains(&starting), "{starting}");
        assert_eq!(shares(&[candidate(Standing::Starting(100))]), [3000]);
    }

    #[test]
    fn every_endpoint_is_tried_once() {
        let mut all = [Standing::Up, Standing::Starting(100), Standing::Down(DownCause::Connect)]
            .map(candidate);
        for _ in 0..3 {
            let next = choose(7, &all).expect("an untried one");
            assert!(!all[next].is_tried);
            all[next].is_tried = true;
        }
        assert_eq!(choose(7, &all), None);
    }

    #[test]
    fn only_the_sessions_of_a_failed_endpoint_move() {
        let mut all = [candidate(Standing::Up); 5];
        all.iter_mut().zip(1..).for_each(|(it, identity)| it.identity = identity);
        let places = |all: &[Candidate]| -> Vec<usize> {
            (0..1000).map(|it| choose_for(Affinity(mix64(it)), all).expect("one")).collect()
        };
        let before = places(&all);
        for endpoint in 0..5 {
            let sessions = before.iter().filter(|place| **place == endpoint).count();
            assert!((140..260).contains(&sessions), "{sessions}");
        }
        all[2].standing = Standing::Down(DownCause::Connect);
        let after = places(&all);
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == 2));
        assert!(!after.contains(&2));
        // The order of the configuration has no effect.
        all[2].standing = Standing::Starting(100);
        all.reverse();
        let reversed: Vec<usize> = places(&all).into_iter().map(|place| 4 - place).collect();
        assert_eq!(reversed, before);
    }
}
