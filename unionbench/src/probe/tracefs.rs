//! Tracepoints by name: they need a tracefs, and records laid out as the
//! kernel-side programs read them.

use std::fs;
use std::path::Path;

use super::engine::Refusal;
use crate::sys::own_mounts::with_tracefs;

const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Runs `work` where a tracefs can be seen, mounting one that nothing else
/// sees if need be. Where that is refused too, `work` runs without, and what
/// it attaches by name is refused in its turn.
pub(super) fn visible<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if place().is_some() {
        return work();
    }
    let mut work = Some(work);
    let mounted = with_tracefs(|| work.take().map(|work| work()));
    match (mounted, work) {
        (Ok(Some(result)), _) => result,
        (Err(error), Some(work)) => {
            tracing::debug!(%error, "no tracefs can be mounted");
            work()
        }
        // `work` is taken exactly when `with_tracefs` succeeds.
        (Ok(None), _) | (Err(_), None) => unreachable!("the work ran without a result"),
    }
}

/// Whether tracepoints can be found by name here.
pub fn is_readable() -> bool {
    visible(|| place().is_some())
}

fn place() -> Option<&'static Path> {
    PLACES.iter().map(Path::new).find(|place| place.join("events").is_dir())
}

/// Whether the record of a tracepoint holds each field at its offset.
pub(super) fn check_format(
    category: &str,
    name: &str,
    fields: &[(&str, usize)],
) -> Result<(), Refusal> {
    let place = place().ok_or_else(|| Refusal::because("no tracefs can be read here"))?;
    let path = place.join("events").join(category).join(name).join("format");
    let text = fs::read_to_string(&path).map_err(|error| Refusal {
        errno: error.raw_os_error(),
        reason: format!("this kernel has no tracepoint {category}:{name}"),
    })?;
    for (field, offset) in fields {
        if offset_of(&text, field) != Some(*offset) {
            return Err(Refusal::because(format!(
                "the record of {category}:{name} does not hold {field} at offset {offset}"
            )));
        }
    }
    Ok(())
}

/// The offset in a line such as `field:u64 unique;  offset:16;  size:8;`.
fn offset_of(format: &str, field: &str) -> Option<usize> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().strip_prefix("field:")?.split(';');
        let declared = parts.next()?.rsplit([' ', '*']).next()?;
        if declared != field {
            return None;
        }
        parts.next()?.trim().strip_prefix("offset:")?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::offset_of;

    #[test]
    fn offsets_are_read_from_a_format_file() {
        let format = "name: fuse_request_send\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\tfield:uint64_t unique;\toffset:16;\tsize:8;\tsigned:0;\n";
        assert_eq!(offset_of(format, "unique"), Some(16));
        assert_eq!(offset_of(format, "common_type"), Some(0));
        assert_eq!(offset_of(format, "type"), None);
    }
}
