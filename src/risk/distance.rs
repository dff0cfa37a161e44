//! How far two places on Earth are from each other.

/// Degrees north and east.
pub(super) type Coordinates = (f64, f64);

const EARTH: f64 = 6_371.0;

/// Along the surface, in kilometres.
pub(super) fn kilometres(from: Coordinates, to: Coordinates) -> f64 {
    let [from, to] = [from, to].map(|(north, east)| (north.to_radians(), east.to_radians()));
    let half = |difference: f64| (difference / 2.0).sin().powi(2);
    let chord = half(to.0 - from.0) + from.0.cos() * to.0.cos() * half(to.1 - from.1);
    2.0 * EARTH * chord.clamp(0.0, 1.0).sqrt().asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn berlin_is_878_km_from_paris_and_none_from_itself() {
        let (berlin, paris) = ((52.52, 13.405), (48.857, 2.352));
        assert!((kilometres(berlin, paris) - 878.0).abs() < 3.0);
        assert!(kilometres(paris, paris) < 0.001);
        assert!((kilometres((90.0, 0.0), (-90.0, 0.0)) - 20_015.0).abs() < 5.0);
    }
}
