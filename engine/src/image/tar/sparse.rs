//! Sparse files, in the four ways in which GNU tar has written them.

use std::io::BufRead;

use super::header::{BLOCK, Block, number};
use super::pax::Records;
use super::{EntryKind, Tap, TarEntry, TarError, TarReader};

/// Most pieces of one file.
const MOST_EXTENTS: usize = 1 << 18;

impl<R: BufRead, T: Tap> TarReader<R, T> {
    /// Finds out where the content of a file goes, when it has holes; what describes them is taken from the content.
    pub(super) fn read_sparse_map(
        &mut self,
        block: &Block,
        records: &Records,
        entry: &mut TarEntry,
    ) -> Result<(), TarError> {
        let sparse = &records.sparse;
        let (size, extents) = if block.kind() == b'S' {
            if !sparse.is_empty() {
                return Err(self.malformed("a sparse file described twice"));
            }
            self.old_map(block)?
        } else if sparse.is_empty() {
            return Ok(());
        } else if entry.kind != EntryKind::File {
            return Err(self.malformed("holes in an entry that is no file"));
        } else if sparse.major == Some(1) && sparse.minor == Some(0) {
            let size = sparse.real_size.ok_or_else(|| self.malformed("a sparse file without size"))?;
            (size, self.map_in_content()?)
        } else if sparse.major.unwrap_or(0) == 0 && sparse.size.is_some() {
            let pairs = sparse.map.chunks_exact(2);
            if !pairs.remainder().is_empty() || sparse.blocks.is_some_and(|count| count != pairs.len() as u64) {
                return Err(self.malformed("a broken sparse map"));
            }
            (sparse.size.unwrap_or(0), pairs.map(|pair| (pair[0], pair[1])).collect())
        } else {
            return Err(self.malformed("a sparse file of unknown version"));
        };
        if let Some(name) = &sparse.name {
            entry.path.clone_from(name);
        }
        let mut end = 0;
        let mut stored = 0_u64;
        for (offset, length) in &extents {
            if *offset < end || *length > 1 << 60 || *offset > 1 << 60 || offset + length > size {
                return Err(self.malformed("a broken sparse map"));
            }
            end = offset + length;
            stored += length;
        }
        if stored != self.content_left() {
            return Err(self.malformed("a sparse map that does not fit its content"));
        }
        entry.size = size;
        entry.extents = Some(extents.into_iter().filter(|(_, length)| *length > 0).collect());
        Ok(())
    }

    /// In the header and blocks behind it.
    fn old_map(&mut self, block: &Block) -> Result<(u64, Vec<(u64, u64)>), TarError> {
        let size = number(block.field(483, 12)).map_err(|what| self.malformed(what))?;
        let mut extents = Vec::new();
        self.old_extents(block.field(386, 96), &mut extents)?;
        let mut more = block.field(482, 1)[0] != 0;
        while more {
            let next = self.block()?.ok_or_else(|| self.malformed("a sparse map that ends in the middle"))?;
            self.old_extents(&next[..504], &mut extents)?;
            more = next[504] != 0;
            if extents.len() > MOST_EXTENTS {
                return Err(self.malformed("a sparse file in too many pieces"));
            }
        }
        Ok((size, extents))
    }

    fn old_extents(&self, fields: &[u8], extents: &mut Vec<(u64, u64)>) -> Result<(), TarError> {
        for field in fields.chunks_exact(24) {
            if field[0] == 0 {
                return Ok(());
            }
            let offset = number(&field[..12]).map_err(|what| self.malformed(what))?;
            let length = number(&field[12..]).map_err(|what| self.malformed(what))?;
            extents.push((offset, length));
        }
        Ok(())
    }

    /// Decimal lines at the beginning of the content, in whole blocks: the count, then offset and length of each.
    fn map_in_content(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let mut text: Vec<u8> = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut needed = 1;
        while numbers.len() < needed {
            if self.content < BLOCK as u64 {
                return Err(self.malformed("a sparse map that ends in the middle"));
            }
            let block = self.block()?.ok_or_else(|| self.malformed("a sparse map that ends in the middle"))?;
            self.content -= BLOCK as u64;
            for byte in block {
                match byte {
                    b'0'..=b'9' if text.len() < 19 => text.push(byte),
                    b'\n' if !text.is_empty() => {
                        let number = text.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
                        text.clear();
                        numbers.push(number);
                        if numbers.len() == 1 {
                            let count = usize::try_from(number).unwrap_or(usize::MAX);
                            if count > MOST_EXTENTS {
                                return Err(self.malformed("a sparse file in too many pieces"));
                            }
                            needed = 1 + 2 * count;
                        }
                    }
                    0 if text.is_empty() && numbers.len() >= needed => {}
                    _ => return Err(self.malformed("a broken sparse map")),
                }
                if numbers.len() == needed && text.is_empty() {
                    break; // what follows in this block is padding
                }
            }
        }
        Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }
}
