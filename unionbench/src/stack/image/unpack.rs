//! All layers of an image at once: each thread takes the next one that nobody
//! has begun, decompresses, hashes and writes it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::blob::{Hash, Hashing};
use super::entries::Entries;
use super::layer::{self, Devices, LayerReport, Rules};
use super::limits::{Budget, Budgeted, Limits};
use super::{Image, ImageError, Layer, Refusal};
use crate::stack::XattrNamespace;

/// How an image is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackOptions {
    pub namespace: XattrNamespace,
    pub devices: Devices,
    pub limits: Limits,
    /// Layers at once; 0 for one on each processor.
    pub n_threads: usize,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self {
            namespace: XattrNamespace::Trusted,
            devices: Devices::Refuse,
            limits: Limits::default(),
            n_threads: 0,
        }
    }
}

/// An image on disk.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// Index 0 is the topmost layer.
    pub layers: Vec<UnpackedLayer>,
}

/// One layer on disk.
#[derive(Debug, Clone)]
pub struct UnpackedLayer {
    pub path: PathBuf,
    pub diff_id: String,
    pub report: LayerReport,
    /// The root is opaque. overlayfs does not look at that of a root, so the
    /// layers below must be left out of the mount.
    pub hides_all_below: bool,
}

/// Unpacks every layer as `root/L000` (the topmost), `root/L001`, …; `root`
/// must exist and belong to nobody else. Digests and diff ids are checked.
///
/// # Errors
/// The image is damaged or hostile, or the disk is full. What was written stays
/// and must not be used.
pub fn unpack(
    image: &Image,
    root: &Path,
    options: UnpackOptions,
    cancel: &AtomicBool,
) -> Result<Unpacked, ImageError> {
    let limits = Limits { bytes: options.limits.bytes.min(room(root)), ..options.limits };
    let budget = Budget::new(limits);
    let n_layers = image.layers.len();
    let topmost_first: Vec<&Layer> = image.layers.iter().rev().collect();
    let rules = |label| Rules {
        label,
        namespace: options.namespace,
        devices: options.devices,
        budget: &budget,
        cancel,
    };
    let path = |index: usize| root.join(format!("L{index:03}"));
    let labels: Vec<String> = topmost_first.iter().map(|layer| layer.blob.name()).collect();
    let mut written = in_parallel(n_layers, options.n_threads, |index, stop| {
        if stop.load(Ordering::Relaxed) {
            return Err(ImageError::Cancelled);
        }
        let rules = rules(labels[index].as_str());
        checked(topmost_first[index], &budget, |entries| layer::write(entries, &path(index), rules))
    })?;
    for index in (0..n_layers).rev() {
        let (above, below) = written.split_at_mut(index + 1);
        above[index].inherit(below);
        above[index].finish(rules(labels[index].as_str()))?;
    }
    let layers = written.iter().enumerate().map(|(index, written)| UnpackedLayer {
        path: path(index),
        diff_id: topmost_first[index].diff_id.clone(),
        report: written.report,
        hides_all_below: written.is_opaque(),
    });
    Ok(Unpacked { layers: layers.collect() })
}

/// Reads every layer to its end without writing: digests, diff ids and the
/// number of entries of each, topmost first.
///
/// # Errors
/// The image is damaged.
pub fn scan(image: &Image, limits: Limits, cancel: &AtomicBool) -> Result<Vec<u64>, ImageError> {
    let budget = Budget::new(limits);
    let topmost_first: Vec<&Layer> = image.layers.iter().rev().collect();
    in_parallel(topmost_first.len(), 0, |index, stop| {
        checked(topmost_first[index], &budget, |entries| {
            let mut n = 0;
            while entries.next()?.is_some() {
                if cancel.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed) {
                    return Err(ImageError::Cancelled);
                }
                n += 1;
            }
            Ok(n)
        })
    })
}

