//! What a bare bzImage can do, read from the kernel inside it: nobody who brings
//! one brings its configuration along.
//!
//! The payload is found by the boot header (Documentation/arch/x86/boot.rst:
//! 0x248 `payload_offset` u32 relative to the protected-mode code, 0x24c
//! `payload_length` u32) and unpacked. A kernel with CONFIG_IKCONFIG holds its
//! configuration between `IKCFG_ST` and `IKCFG_ED`; in any other, each feature
//! is known by a text that only it leaves in the image. A text that is not
//! there proves nothing, so the feature is then unknown.

use std::io::Read;

use super::kernel::{Capabilities, Feature};

/// A kernel unpacks to less than this.
const LARGEST: u64 = 512 << 20;

/// The unpacked kernel; none if its compression is not known here (lz4, lzo,
/// bzip2) or it is damaged.
pub(crate) fn unpack(image: &[u8]) -> Option<Vec<u8>> {
    let word = |at: usize| -> Option<usize> {
        let bytes: [u8; 4] = image.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes) as usize)
    };
    let sectors = match *image.get(0x1f1)? {
        0 => 4,
        n => usize::from(n),
    };
    let start = (sectors + 1) * 512 + word(0x248)?;
    let packed = image.get(start..start.checked_add(word(0x24c)?)?)?;
    let mut kernel = Vec::new();
    let read = match packed {
        [0x1f, 0x8b, ..] => {
            flate2::read::GzDecoder::new(packed).take(LARGEST).read_to_end(&mut kernel)
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            lzma_rust2::XzReader::new(packed, false).take(LARGEST).read_to_end(&mut kernel)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ruzstd::decoding::StreamingDecoder::new(packed)
            .ok()?
            .take(LARGEST)
            .read_to_end(&mut kernel),
        _ => return None,
    };
    // Four bytes of size stand behind the stream, which some decoders take for
    // a damaged second one: what was unpacked before that counts.
    (read.is_ok() || !kernel.is_empty()).then_some(kernel).filter(|k| k.starts_with(b"\x7fELF"))
}

/// The configuration inside an unpacked kernel.
pub(crate) fn configuration(kernel: &[u8]) -> Option<String> {
    let start = find(kernel, b"IKCFG_ST")? + 8;
    let end = start + find(&kernel[start..], b"IKCFG_ED")?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(&kernel[start..end]).read_to_string(&mut text).ok()?;
    Some(text)
}

/// What the texts in an unpacked kernel tell.
pub(crate) fn features(kernel: &[u8]) -> Capabilities {
    let has = |texts: &[&[u8]]| match texts.iter().any(|text| find(kernel, text).is_some()) {
        true => Feature::BuiltIn,
        false => Feature::Unknown,
    };
    Capabilities {
        btf: has(&[b"\0.BTF\0"]),
        kprobes: has(&[b"register_kprobe\0"]),
        overlay: has(&[b"overlay.metacopy\0", b"overlay.redirect_dir\0"]),
        fuse: has(&[b"fuse.max_user_bgreq\0"]),
        // The names of its parameters; the second is there without sysfs too.
        aufs: has(&[b"aufs.brs\0", b"aufs.allow_userns\0"]),
        fuse_passthrough: has(&[b"fuse_passthrough_open\0"]),
        virtio_console: has(&[b"virtio-ports\0"]),
        virtio_pci: has(&[b"virtio_pci.force_legacy\0", b"virtio-pci\0"]),
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    let first = *text.first()?;
    let mut from = 0;
    while let Some(at) = bytes.get(from..)?.iter().position(|byte| *byte == first) {
        if bytes[from + at..].starts_with(text) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).expect("packed");
        packer.finish().expect("packed")
    }

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * 512 + 16];
        image[0x1f1] = 1;
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        let length = payload.len() as u32 + 4;
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(&[0; 4]);
        image
    }

    fn kernel(rest: &[u8]) -> Vec<u8> {
        [b"\x7fELF and more\0".as_slice(), rest].concat()
    }

    #[test]
    fn a_kernel_tells_its_configuration() {
        let config = gzip(b"CONFIG_AUFS_FS=y\n");
        let rest = [b"IKCFG_ST".as_slice(), &config, b"IKCFG_ED"].concat();
        let unpacked = unpack(&image(&gzip(&kernel(&rest)))).expect("a kernel");
        assert_eq!(configuration(&unpacked).as_deref(), Some("CONFIG_AUFS_FS=y\n"));
    }

    #[test]
    fn a_kernel_without_one_is_known_by_its_texts() {
        let unpacked = unpack(&image(&gzip(&kernel(b"x\0aufs.brs\0\0.BTF\0")))).expect("a kernel");
        let found = features(&unpacked);
        assert_eq!(configuration(&unpacked), None);
        assert_eq!((found.aufs, found.btf), (Feature::BuiltIn, Feature::BuiltIn));
        assert_eq!(found.overlay, Feature::Unknown);
    }

    #[test]
    fn what_is_no_kernel_unpacks_to_nothing() {
        assert_eq!(unpack(&image(b"plain")), None);
        assert_eq!(unpack(&image(&gzip(b"no ELF"))), None);
        assert_eq!(unpack(b"short"), None);
        let mut cut = image(&gzip(&kernel(b"")));
        cut.truncate(1060);
        assert_eq!(unpack(&cut), None);
    }
}
