//! The kernel-side object inside this program.

/// Bytes behind a header whose type makes the whole aligned: the object is
/// an ELF file and is read in place.
#[repr(C)]
struct Aligned<Bytes: ?Sized> {
    align: [u64; 0],
    bytes: Bytes,
}

#[cfg(ebpf_object)]
static OBJECT: Option<&Aligned<[u8]>> =
    Some(&Aligned { align: [], bytes: *include_bytes!(env!("UNIONBENCH_EBPF_OBJECT_FILE")) });

#[cfg(not(ebpf_object))]
static OBJECT: Option<&Aligned<[u8]>> = None;

/// The object; none if this program was built without probes.
pub fn bytes() -> Option<&'static [u8]> {
    OBJECT.map(|object| &object.bytes)
}

/// Whether this program was built with probes.
pub fn is_embedded() -> bool {
    bytes().is_some()
}
