//! From a stream of bytes to log messages, cut as dockerd cuts them: at newlines, and where a line does not fit 16 KiB.

/// The longest piece of a line in one message.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What was written, without its newline.
    pub bytes: &'a [u8],
    /// Whether its line ends here. A message that is not the end of its line is kept without a newline.
    pub ends_line: bool,
    /// Whether its line began in an earlier message: then it has that one's time.
    pub continues: bool,
}

/// Cuts one stream. Holds the unfinished line between pieces, and no memory while there is none.
#[derive(Debug, Default)]
pub struct LineCutter {
    held: Vec<u8>,
    continues: bool,
}

impl LineCutter {
    /// Takes a piece of the stream and gives the messages that it completes.
    pub fn push(&mut self, mut piece: &[u8], mut emit: impl FnMut(Message<'_>)) {
        while !piece.is_empty() {
            let room = MAX_MESSAGE_BYTES - self.held.len();
            let window = &piece[..piece.len().min(room)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.emit(&window[..end], true, &mut emit);
                    piece = &piece[end + 1..];
                }
                None if window.len() == room => {
                    self.emit(window, false, &mut emit);
                    piece = &piece[room..];
                }
                None => {
                    self.held.extend_from_slice(window);
                    return;
                }
            }
        }
    }

    /// The stream has ended: gives what is left.
    pub fn finish(&mut self, mut emit: impl FnMut(Message<'_>)) {
        if !self.held.is_empty() {
            self.emit(&[], false, &mut emit);
        }
    }

    fn emit(&mut self, rest: &[u8], ends_line: bool, emit: &mut impl FnMut(Message<'_>)) {
        let continues = self.continues;
        self.continues = !ends_line;
        if self.held.is_empty() {
            emit(Message { bytes: rest, ends_line, continues });
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(rest);
            emit(Message { bytes: &held, ends_line, continues });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<(Vec<u8>, bool, bool)> {
        let mut cutter = LineCutter::default();
        let mut messages = Vec::new();
        for piece in pieces {
            cutter.push(piece, |one| messages.push((one.bytes.to_vec(), one.ends_line, one.continues)));
        }
        cutter.finish(|one| messages.push((one.bytes.to_vec(), one.ends_line, one.continues)));
        messages
    }

    #[test]
    fn lines_are_found_wherever_the_pieces_end() {
        let expected =
            vec![(b"one".to_vec(), true, false), (b"".to_vec(), true, false), (b"tw".to_vec(), false, false)];
        assert_eq!(cut(&[b"one\n\ntw"]), expected);
        assert_eq!(cut(&[b"o", b"ne", b"\n", b"\nt", b"w"]), expected);
        assert_eq!(cut(&[]), []);
    }

    #[test]
    fn long_lines_are_cut_at_16_kib() {
        let long = vec![b'x'; 2 * MAX_MESSAGE_BYTES + 3];
        let mut line = long.clone();
        line.extend(b"\nnext\n");
        let parts: Vec<_> = cut(&[&line]).into_iter().map(|(bytes, ends, on)| (bytes.len(), ends, on)).collect();
        assert_eq!(
            parts,
            [(MAX_MESSAGE_BYTES, false, false), (MAX_MESSAGE_BYTES, false, true), (3, true, true), (4, true, false)]
        );
        let full = vec![b'x'; MAX_MESSAGE_BYTES];
        let mut exact = full;
        exact.push(b'\n');
        let parts: Vec<_> = cut(&[&exact]).into_iter().map(|(bytes, ends, on)| (bytes.len(), ends, on)).collect();
        assert_eq!(parts, [(MAX_MESSAGE_BYTES, false, false), (0, true, true)]);
    }
}
