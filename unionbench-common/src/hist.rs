//! The bucket rule of every histogram the kernel side fills.
//!
//! Buckets are log-linear, as in an HDR histogram: each power of two is cut
//! into 32 equal parts, so a value is known to 1/32 of itself (3.1 %), and
//! values below 64 are exact. 2^36 ns are 68.7 s: what is longer is counted
//! in `overflow`, never put into the last bucket. Count, sum, least and
//! greatest are exact.

/// A power of two is cut into 2 to this power parts.
const SUB_BITS: u32 = 5;
const SUB_BUCKETS: usize = 1 << SUB_BITS;
/// Values from 2 to this power on overflow.
pub const LIMIT_BITS: u32 = 36;
/// How many buckets a histogram has.
pub const BUCKETS: usize = SUB_BUCKETS * (LIMIT_BITS - SUB_BITS + 1) as usize;

/// A histogram as it lies in a per-CPU map.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Histogram {
    /// Sum of the values, wrapping.
    pub sum: u64,
    /// The bitwise complement of the least value. A map begins as zeros, and
    /// the complement of zero is the greatest number: no value was yet less.
    pub min_complement: u64,
    /// The greatest value.
    pub max: u64,
    /// Values of 2^36 and more; they are in no bucket.
    pub overflow: u64,
    /// Calls among [`Histogram::count`] that returned an error.
    pub failed: u64,
    /// Values by [`bucket_of`].
    pub buckets: [u64; BUCKETS],
}

const _: () = assert!(BUCKETS == 1024);
const _: () = assert!(size_of::<Histogram>() == 5 * 8 + BUCKETS * 8);

impl Histogram {
    pub const EMPTY: Self =
        Self { sum: 0, min_complement: 0, max: 0, overflow: 0, failed: 0, buckets: [0; BUCKETS] };

    /// Adds one value.
    pub fn record(&mut self, value: u64) {
        self.record_bounded(value, |index| index);
    }

    /// Adds one value. `bound` leaves an index as it is, in a way that shows
    /// the kernel's verifier that it is less than [`BUCKETS`].
    #[inline(always)]
    pub fn record_bounded(&mut self, value: u64, bound: impl Fn(usize) -> usize) {
        self.sum = self.sum.wrapping_add(value);
        if !value > self.min_complement {
            self.min_complement = !value;
        }
        if value > self.max {
            self.max = value;
        }
        match bucket_bounded(value, &bound) {
            Some(bucket) => {
                if let Some(slot) = self.buckets.get_mut(bound(bucket)) {
                    *slot += 1;
                }
            }
            None => self.overflow += 1,
        }
    }

    /// Values recorded, overflowing ones included.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum::<u64>() + self.overflow
    }

    /// The least value, if any was recorded.
    pub fn min(&self) -> Option<u64> {
        (self.count() > 0).then_some(!self.min_complement)
    }

    /// Adds what another CPU counted.
    pub fn merge(&mut self, other: &Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.min_complement = self.min_complement.max(other.min_complement);
        self.max = self.max.max(other.max);
        self.overflow += other.overflow;
        self.failed += other.failed;
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
    }
}

/// The bucket of a value; none if it overflows.
pub fn bucket_of(value: u64) -> Option<usize> {
    bucket_bounded(value, &|index| index)
}

/// As [`bucket_of`], with what [`Histogram::record_bounded`] takes.
#[inline(always)]
fn bucket_bounded(value: u64, bound: &impl Fn(usize) -> usize) -> Option<usize> {
    let (mut rest, mut above) = (value, 0);
    if rest >> LIST_BITS != 0 {
        if rest >> LIMIT_BITS != 0 {
            return None;
        }
        // What is left is at least 2^SUB_BITS: a value so much shorter is in
        // the same part of its power of two.
        while rest >> LIST_BITS != 0 {
            rest >>= STEP_BITS;
            above += STEP_BITS as usize * SUB_BUCKETS;
        }
    }
    let low = LIST.get(bound(rest as usize))?;
    Some(usize::from(*low) + above)
}

