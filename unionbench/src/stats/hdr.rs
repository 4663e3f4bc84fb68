//! HDR histograms as records keep them: V2, deflate, base64, three
//! significant digits. Every bucket is at most 0.1 % wide, so a quantile read
//! from a histogram is within 0.1 % of the sample it stands for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};

/// Significant decimal digits that every histogram keeps.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Why a histogram could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum HdrError {
    #[error("cannot encode a histogram: {0}")]
    Encode(String),
    #[error("cannot decode a histogram: it is not base64; restore the record from its copy")]
    Base64(#[from] base64::DecodeError),
    #[error(
        "cannot decode a histogram: it is not HDR V2 with deflate ({0}); restore the record from its copy"
    )]
    Decode(String),
    #[error("cannot merge histograms: {0}")]
    Merge(String),
}

/// An empty histogram that grows with its values.
pub fn empty() -> Histogram<u64> {
    // Creation fails for more than five digits only, which the tests rule out.
    Histogram::new(SIGNIFICANT_DIGITS).expect("three significant digits are allowed")
}

/// The histogram of `samples`.
pub fn of_samples(samples: &[u64]) -> Result<Histogram<u64>, HdrError> {
    let mut histogram = empty();
    for &sample in samples {
        histogram.record(sample).map_err(|e| HdrError::Encode(e.to_string()))?;
    }
    Ok(histogram)
}

/// Text for `record::Round::histogram`.
pub fn encode(histogram: &Histogram<u64>) -> Result<String, HdrError> {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(histogram, &mut bytes)
        .map_err(|e| HdrError::Encode(format!("{e:?}")))?;
    Ok(STANDARD.encode(bytes))
}

/// Reads what [`encode`] wrote. The empty text is the empty histogram, for
/// rounds in which nothing ran.
pub fn decode(text: &str) -> Result<Histogram<u64>, HdrError> {
    if text.is_empty() {
        return Ok(empty());
    }
    let bytes = STANDARD.decode(text)?;
    Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|e| HdrError::Decode(format!("{e:?}")))
}

/// All values of all histograms, as if recorded into one.
pub fn merge<'a>(
    histograms: impl IntoIterator<Item = &'a Histogram<u64>>,
) -> Result<Histogram<u64>, HdrError> {
    let mut sum = empty();
    for histogram in histograms {
        sum.add(histogram).map_err(|e| HdrError::Merge(e.to_string()))?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn damaged_text_is_refused() {
        assert!(matches!(decode("not base64!"), Err(HdrError::Base64(_))));
        assert!(matches!(decode("AAAA"), Err(HdrError::Decode(_))));
    }

    #[test]
    fn empty_text_is_the_empty_histogram() {
        assert_eq!(decode("").expect("allowed").len(), 0);
    }

    proptest! {
        #[test]
        fn histograms_read_back_as_written(
            samples in prop::collection::vec(0_u64..u64::MAX / 4, 0..50),
        ) {
            let histogram = of_samples(&samples).expect("in range");
            let text = encode(&histogram).expect("encodes");
            prop_assert_eq!(decode(&text).expect("decodes"), histogram);
        }

        #[test]
        fn merged_parts_equal_the_whole(
            left in prop::collection::vec(0_u64..1 << 40, 0..50),
            right in prop::collection::vec(0_u64..1 << 40, 0..50),
        ) {
            let parts = [of_samples(&left), of_samples(&right)].map(|h| h.expect("in range"));
            let whole = of_samples(&[left, right].concat()).expect("in range");
            prop_assert_eq!(merge(&parts).expect("merges"), whole);
        }
    }
}
