//! A capture file that can be read however it ended.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// A file of blocks, each of them written by one call: what does not fit on the disk is taken back, so that the file
/// ends with a whole block.
#[derive(Debug)]
pub struct BlockFile {
    file: File,
    /// Bytes of whole blocks; `None` where nothing can be taken back.
    whole: Option<u64>,
}

impl BlockFile {
    /// Writes the file at `path` anew.
    ///
    /// # Errors
    /// If it cannot be opened for writing, or is a disk.
    pub fn create(path: &Path) -> io::Result<BlockFile> {
        if fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device()) {
            return Err(io::Error::other("it is a block device; name a file"));
        }
        Ok(BlockFile { file: File::create(path)?, whole: Some(0) })
    }

    /// Writes to a pipe, a device, or the end of a file that others write, too. A reader sees where it breaks off.
    pub fn stream(file: File) -> BlockFile {
        BlockFile { file, whole: None }
    }
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
