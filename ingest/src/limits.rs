//! All limits of the server: what each one bounds and why it has its default. The limits of the messages themselves,
//! which apply to both ends, are with the messages.
//!
//! Hostile gateways can make the server hold at most `frame_memory_bytes` + `connections_max` × ([`WINDOW_BYTES_MIN`] +
//! `streams_max` × 2 KiB) of what they send, where 2 KiB is what a stream may buffer without reserving memory. An idle
//! connection holds none of it.

use std::time::Duration;

use storage_format::limits::{FRAME_CELLS_MAX, FRAME_READINGS_MAX};

/// Receive window that every connection has, outside the frame memory: large enough for a gateway's usual rate, small
/// enough for ten thousand connections.
pub(crate) const WINDOW_BYTES_MIN: u32 = 64 << 10;

/// Upper limit of the time that an attempt to connect waits for its handshake. After that its client is about to give
/// up (a gateway does so 3 s after its start, `ClientConfig::connect_timeout`), and the handshake would be wasted.
pub(crate) const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(2);

/// Default of handshakes a second for each core. One costs about a millisecond of CPU, so this is about a quarter of
/// the machine, and the rest remains for connected gateways.
const HANDSHAKES_PER_SECOND_AND_CORE: u32 = 250;

/// Upper limit of handshakes a second, more than any machine can do.
const HANDSHAKES_PER_SECOND_MAX: u32 = 1_000_000;

/// Limits of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestLimits {
    /// Concurrent connections, handshakes included. One idle connection costs some tens of KiB.
    pub connections_max: usize,
    /// Concurrent connections of one gateway: one, another that replaces it, and some for an unstable network.
    pub connections_per_gateway_max: usize,
    /// Concurrent handshakes. A higher limit completes none sooner, but an attacker who leaves handshakes half open
    /// needs more of them. Each costs some tens of KiB and about a millisecond of CPU.
    pub handshakes_max: usize,
    /// Handshakes started in a second, of which 1/32 may start at once; 0 means 250 for each core. It exists because
    /// the whole fleet may reconnect at one moment, while connected gateways must still be served.
    pub handshakes_per_second_max: u32,
    /// Attempts to connect that wait for a handshake, and never more than are started in two seconds. Further attempts
    /// are refused, and retried by their clients.
    pub handshakes_waiting_max: usize,
    /// Concurrent streams on one connection.
    pub streams_max: u32,
    /// Bytes that may be in flight on one stream: throughput × round trip.
    pub stream_window_bytes: u32,
    /// Bytes that may be in flight on one connection, and so wait in memory while the server does not read.
    pub connection_window_bytes: u32,
    /// Memory for incoming frames in the whole process: half for bytes in flight on all connections (beyond the 64 KiB
    /// that each has), a quarter for incomplete frames, a quarter for decoded frames that wait for the sink. One
    /// gateway gets a sixteenth of each at most, one organisation half. When it is used up, flow control blocks the
    /// senders.
    pub frame_memory_bytes: usize,
    /// Bytes of responses that wait for a client that does not read them.
    pub send_window_bytes: u32,
    /// Size limit of a frame.
    pub frame_bytes_max: u32,
    /// Silence after which a connection is dropped. Clients send keep-alives every second or so.
    pub idle_timeout: Duration,
    /// Time from the first packet to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Time from a stream's start to its complete `open` message.
    pub open_timeout: Duration,
    /// Time from a message's first byte to its last.
    pub message_timeout: Duration,
    /// Time that responses may wait for a client that does not read them.
    pub answer_timeout: Duration,
    /// Interval at which connected gateways are looked up again in the directory.
    pub recheck_interval: Duration,
    /// Size of the UDP socket's buffer for each direction. The kernel may grant less.
    pub socket_buffer_bytes: usize,
}

impl Default for IngestLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_gateway_max: 16,
            handshakes_max: 1024,
            handshakes_per_second_max: 0,
            handshakes_waiting_max: 4096,
            streams_max: 8,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 2 << 20,
            frame_memory_bytes: 512 << 20,
            send_window_bytes: 256 << 10,
            frame_bytes_max: 1 << 20,
            idle_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            open_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(30),
            recheck_interval: Duration::from_millis(500),
            socket_buffer_bytes: 4 << 20,
        }
    }
}

/// A limit with an unusable value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ingest limit {name}: {why}")]
pub struct LimitError {
    /// The limit's name.
    pub name: &'static str,
    /// Requirement that the value does not meet.
    pub why: &'static str,
}

impl IngestLimits {
    /// Returns how far a connection's window may grow beyond [`WINDOW_BYTES_MIN`].
    pub(crate) fn extra_window_bytes(&self) -> u32 {
        self.connection_window_bytes.saturating_sub(WINDOW_BYTES_MIN)
    }

    /// Returns the upper limit of the memory of an incomplete frame: its bytes and its sequence number.
    pub(crate) fn incomplete_frame_bytes_max(&self) -> usize {
        self.frame_bytes_max as usize + 8
    }

