//! Least-squares lines, plain and on logarithmic axes.

/// `y = intercept + slope · x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    pub slope: f64,
    pub intercept: f64,
    /// Share of the variance of y that the line explains, 0 to 1. It is 1 if
    /// all y are equal, for the line then meets every point.
    pub r_squared: f64,
    /// Points the line was fitted to.
    pub n: usize,
}

/// `y = factor · x^exponent`, fitted as a line through the logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerLaw {
    /// The slope on log-log axes: 0 does not depend on x, 1 is proportional.
    pub exponent: f64,
    pub factor: f64,
    /// Of the line through the logarithms.
    pub r_squared: f64,
    pub n: usize,
}

/// The line with the smallest sum of squared residuals; absent with fewer than
/// two points, if all x are equal, or if a coordinate is not finite.
pub fn line(points: &[(f64, f64)]) -> Option<Line> {
    let finite = points.iter().all(|(x, y)| x.is_finite() && y.is_finite());
    if points.len() < 2 || !finite {
        return None;
    }
    let n = points.len() as f64;
    let mean_x = points.iter().map(|p| p.0).sum::<f64>() / n;
    let mean_y = points.iter().map(|p| p.1).sum::<f64>() / n;
    // Deviations from the means, not raw squares: sizes up to 2^30 squared
    // would swallow the differences that matter.
    let (mut sxx, mut sxy, mut syy) = (0.0, 0.0, 0.0);
    for &(x, y) in points {
        let (dx, dy) = (x - mean_x, y - mean_y);
        sxx += dx * dx;
        sxy += dx * dy;
        syy += dy * dy;
    }
    if sxx == 0.0 {
        return None;
    }
    let slope = sxy / sxx;
    let r_squared = if syy == 0.0 { 1.0 } else { (sxy * sxy / (sxx * syy)).clamp(0.0, 1.0) };
    Some(Line { slope, intercept: mean_y - slope * mean_x, r_squared, n: points.len() })
}

/// The power law through `points`; absent where [`line`] is, or if a
/// coordinate is not positive.
pub fn power_law(points: &[(f64, f64)]) -> Option<PowerLaw> {
    if points.iter().any(|&(x, y)| x <= 0.0 || y <= 0.0) {
        return None;
    }
    let logs: Vec<_> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let Line { slope, intercept, r_squared, n } = line(&logs)?;
    Some(PowerLaw { exponent: slope, factor: intercept.exp(), r_squared, n })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn anscombes_first_quartet_has_its_published_line() {
        let x = [10., 8., 13., 9., 11., 14., 6., 4., 12., 7., 5.];
        let y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68];
        let points: Vec<_> = x.into_iter().zip(y).collect();
        let fit = line(&points).expect("x differ");
        assert!((fit.slope - 0.500).abs() < 1e-3, "{fit:?}");
        assert!((fit.intercept - 3.00).abs() < 1e-2, "{fit:?}");
        assert!((fit.r_squared - 0.67).abs() < 5e-3, "{fit:?}");
    }

    #[test]
    fn points_without_a_line_have_none() {
        assert_eq!(line(&[(1.0, 1.0)]), None);
        assert_eq!(line(&[(1.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(line(&[(1.0, f64::NAN), (2.0, 2.0)]), None);
        assert_eq!(power_law(&[(0.0, 1.0), (1.0, 2.0)]), None);
    }

    #[test]
    fn constant_y_is_met_by_a_flat_line() {
        let fit = line(&[(1.0, 5.0), (2.0, 5.0), (3.0, 5.0)]).expect("x differ");
        assert_eq!((fit.slope, fit.intercept, fit.r_squared), (0.0, 5.0, 1.0));
    }

    proptest! {
        #[test]
        fn exact_power_laws_are_found(exponent in -2.0..2.0_f64, factor in 0.1..1e6_f64) {
            let points: Vec<_> =
                (0..8).map(|i| 4096.0 * 4_f64.powi(i)).map(|x| (x, factor * x.powf(exponent))).collect();
            let fit = power_law(&points).expect("positive");
            prop_assert!((fit.exponent - exponent).abs() < 1e-6);
            prop_assert!((fit.factor / factor - 1.0).abs() < 1e-6);
        }
    }
}
