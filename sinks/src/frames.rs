//! Encoded records before they are sent: one reused buffer, with the ends of its frames.

#[derive(Default)]
pub(crate) struct Frames {
    pub bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    /// Ends a frame with the bytes appended since the last end: a datagram, a request, a record of a stream.
    pub(crate) fn end_frame(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// Number of frames.
    pub(crate) fn count(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of consecutive frames.
    pub(crate) fn slice(&self, frames: std::ops::Range<usize>) -> &[u8] {
        let end_before = |frame: usize| frame.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[end_before(frames.start)..end_before(frames.end)]
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        // A line of a million control characters grows the buffer by megabytes: give them back.
        self.bytes.shrink_to(KEPT_BYTES_MAX);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.bytes[begin..*end])
    }
}

/// Capacity kept between batches. Chosen: several batches of the default size.
const KEPT_BYTES_MAX: usize = 1 << 20;
