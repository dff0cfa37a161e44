//! Distance between two points on Earth.

/// Degrees north and east.
pub(super) type Coordinates = (f64, f64);

const EARTH_RADIUS_KM: f64 = 6_371.0;

/// Returns the great-circle distance in kilometres.
pub(super) fn distance_km(from: Coordinates, to: Coordinates) -> f64 {
    let [from, to] = [from, to].map(|(north, east)| (north.to_radians(), east.to_radians()));
    let half = |difference: f64| (difference / 2.0).sin().powi(2);
    let chord = half(to.0 - from.0) + from.0.cos() * to.0.cos() * half(to.1 - from.1);
    2.0 * EARTH_RADIUS_KM * chord.clamp(0.0, 1.0).sqrt().asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_match_known_values() {
        let (berlin, paris) = ((52.52, 13.405), (48.857, 2.352));
        assert!((distance_km(berlin, paris) - 878.0).abs() < 3.0);
        assert!(distance_km(paris, paris) < 0.001);
        assert!((distance_km((90.0, 0.0), (-90.0, 0.0)) - 20_015.0).abs() < 5.0);
    }
}