/// Runs `work` for each index, several at once; the first error stops the rest.
fn in_parallel<T: Send>(
    n: usize,
    n_threads: usize,
    work: impl Fn(usize, &AtomicBool) -> Result<T, ImageError> + Sync,
) -> Result<Vec<T>, ImageError> {
    let n_threads = match n_threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    };
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results: Vec<Mutex<Option<T>>> = (0..n).map(|_| Mutex::new(None)).collect();
    let failed: Mutex<Option<ImageError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..n_threads.min(n) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= n || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    match work(index, &stop) {
                        Ok(value) => *lock(&results[index]) = Some(value),
                        Err(error) => {
                            // In this order: the cause comes before the
                            // `Cancelled` of those that it stops.
                            lock(&failed).get_or_insert(error);
                            stop.store(true, Ordering::Relaxed);
                            return;
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(error);
    }
    let all: Option<Vec<T>> = results.into_iter().map(|slot| lock(&slot).take()).collect();
    all.ok_or(ImageError::Cancelled)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

type Uncompressed<'a> = Hashing<Budgeted<'a, Box<dyn Read>>>;

/// Reads one layer's archive through `work` and to its end, and checks both
/// digests. The order of errors matters: a refusal is told as such, but bytes
/// that are not those of the digest explain whatever else went wrong.
fn checked<'a, T>(
    layer: &Layer,
    budget: &'a Budget,
    work: impl FnOnce(&mut Entries<BufReader<Uncompressed<'a>>>) -> Result<T, ImageError>,
) -> Result<T, ImageError> {
    let label = layer.blob.name();
    if let Some(expected) = &layer.blob.digest {
        verify_stored(layer, expected)?;
    }
    let damaged = |source| ImageError::Damaged { layer: label.clone(), source };
    let stream = decompressed(layer.blob.reader()?).map_err(damaged)?;
    let hash = Hash::of(&layer.diff_id, "the configuration")?;
    let hashing = Hashing::new(Budgeted { inner: stream, budget }, hash);
    let mut entries = Entries::new(BufReader::with_capacity(256 << 10, hashing), &label);
    let result = work(&mut entries).map_err(|error| over_budget(error, budget));
    let value = result?;
    let hash = entries.into_inner().into_inner().finish().map_err(damaged);
    hash.map_err(|error| over_budget(error, budget))?.check(&layer.diff_id, &label)?;
    Ok(value)
}

/// The whole blob is hashed before a byte of it is decompressed: what fails its
/// digest never reaches a decoder or the disk.
fn verify_stored(layer: &Layer, expected: &str) -> Result<(), ImageError> {
    let label = layer.blob.name();
    let mut reader = layer.blob.reader()?;
    let mut hash = Hash::of(expected, &label)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hash.update(&buffer[..n]),
            Err(source) => return Err(ImageError::Damaged { layer: label, source }),
        }
    }
    hash.check(expected, &label)
}

/// By the first bytes, not by what the manifest calls the media type: images
/// with wrong types are common, and the diff id tells whether the guess held.
fn decompressed(file: io::Take<File>) -> io::Result<Box<dyn Read>> {
    use std::io::BufRead as _;
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let magic = reader.fill_buf()?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)));
    }
    // A frame of zstd, or a skippable one in front of it.
    let skippable =
        magic.len() >= 4 && magic[0] & 0xf0 == 0x50 && magic[1..4] == [0x2a, 0x4d, 0x18];
    if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || skippable {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
        // A frame may ask for a window of up to 3.75 TiB; 128 MiB is what the
        // format's specification (RFC 8878) advises decoders to stop at.
        decoder.window_log_max(27)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(reader))
}

/// What a reader could only call too large, by its right name.
fn over_budget(error: ImageError, budget: &Budget) -> ImageError {
    match (error, budget.exceeded()) {
        (ImageError::Damaged { layer, source }, Some(bytes))
            if source.kind() == io::ErrorKind::FileTooLarge =>
        {
            let why = Refusal::TooManyBytes(bytes);
            ImageError::Refused { layer, entry: "the whole".to_owned(), why }
        }
        (error, _) => error,
    }
}

/// Bytes that the file system under `root` can still take.
fn room(root: &Path) -> u64 {
    match rustix::fs::statvfs(root) {
        // An archive has headers that the tree does not; they are at most as
        // long as the tree's own blocks.
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize).saturating_mul(2),
        Err(_) => u64::MAX,
    }
}
