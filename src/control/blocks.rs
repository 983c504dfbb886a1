//! A capture file that can be read however it ended.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// A file of blocks, each of them written by one call: what does not fit on the disk is taken back, so that the file
/// ends with a whole block.
#[derive(Debug)]
pub struct BlockFile {
    file: File,
    /// Bytes of whole blocks.
    whole: u64,
}

impl BlockFile {
    /// Replaces the file at `path`.
    ///
    /// # Errors
    /// If it cannot be opened for writing.
    pub fn create(path: &Path) -> io::Result<BlockFile> {
        Ok(BlockFile { file: File::create(path)?, whole: 0 })
    }
}

impl Write for BlockFile {
    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.file.write_all(block) {
            // A pipe cannot be cut; its reader sees where it breaks off.
            let _ = self.file.set_len(self.whole);
            return Err(error);
        }
        self.whole += block.len() as u64;
        Ok(block.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
