//! Every limit of the server, gathered: what it bounds and why it has its default. Those that the messages themselves
//! have, for both ends, are with the messages.
//!
//! The most that a hostile set of gateways can make the server hold of what they send is `frame_memory_bytes` +
//! `connections_max` × ([`WINDOW_BYTES_MIN`] + `streams_max` × what a stream may collect unasked, 2 KiB); an idle
//! connection holds none of it.

use std::time::Duration;

use storage_format::limits::{FRAME_CELLS_MAX, FRAME_READINGS_MAX};

/// The window that every connection has, whatever the memory of frames is: enough for a gateway's usual pace, small
/// enough for ten thousand of them.
pub(crate) const WINDOW_BYTES_MIN: u32 = 64 << 10;

/// How long an attempt to connect may wait for its handshake. After that its client is about to give up: a gateway does
/// so 3 s after it began (`ClientConfig::connect_timeout`), and a handshake that nobody ends has been in vain.
pub(crate) const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(2);

/// Handshakes a second for each core, if nothing else is said. One costs about a millisecond of CPU, so this is about a
/// quarter of the machine: the others keep theirs.
const HANDSHAKES_PER_SECOND_AND_CORE: u32 = 250;

/// More a second than any machine can do.
const HANDSHAKES_PER_SECOND_MAX: u32 = 1_000_000;

/// What the server allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestLimits {
    /// Connections at once, handshakes included. One idle connection costs some tens of KiB.
    pub connections_max: usize,
    /// Connections at once of one gateway: one, another that replaces it, and some for a restless network.
    pub connections_per_gateway_max: usize,
    /// Handshakes at once. More at once do not end sooner, but whoever leaves them half open needs more of them. Each
    /// costs some tens of KiB and about a millisecond of CPU.
    pub handshakes_max: usize,
    /// Handshakes begun in a second, a thirty-second of a second's at once; 0: 250 for each core. Everybody may come back
    /// at one moment, and those who are connected want to be served meanwhile.
    pub handshakes_per_second_max: u32,
    /// Attempts to connect that wait for a handshake, and never more than are begun in two seconds. What comes past it
    /// is refused, and comes again.
    pub handshakes_waiting_max: usize,
    /// Streams at once on one connection.
    pub streams_max: u32,
    /// Bytes that may be on their way on one stream: throughput × round trip.
    pub stream_window_bytes: u32,
    /// Bytes that may be on their way on one connection, and so wait in memory while the server does not read.
    pub connection_window_bytes: u32,
    /// Memory for frames on their way in, of the whole process: half for what may be on its way on all connections
    /// (beyond the 64 KiB that each has), a quarter for frames that are not complete, a quarter for decoded frames that
    /// wait for the sink. One gateway gets a sixteenth of each at most, one organisation half. Past it, flow control
    /// holds the senders back.
    pub frame_memory_bytes: usize,
    /// Bytes of answers that wait for a client that does not read them.
    pub send_window_bytes: u32,
    /// The largest frame.
    pub frame_bytes_max: u32,
    /// A connection that is silent for so long is gone. Clients keep alive every second or so.
    pub idle_timeout: Duration,
    /// From the first packet to the end of the handshake.
    pub handshake_timeout: Duration,
    /// From a stream's start to its complete `open` message.
    pub open_timeout: Duration,
    /// From a message's first byte to its last.
    pub message_timeout: Duration,
    /// How long answers may wait for a client that does not read them.
    pub answer_timeout: Duration,
    /// How often the directory is asked again about those who are connected.
    pub recheck_interval: Duration,
    /// The UDP socket's buffers, each way. The kernel may give less.
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

/// A limit with a value that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ingest limit {name}: {why}")]
pub struct LimitError {
    /// The limit's name.
    pub name: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

impl IngestLimits {
    /// What a connection's window may have beyond what each has.
    pub(crate) fn window_beyond_bytes(&self) -> u32 {
        self.connection_window_bytes.saturating_sub(WINDOW_BYTES_MIN)
    }

    /// The most that a frame takes while it is collected: its bytes, and its number.
    pub(crate) fn collected_bytes_max(&self) -> usize {
        self.frame_bytes_max as usize + 8
    }

    /// The most that a decoded frame takes: its bytes and its columns, which take eight bytes for a cell whether it was
    /// measured or not. So 100 KB may become 2.5 MB. A run takes less than its bytes do.
    pub(crate) fn decoded_bytes_max(&self) -> usize {
        let bytes = self.frame_bytes_max as usize;
        1024 + 2 * bytes + 8 * FRAME_READINGS_MAX.min(bytes) + 8 * FRAME_CELLS_MAX.min(16 * bytes)
    }

    /// Handshakes a second, on this machine if it depends on that.
    pub(crate) fn handshakes_per_second(&self) -> u32 {
        if self.handshakes_per_second_max > 0 {
            return self.handshakes_per_second_max;
        }
        // Where the system does not tell how many cores there are, one is the least.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let per_second = u32::try_from(cores).unwrap_or(u32::MAX).saturating_mul(HANDSHAKES_PER_SECOND_AND_CORE);
        per_second.min(HANDSHAKES_PER_SECOND_MAX)
    }

    /// Attempts that may wait: more would only wait in vain.
    pub(crate) fn handshakes_waiting(&self) -> usize {
        let in_time = u64::from(self.handshakes_per_second()) * HANDSHAKE_WAIT_MAX.as_secs();
        self.handshakes_waiting_max.min(usize::try_from(in_time).unwrap_or(usize::MAX))
    }

    /// Can these limits work together?
    ///
    /// # Errors
    /// The first limit that cannot.
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
                        .decoded_bytes_max()
                        .max(self.collected_bytes_max())
                        .max(self.window_beyond_bytes() as usize),
                "must be at least eight times what the largest decoded frame takes, and connection_window_bytes",
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
        match rules.into_iter().find(|(_, holds, _)| !holds) {
            Some((name, _, why)) => Err(LimitError { name, why }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_work_and_nonsense_does_not() {
        assert_eq!(IngestLimits::default().check(), Ok(()));
        let nonsense = IngestLimits { connection_window_bytes: 1, ..IngestLimits::default() };
        assert_eq!(nonsense.check().expect_err("smaller than a stream's").name, "connection_window_bytes");
        let nonsense = IngestLimits { streams_max: 0, ..IngestLimits::default() };
        assert!(nonsense.check().is_err());
    }

    #[test]
    fn no_more_wait_for_a_handshake_than_get_theirs_in_time() {
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
