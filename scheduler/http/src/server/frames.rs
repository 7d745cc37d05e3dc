//! How many frames of HTTP/2 a client may send that ask for nothing.
//!
//! Every frame costs some work, and those that belong to no request are bounded by nothing in the
//! protocol. So each of them is paid from a credit that grows with what the client gets: requests,
//! the bytes of their answers, and a little with time.

use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

/// The credit that a connection begins with, and the most that it grows to by time.
const CREDIT_MIN: i64 = 1_000;
/// The most that a connection can save.
const CREDIT_MAX: i64 = 20_000;
/// The credit of a request.
const REQUEST_CREDIT: i64 = 20;
/// Bytes of an answer for which a client may send one more frame, as it tells that it has read
/// them.
const BYTES_FOR_FRAME: u64 = 512;
/// Frames in every second.
const FRAMES_PER_SECOND: u128 = 20;

const HEADER_BYTES: usize = 9;

/// The client has sent too many frames that ask for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the client has sent {CREDIT_MIN} frames and more that ask for nothing")]
pub(super) struct TooManyFrames;

/// Reads the frames of a connection, from the first one after the preface on.
pub(super) struct FrameBudget {
    credit: i64,
    sent_bytes: u64,
    refilled: Instant,
    /// Bytes of the payload of a frame, to be passed over.
    skip: usize,
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// The next byte says how much of a DATA frame of so many bytes is padding.
    padded: Option<usize>,
}

impl FrameBudget {
    /// Of a connection that begins.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            credit: CREDIT_MIN,
            sent_bytes: 0,
            refilled: now,
            skip: 0,
            header: [0; HEADER_BYTES],
            header_bytes: 0,
            padded: None,
        }
    }

    /// Bytes were sent to the client.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
        self.credit = CREDIT_MAX.min(self.credit + (self.sent_bytes / BYTES_FOR_FRAME) as i64);
        self.sent_bytes %= BYTES_FOR_FRAME;
    }

    /// Bytes have come from the client.
    ///
    /// # Errors
    ///
    /// When its credit is used up.
    pub(super) fn received(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), TooManyFrames> {
        while let Some(&first) = bytes.first() {
            if let Some(length) = self.padded.take() {
                // The length of the padding is one byte of it.
                if usize::from(first) + 1 >= length {
                    self.spend(now)?;
                }
            }
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len());
                self.skip -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            self.header[self.header_bytes] = first;
            self.header_bytes += 1;
            bytes = &bytes[1..];
            if self.header_bytes == HEADER_BYTES {
                self.header_bytes = 0;
                self.frame(now)?;
            }
        }
        Ok(())
    }

    /// A header of a frame is complete.
    fn frame(&mut self, now: Instant) -> Result<(), TooManyFrames> {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const PADDED: u8 = 8;
        let [high, middle, low, kind, flags, ..] = self.header;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        match kind {
            HEADERS => self.credit = CREDIT_MAX.min(self.credit + REQUEST_CREDIT),
            DATA if self.skip == 0 => return self.spend(now),
            DATA if flags & PADDED != 0 => self.padded = Some(self.skip),
            DATA => {}
            _ => return self.spend(now),
        }
        Ok(())
    }

    fn spend(&mut self, now: Instant) -> Result<(), TooManyFrames> {
        if self.credit <= 0 {
            self.refill(now);
        }
        self.credit -= 1;
        if self.credit < 0 { Err(TooManyFrames) } else { Ok(()) }
    }

    /// Time is only looked at when there is nothing else left.
    fn refill(&mut self, now: Instant) {
        let passed: Duration = now.saturating_duration_since(self.refilled);
        let frames = passed.as_millis() * FRAMES_PER_SECOND / 1000;
        if frames > 0 {
            self.credit = CREDIT_MIN.min(i64::try_from(frames).unwrap_or(CREDIT_MIN));
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn begun() -> (FrameBudget, Instant) {
        let now = Instant::now();
        (FrameBudget::new(now), now)
    }

    /// How many of a frame are taken, if they come in pieces of `piece` bytes.
    fn taken(budget: &mut FrameBudget, now: Instant, frame: &[u8], piece: usize) -> usize {
        (0..100_000).find(|_| frame.chunks(piece).any(|piece| budget.received(piece, now).is_err())).unwrap_or(100_000)
    }

    #[test]
    fn c28_frames_that_ask_for_nothing_are_counted() {
        for (kind, flags, payload) in [
            (PING, 0, &[0; 8][..]),
            (PING, 1, &[0; 8]),
            (4, 0, &[]),
            (WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
            (2, 0, &[0; 5]),
            (3, 0, &[0; 4]),
            (9, 0, &[0; 300]),
            (0xfa, 0, &[0; 700]),
            (DATA, 0, &[]),
            (DATA, 8, &[0]),
            (DATA, 8, &[200; 201]),
        ] {
            for piece in [1, 7, 100_000] {
                let (mut budget, now) = begun();
                let frame = frame(kind, flags, payload);
                assert_eq!(taken(&mut budget, now, &frame, piece), 1_000, "{kind} {flags} in {piece}");
            }
        }
    }

    #[test]
    fn c28_those_of_busy_clients_are_not_missed() {
        let (mut budget, now) = begun();
        let (ping, update) = (frame(PING, 0, &[0; 8]), frame(WINDOW_UPDATE, 0, &[0; 4]));
        let request = frame(HEADERS, 4, b"x");
        for _ in 0..10_000 {
            budget.received(&[&request[..], &update, &ping].concat(), now).unwrap();
        }
        let (mut budget, now) = begun();
        for _ in 0..100_000 {
            budget.sent(1_000);
            budget.received(&update, now).unwrap();
        }
        let (mut budget, now) = begun();
        let large = frame(DATA, 0, &[7; 70_000]);
        budget.received(&[&large[..], &ping].concat(), now).unwrap();
        let upload = [frame(DATA, 0, &[7; 100]), frame(DATA, 8, &[1, 7, 0])].concat();
        for _ in 0..100_000 {
            budget.received(&upload, now).unwrap();
        }
        let (mut budget, mut now) = begun();
        for _ in 0..10_000 {
            now += Duration::from_millis(100);
            budget.received(&ping, now).unwrap();
        }
    }

    #[test]
    fn c28_what_was_saved_is_bounded() {
        let (mut budget, now) = begun();
        for _ in 0..1_000_000 {
            budget.sent(1_000_000);
        }
        // Without a payload, so that one that is refused ends with its header.
        let settings = frame(4, 0, &[]);
        assert_eq!(taken(&mut budget, now, &settings, 100), 20_000);
        assert!(budget.received(&settings, now + Duration::from_millis(10)).is_err());
        let later = now + Duration::from_secs(3600);
        assert_eq!(taken(&mut budget, later, &settings, 100), 1_000);
    }
}
