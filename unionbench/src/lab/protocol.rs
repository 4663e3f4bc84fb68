//! What the guest says to the host over the virtio-serial port.
//!
//! A stream of frames, each `kind: u8, length: u32 little-endian, payload`:
//!
//! | kind | payload |
//! |------|---------|
//! | `H`  | [`Hello`] as JSON; first, once init is up and its modules are in |
//! | `F`  | [`FileHead`] as JSON; opens a file |
//! | `D`  | bytes of the open file |
//! | `E`  | [`End`] as JSON; last |
//!
//! The host answers `E` with [`ACKNOWLEDGED`], and the guest powers off.
//!
//! The host knows the command's exit status only from `E`. A stream that ends
//! without one says nothing about the command.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// Name of the port on both sides.
pub(crate) const PORT_NAME: &str = "unionbench.results";
/// Init writes this before a message that could not go over the port.
pub(crate) const CONSOLE_MARK: &str = "unionbench-lab: cannot ";
/// The host's only word: it has everything up to the end.
pub(crate) const ACKNOWLEDGED: u8 = b'A';
/// Data frames are no longer than this; a longer length is a broken stream.
pub(crate) const MAX_FRAME: usize = 1 << 20;

/// The guest's init is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// `uname -r` of the guest.
    pub release: String,
    /// `uname -v` of the guest.
    pub version: String,
}

/// A file of the guest's output folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileHead {
    /// Path below the output folder.
    pub path: String,
    pub size: u64,
}

/// How the command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub exit: Exit,
    /// Processes the guest's kernel killed for want of memory.
    pub oom_kills: u64,
}

/// Exit status of the guest's command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    Hello(Hello),
    File(FileHead),
    Data(Vec<u8>),
    End(End),
}

impl Frame {
    pub(crate) fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = match self {
            Self::Hello(hello) => (b'H', serde_json::to_vec(hello)?),
            Self::File(head) => (b'F', serde_json::to_vec(head)?),
            Self::Data(bytes) => (b'D', bytes.clone()),
            Self::End(end) => (b'E', serde_json::to_vec(end)?),
        };
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        out.write_all(&[kind])?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&payload)
    }

    /// The next frame, or nothing where the stream ended between two frames.
    pub(crate) fn read_from(input: &mut impl Read) -> io::Result<Option<Self>> {
        let mut kind = [0];
        if input.read(&mut kind)? == 0 {
            return Ok(None);
        }
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame claims {length} bytes"),
            ));
        }
        let mut payload = vec![0; length];
        input.read_exact(&mut payload)?;
        let frame = match kind[0] {
            b'H' => Self::Hello(serde_json::from_slice(&payload)?),
            b'F' => Self::File(serde_json::from_slice(&payload)?),
            b'D' => Self::Data(payload),
            b'E' => Self::End(serde_json::from_slice(&payload)?),
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("unknown frame kind {other:#04x}"),
                ));
            }
        };
        Ok(Some(frame))
    }
}

/// What init reads at boot: the host's orders, at [`JOB_PATH`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Program and arguments; empty boots and reports success.
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Modules below `/lab/modules`, in load order.
    pub modules: Vec<String>,
    /// Virtual milliseconds to sleep before the command starts.
    pub idle_ms: u64,
    /// Run `argv` on the console instead of recording its output.
    pub interactive: bool,
}

/// Its presence beside process id 1 makes a `unionbench` process the init.
pub(crate) const JOB_PATH: &str = "/lab/job.json";
pub(crate) const MODULE_DIR: &str = "/lab/modules";
/// Everything below comes back to the host.
pub const OUT_DIR: &str = "/out";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back_as_written() {
        let frames = [
            Frame::Hello(Hello { release: "6.1".into(), version: "#1".into() }),
            Frame::File(FileHead { path: "a/b".into(), size: 3 }),
            Frame::Data(b"abc".to_vec()),
            Frame::End(End { exit: Exit::Signal(9), oom_kills: 1 }),
        ];
        let mut stream = Vec::new();
        for frame in &frames {
            frame.write_to(&mut stream).expect("a vector takes everything");
        }
        let mut input = stream.as_slice();
        for frame in &frames {
            assert_eq!(Frame::read_from(&mut input).ok().flatten().as_ref(), Some(frame));
        }
        assert!(matches!(Frame::read_from(&mut input), Ok(None)));
    }

    #[test]
    fn a_broken_stream_is_refused() {
        for stream in [&b"D\xff\xff\xff\xff"[..], b"D\x05\0\0\0ab", b"?\0\0\0\0", b"E\x01\0\0\0{"] {
            assert!(Frame::read_from(&mut &stream[..]).is_err(), "{stream:?}");
        }
    }
}
