//! `unionbench image`: looks into images, and unpacks them into layers.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;

use super::Failure;
use super::signal::stop_on_signal;
use crate::stack::image::{
    self, Devices, Image, ImageError, Limits, Platform, Reference, UnpackOptions, Unpacked,
};
use crate::stack::{Listing, XattrNamespace};
use crate::unit::Bytes;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Tells what an image is made of
    Inspect {
        /// oci:PATH[:NAME], docker-archive:FILE[:NAME] or dir:PATH
        image: String,
        /// Such as linux/arm64 [default: this machine's]
        #[arg(long)]
        platform: Option<String>,
        /// Also reads every layer to its end and checks all digests
        #[arg(long)]
        verify: bool,
    },
    /// Unpacks an image into folders that overlayfs takes as layers
    Unpack {
        /// oci:PATH[:NAME], docker-archive:FILE[:NAME] or dir:PATH
        image: String,
        /// A new or empty folder; layers become L000 (the topmost), L001, …
        folder: PathBuf,
        /// Such as linux/arm64 [default: this machine's]
        #[arg(long)]
        platform: Option<String>,
        /// Leaves device nodes out instead of refusing the image
        #[arg(long)]
        skip_devices: bool,
        /// Marks opaque directories for mounts with `userxattr`
        #[arg(long)]
        userxattr: bool,
    },
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Inspect { image, platform, verify } => {
            inspect(&open(image, platform.as_deref())?, *verify)
        }
        Command::Unpack { image, folder, platform, skip_devices, userxattr } => {
            let image = open(image, platform.as_deref())?;
            let options = UnpackOptions {
                namespace: if *userxattr { XattrNamespace::User } else { XattrNamespace::Trusted },
                devices: if *skip_devices { Devices::Skip } else { Devices::Refuse },
                ..Default::default()
            };
            unpack(&image, folder, options)
        }
    }
}

/// Opens an image as the command line names it.
pub(super) fn open(image: &str, platform: Option<&str>) -> anyhow::Result<Image> {
    let usage = |error: ImageError| Failure::Usage(error.to_string());
    let reference: Reference = image.parse().map_err(usage)?;
    let platform = match platform {
        Some(text) => text.parse().map_err(usage)?,
        None => Platform::here(),
    };
    Ok(Image::open(&reference, &platform)?)
}

fn inspect(image: &Image, verify: bool) -> anyhow::Result<ExitCode> {
    let (stop, _listener) = stop_on_signal()?;
    let entries = match verify {
        true => Some(image::scan(image, Limits::default(), &stop)?),
        false => None,
    };
    println!("{}", image.reference);
    println!("configuration {}, for {}", image.config_digest, image.platform);
    let stored: u64 = image.layers.iter().map(|layer| layer.blob.size).sum();
    println!("{} layers, {} as stored; layer 0 is the topmost", image.layers.len(), Bytes(stored));
    for (index, layer) in image.layers.iter().rev().enumerate() {
        let n = entries.as_ref().map_or(String::new(), |n| format!("  {} entries", n[index]));
        let stored = Bytes(layer.blob.size);
        println!("{index:>4}  {stored:>10}  {}  {}{n}", layer.blob.name(), layer.diff_id);
    }
    if verify {
        println!("every digest and diff id is right");
    }
    Ok(ExitCode::SUCCESS)
}

fn unpack(image: &Image, folder: &Path, options: UnpackOptions) -> anyhow::Result<ExitCode> {
    let made = make_folder(folder)?;
    let (stop, _listener) = stop_on_signal()?;
    let began = Instant::now();
    let result = image::unpack(image, folder, options, &stop);
    let elapsed = began.elapsed();
    let unpacked = match result {
        Ok(unpacked) => unpacked,
        Err(error) => {
            // Half an image must not be taken for a whole one.
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
            if made {
                let _ = std::fs::remove_dir(folder);
            }
            return Err(error.into());
        }
    };
    let lower: Vec<PathBuf> = unpacked.layers.iter().map(|layer| layer.path.clone()).collect();
    let listing = Listing::read(&lower, options.namespace)?;
    print_layers(&unpacked, &listing);
    eprintln!("unionbench: unpacked in {:.2} s", elapsed.as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// A folder that is ours alone: what is unpacked may hold set-id programs, so
/// nobody else gets in. Whether it was made.
fn make_folder(folder: &Path) -> anyhow::Result<bool> {
    use std::os::unix::fs::DirBuilderExt as _;
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot make {}", folder.display()));
        }
    }
    let mut entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    if entries.next().is_some() {
        let message = format!("cannot unpack into {}: it is not empty", folder.display());
        return Err(Failure::Usage(message).into());
    }
    Ok(false)
}

fn print_layers(unpacked: &Unpacked, listing: &Listing) {
    println!(
        "{:>5} {:>8} {:>8} {:>8} {:>9} {:>6} {:>10} {:>10}",
        "layer", "files", "dirs", "links", "whiteouts", "opaque", "size", "hidden"
    );
    for (index, layer) in unpacked.layers.iter().enumerate() {
        let report = layer.report;
        let (_, hidden) = listing.layer_bytes(index as u32);
        println!(
            "{index:>5} {:>8} {:>8} {:>8} {:>9} {:>6} {:>10} {:>10}",
            report.files,
            report.directories,
            report.symlinks + report.hard_links,
            report.whiteouts,
            report.opaque_directories,
            shown(report.bytes),
            shown(hidden),
        );
    }
    let sum = |of: fn(&image::LayerReport) -> u64| {
        unpacked.layers.iter().map(|layer| of(&layer.report)).sum::<u64>()
    };
    for (n, what) in [
        (sum(|r| r.owners_refused), "owners could not be set here; run as root to keep them"),
        (sum(|r| r.xattrs_refused), "extended attributes could not be set here"),
        (sum(|r| r.devices_skipped), "device nodes were left out"),
    ] {
        if n > 0 {
            println!("{n} {what}");
        }
    }
}

fn shown(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes}B"),
        10_240..10_485_760 => format!("{}KiB", bytes >> 10),
        _ => format!("{}MiB", bytes >> 20),
    }
}
