//! The channel registry: the quantities that a logger can measure. Codes are append-only: a new meaning, a new code.

use std::fmt;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

/// Code of a channel on the wire, in the WAL and in the manifest. Zero is never valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelCode(NonZeroU16);

impl ChannelCode {
    /// Creates the code with this number; `None` for zero. The code need not be in the registry.
    #[must_use]
    pub const fn new(value: u16) -> Option<Self> {
        match NonZeroU16::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// Returns the registry entry of this code; `None` for a channel that this program does not know.
    #[must_use]
    pub fn channel(self) -> Option<&'static Channel> {
        // Codes are dense from 1, which a test checks.
        CHANNELS.get(usize::from(self.0.get()) - 1)
    }
}

impl fmt::Display for ChannelCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.channel() {
            Some(channel) => f.write_str(channel.name),
            None => write!(f, "channel {}", self.0),
        }
    }
}

/// An entry of the registry.
#[derive(Debug, PartialEq)]
pub struct Channel {
    /// Code used in the byte formats.
    pub code: ChannelCode,
    /// Name shown to users, and name of the column in `readings`.
    pub name: &'static str,
    /// Unit in UCUM's case-sensitive form.
    pub unit: &'static str,
    /// Range of values that a working sensor can report. Values outside it are stored too, because they show that a
    /// sensor is broken.
    pub plausible: RangeInclusive<f64>,
}

const fn entry(code: u16, name: &'static str, unit: &'static str, low: f64, high: f64) -> Channel {
    let code = match ChannelCode::new(code) {
        Some(code) => code,
        None => panic!("a channel code must not be zero"),
    };
    Channel { code, name, unit, plausible: RangeInclusive::new(low, high) }
}

static CHANNELS: [Channel; 8] = [
    entry(1, "temperature", "Cel", -200.0, 200.0),
    entry(2, "humidity", "%", 0.0, 100.0),
    entry(3, "battery", "V", 0.0, 60.0),
    entry(4, "rssi", "dB[mW]", -150.0, 20.0),
    entry(5, "pressure", "hPa", 300.0, 1_200.0),
    entry(6, "co2", "[ppm]", 0.0, 1_000_000.0),
    entry(7, "illuminance", "lx", 0.0, 200_000.0),
    entry(8, "differential_pressure", "Pa", -10_000.0, 10_000.0),
];

/// Returns the whole registry, by ascending code.
#[must_use]
pub fn channels() -> &'static [Channel] {
    &CHANNELS
}

impl Channel {
    /// Returns the entry with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        CHANNELS.iter().find(|channel| channel.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_dense_and_names_unique() {
        for (index, channel) in channels().iter().enumerate() {
            assert_eq!(usize::from(channel.code.get()), index + 1);
            assert_eq!(channel.code.channel(), Some(channel));
            assert_eq!(Channel::by_name(channel.name), Some(channel));
        }
        assert_eq!(ChannelCode::new(0), None);
        assert_eq!(ChannelCode::new(999).expect("a code").channel(), None);
    }
}