    /// Returns the upper limit of the memory of a decoded frame: its bytes and its columns, which take eight bytes for
    /// a cell whether it was measured or not. So 100 KB may become 2.5 MB. A run takes less memory than its bytes do.
    pub(crate) fn decoded_frame_bytes_max(&self) -> usize {
        let bytes = self.frame_bytes_max as usize;
        1024 + 2 * bytes + 8 * FRAME_READINGS_MAX.min(bytes) + 8 * FRAME_CELLS_MAX.min(16 * bytes)
    }

    /// Returns the limit of handshakes a second, from the number of cores if none is set.
    pub(crate) fn handshakes_per_second(&self) -> u32 {
        if self.handshakes_per_second_max > 0 {
            return self.handshakes_per_second_max;
        }
        // One core, if the system does not report how many there are.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let per_second = u32::try_from(cores).unwrap_or(u32::MAX).saturating_mul(HANDSHAKES_PER_SECOND_AND_CORE);
        per_second.min(HANDSHAKES_PER_SECOND_MAX)
    }

    /// Returns how many attempts may wait: no more than can start before [`HANDSHAKE_WAIT_MAX`] has passed.
    pub(crate) fn handshakes_waiting(&self) -> usize {
        let in_time = u64::from(self.handshakes_per_second()) * HANDSHAKE_WAIT_MAX.as_secs();
        self.handshakes_waiting_max.min(usize::try_from(in_time).unwrap_or(usize::MAX))
    }

    /// Checks that the limits are usable together.
    ///
    /// # Errors
    /// The first limit that is not usable.
    pub fn check(&self) -> Result<(), LimitError> {
        let rules: [(&'static str, bool, &'static str); 12] = [
            ("connections_max", self.connections_max > 0, "must not be zero"),
            ("connections_per_gateway_max", self.connections_per_gateway_max > 0, "must not be zero"),
            ("handshakes_max", self.handshakes_max > 0, "must not be zero"),
            (
                "handshakes_per_second_max",
                self.handshakes_per_second_max <= HANDSHAKES_PER_SECOND_MAX,
                "must be at most 1000000",
            ),
            ("handshakes_waiting_max", self.handshakes_waiting_max > 0, "must not be zero"),
            ("streams_max", self.streams_max > 0, "must not be zero"),
            ("stream_window_bytes", self.stream_window_bytes >= 4096, "must be at least 4096"),
            (
                "connection_window_bytes",
                self.connection_window_bytes >= self.stream_window_bytes,
                "must be at least stream_window_bytes",
            ),
            (
                "frame_memory_bytes",
                self.frame_memory_bytes / 8
                    >= self
                        .decoded_frame_bytes_max()
                        .max(self.incomplete_frame_bytes_max())
                        .max(self.extra_window_bytes() as usize),
                "must be at least 8 times the largest decoded frame, and 8 times connection_window_bytes less 64 KiB",
            ),
            ("frame_bytes_max", self.frame_bytes_max >= 256, "must be at least 256"),
            ("idle_timeout", self.idle_timeout >= Duration::from_millis(100), "must be at least 100 ms"),
            (
                "open_timeout, message_timeout, answer_timeout, handshake_timeout, recheck_interval",
                [
                    self.open_timeout,
                    self.message_timeout,
                    self.answer_timeout,
                    self.handshake_timeout,
                    self.recheck_interval,
                ]
                .iter()
                .all(|t| *t >= Duration::from_millis(10)),
                "must be at least 10 ms",
            ),
        ];
        match rules.into_iter().find(|(_, satisfied, _)| !satisfied) {
            Some((name, _, why)) => Err(LimitError { name, why }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_unusable_values_are_not() {
        assert_eq!(IngestLimits::default().check(), Ok(()));
        let unusable = IngestLimits { connection_window_bytes: 1, ..IngestLimits::default() };
        assert_eq!(unusable.check().expect_err("smaller than a stream's").name, "connection_window_bytes");
        let unusable = IngestLimits { streams_max: 0, ..IngestLimits::default() };
        assert!(unusable.check().is_err());
    }

    #[test]
    fn no_more_attempts_wait_than_can_start_in_time() {
        let limits = |per_second, waiting| IngestLimits {
            handshakes_per_second_max: per_second,
            handshakes_waiting_max: waiting,
            ..IngestLimits::default()
        };
        assert_eq!(limits(10, 4096).handshakes_waiting(), 20);
        assert_eq!(limits(1_000_000, 4096).handshakes_waiting(), 4096);
        assert!(limits(0, 1).handshakes_per_second() >= HANDSHAKES_PER_SECOND_AND_CORE);
        assert_eq!(limits(1_000_001, 1).check().expect_err("too many").name, "handshakes_per_second_max");
        assert_eq!(limits(1, 0).check().expect_err("nobody could connect").name, "handshakes_waiting_max");
    }
}
