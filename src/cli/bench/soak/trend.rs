//! What a series of samples says about hours: medians of its sixths, and the slope that most pairs of points have.

use super::super::report::median;

/// Most points that a slope is made of.
const POINTS_MAX: usize = 1000;

/// Seconds since the start, and what was measured.
pub(super) type Points = [(f64, f64)];

/// Medians of the first sixth, of the sixth in the middle, and of the last one.
pub(super) fn sixths(points: &Points) -> [f64; 3] {
    let values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
    let len = values.len();
    let sixth = len.div_ceil(6);
    let middle = (len - sixth) / 2;
    [0, middle, len - sixth].map(|from| median(&values[from..from + sixth]))
}

/// Growth in an hour: the median of the slopes of all pairs (Theil and Sen), which one outlier does not tilt. `None`: no two points.
pub(super) fn per_hour(points: &Points) -> Option<f64> {
    let some: Vec<(f64, f64)> =
        points.iter().copied().step_by(points.len().div_ceil(POINTS_MAX).max(1)).collect();
    let mut slopes = Vec::new();
    for (n, (from, low)) in some.iter().enumerate() {
        slopes.extend(
            some[n + 1..].iter().filter(|(to, _)| to > from).map(|(to, high)| (high - low) / (to - from)),
        );
    }
    (!slopes.is_empty()).then(|| median(&slopes) * 3600.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_found_through_outliers() {
        let mut points: Vec<(f64, f64)> =
            (0..3600).step_by(10).map(|s| (f64::from(s), 5.0 + f64::from(s) / 100.0)).collect();
        points[7].1 = 1e9;
        let slope = per_hour(&points).expect("points");
        assert!((slope - 36.0).abs() < 0.01, "{slope}");
        assert_eq!(per_hour(&points[..1]), None);
        let flat: Vec<(f64, f64)> = (0..100).map(|s| (f64::from(s), 3.0)).collect();
        assert_eq!(per_hour(&flat), Some(0.0));
    }

    #[test]
    fn sixths_are_those_at_both_ends_and_in_the_middle() {
        let points: Vec<(f64, f64)> = (0..18).map(|n| (f64::from(n), f64::from(n))).collect();
        assert_eq!(sixths(&points), [1.0, 8.0, 16.0]);
        assert_eq!(sixths(&points[..1]), [0.0, 0.0, 0.0]);
    }
}
