//! Encoded records on their way out: one buffer, reused, with the places where frames end.

#[derive(Default)]
pub struct Frames {
    pub bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    /// The bytes since the last end are one frame: a datagram, a request, a record of a stream.
    pub fn end_frame(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// How many frames.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of these frames, one after the other.
    pub fn slice(&self, frames: std::ops::Range<usize>) -> &[u8] {
        let end_before = |frame: usize| frame.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[end_before(frames.start)..end_before(frames.end)]
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        // One line of a million control characters must not cost its megabytes for ever.
        self.bytes.shrink_to(KEPT_BYTES_MAX);
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.bytes[begin..*end])
    }
}

/// What a buffer keeps between batches.
const KEPT_BYTES_MAX: usize = 1 << 20;
