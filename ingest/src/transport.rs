//! What both ends ask of QUIC beyond its defaults.

use quinn::{AckFrequencyConfig, VarInt};

/// Packets that the other end may take before it acknowledges one, unless something comes out of order or too much time
/// passes. QUIC's default, every other packet, has a sender of small frames and their answers send and receive as many
/// packets again. Congestion control hears less often; on the links that gateways have, still many times a second.
const PACKETS_AN_ACK: u32 = 10;

/// Has the other end acknowledge packets less often. It agrees only if it knows the extension, as our own does.
pub(crate) fn fewer_acks() -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    config.ack_eliciting_threshold(VarInt::from_u32(PACKETS_AN_ACK));
    config
}
