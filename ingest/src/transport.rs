//! QUIC settings of both ends that differ from the defaults.

use quinn::{AckFrequencyConfig, VarInt};

/// Packets that the other end may receive before it acknowledges one, unless one arrives out of order or too much time
/// passes. With QUIC's default, an acknowledgement for every other packet, small frames and their responses would
/// double the number of packets. Congestion control gets fewer samples, but on gateway links still many a second.
const PACKETS_PER_ACK: u32 = 10;

/// Asks the other end to acknowledge packets less often. Only an end that supports the extension complies, as both of
/// ours do.
pub(crate) fn fewer_acks() -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    config.ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACK));
    config
}
