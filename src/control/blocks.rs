//! A capture file that can be read however it ended.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// A file of blocks, each of them written by one call: what does not fit on the disk is taken back, so that the file
/// ends with a whole block.
#[derive(Debug)]
pub struct BlockFile {
    file: File,
    /// Bytes of whole blocks; `None` where nothing can be taken back.
    whole: Option<u64>,
}

impl BlockFile {
    /// Writes the file at `path` anew, or to the pipe there, and never waits for its reader to come.
    ///
    /// # Errors
    /// If it cannot be opened for writing, is a disk, or is a pipe that nobody reads.
    pub fn create(path: &Path) -> io::Result<BlockFile> {
        let found = fs::metadata(path).map(|found| found.file_type());
        match found {
            Ok(kind) if kind.is_block_device() => Err(io::Error::other("it is a block device; name a file")),
            Ok(kind) if kind.is_fifo() => pipe(path).map(BlockFile::stream),
            _ => Ok(BlockFile { file: File::create(path)?, whole: Some(0) }),
        }
    }

    /// Writes to a pipe, a device, or the end of a file that others write, too. A reader sees where it breaks off.
    pub fn stream(file: File) -> BlockFile {
        BlockFile { file, whole: None }
    }
}

/// A named pipe. Opened without O_NONBLOCK it would have the caller wait until somebody reads.
fn pipe(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK.bits();
    let file = File::options().write(true).custom_flags(flags).open(path).map_err(|error| {
        match error.raw_os_error() == Some(Errno::ENXIO as i32) {
            true => io::Error::other("it is a pipe that nobody reads; start its reader first"),
            false => error,
        }
    })?;
    // Blocks are written whole, however slow the reader is.
    fcntl(file.as_fd(), FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(file)
}

impl Write for BlockFile {
    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.file.write_all(block) {
            if let Some(whole) = self.whole {
                // A pipe cannot be cut.
                let _ = self.file.set_len(whole);
            }
            return Err(error);
        }
        self.whole = self.whole.map(|whole| whole + block.len() as u64);
        Ok(block.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_pipe_is_written_to_if_somebody_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let error = BlockFile::create(&path).unwrap_err();
        assert!(error.to_string().contains("nobody reads"), "{error}");
        let mut reader =
            File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
        BlockFile::create(&path).unwrap().write_all(b"a block").unwrap();
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "a block");
    }

    #[test]
    fn what_does_not_fit_is_taken_back_from_a_file_and_from_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = BlockFile::create(&path).unwrap();
        file.write_all(b"whole").unwrap();
        assert_eq!((file.whole, fs::read(&path).unwrap().len()), (Some(5), 5));
        let full = File::options().write(true).open("/dev/full").unwrap();
        let error = BlockFile::stream(full).write_all(b"more").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