/// Buckets of the values below 2 to the power of [`LIST_BITS`]. The kernel's
/// instruction set cannot count leading zeros: to find the place of the highest
/// bit took 35 instructions at the end of every probed call.
static LIST: [u16; BUCKETS] = list();
const LIST_BITS: u32 = BUCKETS.ilog2();
const STEP_BITS: u32 = LIST_BITS - SUB_BITS;

const fn list() -> [u16; BUCKETS] {
    let mut list = [0; BUCKETS];
    let mut value = 0;
    while value < list.len() {
        let shift = if value < SUB_BUCKETS { 0 } else { value.ilog2() - SUB_BITS };
        list[value] = (shift as usize * SUB_BUCKETS + (value >> shift)) as u16;
        value += 1;
    }
    list
}

/// The values a bucket holds: from the first up to, not including, the second.
pub const fn bounds(bucket: usize) -> (u64, u64) {
    if bucket < 2 * SUB_BUCKETS {
        return (bucket as u64, bucket as u64 + 1);
    }
    let shift = bucket / SUB_BUCKETS - 1;
    let part = bucket % SUB_BUCKETS + SUB_BUCKETS;
    ((part as u64) << shift, (part as u64 + 1) << shift)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_power_of_two_opens_a_bucket() {
        for bits in 0..LIMIT_BITS {
            let value = 1_u64 << bits;
            let bucket = bucket_of(value).expect("below the limit");
            assert_eq!(bounds(bucket).0, value);
            if value > 1 {
                assert_eq!(bucket_of(value - 1), Some(bucket - 1), "just below 2^{bits}");
            }
        }
    }

    #[test]
    fn buckets_cover_the_range_without_gap_or_overlap() {
        let mut next = 0;
        for bucket in 0..BUCKETS {
            let (from, to) = bounds(bucket);
            assert_eq!(from, next);
            assert_eq!(bucket_of(from), Some(bucket));
            assert_eq!(bucket_of(to - 1), Some(bucket));
            next = to;
        }
        assert_eq!(next, 1 << LIMIT_BITS);
    }

    #[test]
    fn a_value_past_the_limit_overflows_and_stays_out_of_the_buckets() {
        let mut histogram = Histogram::EMPTY;
        histogram.record((1 << LIMIT_BITS) - 1);
        histogram.record(1 << LIMIT_BITS);
        histogram.record(u64::MAX);
        assert_eq!((histogram.count(), histogram.overflow), (3, 2));
        assert_eq!(histogram.buckets.iter().sum::<u64>(), 1);
        assert_eq!(histogram.max, u64::MAX);
    }

    #[test]
    fn the_least_of_nothing_is_nothing() {
        assert_eq!(Histogram::EMPTY.min(), None);
        let mut histogram = Histogram::EMPTY;
        histogram.record(0);
        assert_eq!(histogram.min(), Some(0));
    }

    proptest! {
        #[test]
        fn a_bucket_is_no_wider_than_a_32nd_of_its_values(value in 64_u64..1 << LIMIT_BITS) {
            let (from, to) = bounds(bucket_of(value).expect("below the limit"));
            prop_assert!(from <= value && value < to);
            prop_assert!((to - from) * 32 <= from);
        }

        #[test]
        fn merging_counts_every_value_once(values in proptest::collection::vec(any::<u64>(), 0..64)) {
            let (mut whole, mut even, mut odd) = (Histogram::EMPTY, Histogram::EMPTY, Histogram::EMPTY);
            for (index, value) in values.iter().enumerate() {
                whole.record(*value);
                if index % 2 == 0 { even.record(*value) } else { odd.record(*value) }
            }
            even.merge(&odd);
            prop_assert_eq!(even.count(), values.len() as u64);
            prop_assert_eq!(even.sum, whole.sum);
            prop_assert_eq!(even.min(), values.iter().min().copied());
            prop_assert_eq!(even.max, values.iter().max().copied().unwrap_or(0));
            prop_assert_eq!(even.overflow, whole.overflow);
            prop_assert!(even.buckets == whole.buckets);
        }
    }
}
