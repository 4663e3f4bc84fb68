//! Serves a union in the foreground: `serve OPTIONS MOUNTPOINT`.

use std::path::Path;

use unionbench_fuse::{MountOptions, serve};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [options, mount_point] = args.as_slice() else {
        return Err("cannot mount: give OPTIONS and MOUNTPOINT".into());
    };
    serve(&MountOptions::parse(options)?, Path::new(mount_point), || println!("mounted"))?;
    Ok(())
}
