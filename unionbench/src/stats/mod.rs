//! Statistics over samples: quantiles, intervals, tests, fits. No I/O.
