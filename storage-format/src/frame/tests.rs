//! Tests of the frame codec.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::limits::{FRAME_BYTES_MAX, FRAME_CELLS_MAX, FRAME_READINGS_MAX};
use crate::{FormatErrorKind, channels};

type Readings = BTreeMap<(u64, i64), BTreeMap<u16, u64>>;

fn code(code: u16) -> ChannelCode {
    ChannelCode::new(code).expect("not zero")
}

fn spool() -> SpoolId {
    SpoolId::new(0x5B00_1000_0000_0001).expect("not zero")
}

fn logger(id: u64) -> LoggerId {
    LoggerId::new(id).expect("not zero")
}

fn time(ms: i64) -> Millis {
    Millis::new(ms).expect("a time")
}

/// Builds a frame from values given by their bits, so that -0.0 and 0.0 differ.
fn build(readings: &Readings) -> FrameBuilder {
    let mut builder = FrameBuilder::new();
    for (&(id, ms), samples) in readings {
        let samples: Vec<_> = samples.iter().map(|(&c, &bits)| (code(c), f64::from_bits(bits))).collect();
        builder.push(logger(id), time(ms), &samples).expect("a valid reading");
    }
    builder
}

fn read(frame: &Frame) -> Readings {
    let mut readings = Readings::new();
    for run in frame.runs() {
        for row in run.range() {
            let samples = frame.channels().iter().enumerate().filter_map(|(index, code)| {
                let value = frame.column(index)[row];
                (!value.is_nan()).then_some((code.get(), value.to_bits()))
            });
            assert!(readings.insert((run.logger.get(), frame.times()[row]), samples.collect()).is_none());
        }
    }
    readings
}

fn values() -> impl Strategy<Value = u64> {
    prop_oneof![
        // Typical sensor values, with up to four decimals.
        8 => (-400_000..1_000_000_i32, 0..5_usize).prop_map(|(m, e)| f64::from(m) / POWERS_OF_TEN[e]),
        1 => Just(-0.0),
        1 => Just(0.0),
        1 => any::<f64>().prop_filter("finite", |value| value.is_finite()),
        1 => prop_oneof![Just(f64::MAX), Just(f64::MIN_POSITIVE), Just(5e-324), Just(9_007_199_254_740_992.0), Just(0.1 + 0.2)],
    ]
    .prop_map(f64::to_bits)
}

fn readings() -> impl Strategy<Value = Readings> {
    let samples = prop::collection::btree_map(1..=8_u16, values(), 1..4);
    let times = prop_oneof![
        6 => (0..200_i64).prop_map(|n| 1_460_000_000_000 + n * 300_000),
        2 => 1_460_000_000_000..1_460_000_100_000_i64,
        1 => Millis::MIN.get()..=Millis::MAX.get(),
        1 => prop_oneof![Just(Millis::MIN.get()), Just(Millis::MAX.get()), Just(0)],
    ];
    let ids = prop_oneof![4 => 1..5_u64, 1 => 1..=u64::MAX];
    prop::collection::btree_map((ids, times), samples, 1..60)
}

proptest! {
    #[test]
    fn frames_round_trip(readings in readings(), sequence in 1..=u64::MAX) {
        let bytes = build(&readings).encode(spool(), FrameSequence::new(sequence));
        let frame = Frame::decode(bytes.clone()).expect("decodes");
        prop_assert_eq!(read(&frame), readings.clone());
        prop_assert_eq!((frame.spool(), frame.sequence().get(), frame.len()), (spool(), sequence, readings.len()));
        prop_assert_eq!(frame.bytes(), &bytes);
        prop_assert_eq!(frame.samples(), readings.values().map(BTreeMap::len).sum::<usize>());
        let times = || readings.keys().map(|&(_, ms)| time(ms));
        prop_assert_eq!((Some(frame.time_min()), Some(frame.time_max())), (times().min(), times().max()));
        prop_assert!(frame.memory_bytes() >= bytes.len() + frame.len() * 8 * (1 + frame.channels().len()));
        let header = FrameHeader::peek(&bytes).expect("a header");
        prop_assert_eq!(header.loggers as usize, frame.runs().len());
        prop_assert_eq!(usize::from(header.channels), frame.channels().len());
    }

    #[test]
    fn any_order_gives_the_same_bytes(readings in readings(), seed in any::<u64>()) {
        let mut shuffled: Vec<_> = readings.iter().collect();
        let mut random = kit::SplitMix64::new(seed);
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, random.index(i + 1));
        }
        let mut builder = FrameBuilder::new();
        for (&(id, ms), samples) in shuffled {
            let samples: Vec<_> = samples.iter().rev().map(|(&c, &bits)| (code(c), f64::from_bits(bits))).collect();
            builder.push(logger(id), time(ms), &samples).expect("a valid reading");
            prop_assert_eq!(builder.push(logger(id), time(ms), &samples), Err(FrameBuildError::AlreadyThere));
        }
        let sequence = FrameSequence::new(1);
        prop_assert_eq!(builder.encode(spool(), sequence), build(&readings).encode(spool(), sequence));
        prop_assert!(builder.is_empty());
    }

    #[test]
    fn flipped_bits_are_detected(readings in readings(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut bytes = build(&readings).encode(spool(), FrameSequence::new(7)).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Frame::decode(bytes.into()).is_err());
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Frame::decode(bytes.clone().into()).is_err());
        let _peeked = FrameHeader::peek(&bytes);
    }

    /// Mutates the body and corrects the checksum, so that the decoder itself has to reject it.
    #[test]
    fn mutated_bytes_do_not_panic(
        readings in readings(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let bytes = build(&readings).encode(spool(), FrameSequence::new(7));
        let mut body = bytes[..bytes.len() - TRAILER_BYTES].to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Some(cut) = cut {
            body.truncate(cut.index(body.len()));
        }
        if let Ok(frame) = Frame::decode(with_checksum(body)) {
            // A frame that decodes keeps every invariant.
            let again = read(&frame);
            prop_assert_eq!(again.len(), frame.len());
            prop_assert!(again.values().all(|samples| !samples.is_empty()));
            prop_assert!(frame.runs().is_sorted_by(|a, b| a.logger < b.logger));
            prop_assert!(frame.runs().iter().all(|run| frame.times()[run.range()].is_sorted_by(|a, b| a < b)));
            prop_assert!(frame.times().iter().all(|&ms| frame.time_min().get() <= ms && ms <= frame.time_max().get()));
            prop_assert!(again.values().flat_map(BTreeMap::values).all(|&bits| f64::from_bits(bits).is_finite()));
        }
    }
}

/// Appends the matching checksum to a body.
fn with_checksum(mut body: Vec<u8>) -> Bytes {
    let checksum = crate::checksum::crc32c(&body);
    body.extend_from_slice(&checksum.to_le_bytes());
    body.into()
}

/// Assembles a frame by hand: a header with these counts, then this body.
fn by_hand(readings: u32, loggers: u32, table: &[u16], body: &[u8]) -> Vec<u8> {
    let mut bytes = b"ICEF\x01\0\0\0".to_vec();
    bytes.extend_from_slice(&spool().get().to_le_bytes());
    bytes.extend_from_slice(&1_u64.to_le_bytes());
    bytes.extend_from_slice(&readings.to_le_bytes());
    bytes.extend_from_slice(&loggers.to_le_bytes());
    bytes.extend_from_slice(&u16::try_from(table.len()).expect("few").to_le_bytes());
    bytes.extend_from_slice(&[0, 0]);
    table.iter().for_each(|code| bytes.extend_from_slice(&code.to_le_bytes()));
    bytes.extend_from_slice(body);
    bytes
}

/// Assembles a run of logger 1: readings one second apart from 1970 on, then `columns`.
fn run(count: u8, columns: &[u8]) -> Vec<u8> {
    let mut bytes = 1_u64.to_le_bytes().to_vec();
    bytes.push(count);
    bytes.extend_from_slice(&0_i64.to_le_bytes());
    for index in 1..count {
        if index == 1 { bytes.extend_from_slice(&[0xD0, 0x0F]) } else { bytes.push(0) }
    }
    bytes.extend_from_slice(columns);
    bytes
}

#[test]
fn broken_rules_are_rejected() {
    let valid = by_hand(3, 1, &[1], &run(3, &[TAG_SCALED, 1, 2, 2, 2]));
    let frame = Frame::decode(with_checksum(valid)).expect("a valid frame");
    assert_eq!((frame.times(), frame.column(0)), (&[0, 1000, 2000][..], &[0.1, 0.2, 0.3][..]));

    use FormatErrorKind::{Invalid, TooLarge, Truncated, UnknownChannel, UnknownVersion};
    let nan = [&[TAG_RAW][..], &f64::NAN.to_le_bytes()].concat();
    let infinite = [&[TAG_RAW][..], &f64::NEG_INFINITY.to_le_bytes()].concat();
    let changed = |at: usize, byte: u8| {
        let mut bytes = by_hand(1, 1, &[1], &run(1, &[TAG_SCALED, 0, 2]));
        bytes[at] = byte;
        bytes
    };
    let same_time = {
        let mut bytes = by_hand(2, 1, &[1], &run(2, &[TAG_SCALED, 0, 2, 2]));
        bytes.drain(55..57);
        bytes.insert(55, 0);
        bytes
    };
    let big = [&[TAG_SCALED, 0][..], &[0xFF; 7], &[0x7F]].concat();
    for (what, bytes, kind) in [
        ("magic", changed(0, b'X'), Invalid),
        ("version", changed(4, 2), UnknownVersion),
        ("reserved", changed(6, 1), Invalid),
        ("sequence zero", changed(16, 0), Invalid),
        ("no readings", by_hand(0, 0, &[1], &[]), Invalid),
        ("no channels", by_hand(1, 1, &[], &run(1, &[])), Invalid),
        ("more loggers than readings", by_hand(1, 2, &[1], &run(1, &[TAG_SCALED, 0, 2])), Invalid),
        ("too many readings", by_hand(65_537, 1, &[1], &run(1, &[TAG_SCALED, 0, 2])), TooLarge),
        ("too many cells", by_hand(65_536, 1, &[1, 2, 3, 4, 5], &[]), TooLarge),
        ("too many channels", by_hand(1, 1, &[1; 17], &[]), TooLarge),
        ("counts past the bytes", by_hand(60_000, 1, &[1], &run(1, &[TAG_SCALED, 0, 2])), Truncated),
        ("channel zero", by_hand(1, 1, &[0], &run(1, &[TAG_SCALED, 0, 2])), Invalid),
        ("channel unknown", by_hand(1, 1, &[999], &run(1, &[TAG_SCALED, 0, 2])), UnknownChannel),
        ("channel twice", by_hand(1, 1, &[1, 1], &run(1, &[TAG_SCALED, 0, 2, TAG_SCALED, 0, 2])), Invalid),
        ("channel unused", by_hand(1, 1, &[1, 2], &run(1, &[TAG_SCALED, 0, 2, TAG_ABSENT])), Invalid),
        (
            "logger twice",
            by_hand(2, 2, &[1], &[run(1, &[TAG_SCALED, 0, 2]), run(1, &[TAG_SCALED, 0, 2])].concat()),
            Invalid,
        ),
        ("count too small", by_hand(2, 1, &[1], &run(1, &[TAG_SCALED, 0, 2, 2])), Invalid),
        ("count too large", by_hand(1, 1, &[1], &run(2, &[TAG_SCALED, 0, 2, 2])), Invalid),
        ("time twice", same_time, Invalid),
        ("tag zero", by_hand(1, 1, &[1], &run(1, &[0, 0, 2])), Invalid),
        ("tag unknown", by_hand(1, 1, &[1], &run(1, &[6, 0, 2])), Invalid),
        ("no value", by_hand(1, 1, &[1], &run(1, &[TAG_ABSENT])), Invalid),
        ("exponent", by_hand(1, 1, &[1], &run(1, &[TAG_SCALED, 16, 2])), Invalid),
        ("mantissa", by_hand(1, 1, &[1], &run(1, &big)), Invalid),
        ("NaN", by_hand(1, 1, &[1], &run(1, &nan)), Invalid),
        ("infinity", by_hand(1, 1, &[1], &run(1, &infinite)), Invalid),
        ("bitmap of none", by_hand(2, 1, &[1], &run(2, &[TAG_SCALED_SOME, 0, 0])), Invalid),
        ("bitmap of all", by_hand(2, 1, &[1], &run(2, &[TAG_SCALED_SOME, 3, 0, 2, 2])), Invalid),
        ("bitmap beyond", by_hand(2, 1, &[1], &run(2, &[TAG_SCALED_SOME, 5, 0, 2])), Invalid),
        (
            "a reading without value",
            by_hand(3, 1, &[1, 2], &run(3, &[TAG_SCALED_SOME, 1, 0, 2, TAG_SCALED_SOME, 1, 0, 2])),
            Invalid,
        ),
        ("bytes after the end", by_hand(1, 1, &[1], &run(1, &[TAG_SCALED, 0, 2, 0])), Invalid),
    ] {
        let error = Frame::decode(with_checksum(bytes)).expect_err(what);
        assert_eq!(error.kind, kind, "{what}: {error}");
    }
    let long = vec![0; FRAME_BYTES_MAX + 1];
    assert_eq!(Frame::decode(long.into()).expect_err("too long").kind, TooLarge);
}

#[test]
fn sensor_values_are_compact_and_others_exact() {
    let size = |values: &[f64]| {
        let mut builder = FrameBuilder::new();
        for (index, &value) in values.iter().enumerate() {
            let ms = 1_460_000_000_000 + 300_000 * i64::try_from(index).expect("small");
            builder.push(logger(1), time(ms), &[(code(1), value)]).expect("a valid reading");
        }
        builder.encode(spool(), FrameSequence::new(1)).len()
    };
    let sensor: Vec<f64> = (0..1000).map(|n| f64::from(500 + n % 7) / 100.0).collect();
    // One byte for the time, one byte for the value.
    assert!(size(&sensor) < 2100, "{}", size(&sensor));
    let odd: Vec<f64> = (1..1001).map(|n| f64::from(n).sqrt()).collect();
    assert!((9000..9200).contains(&size(&odd)), "{}", size(&odd));
}

#[test]
fn rejected_readings_leave_the_builder_unchanged() {
    let mut builder = FrameBuilder::new();
    let (t, h) = (code(1), code(2));
    builder.push(logger(1), time(1), &[(t, 1.5)]).expect("a valid reading");
    for (samples, error) in [
        (&[][..], FrameBuildError::NoSamples),
        (&[(t, f64::NAN)], FrameBuildError::NotFinite(t)),
        (&[(t, 1.0), (h, f64::INFINITY)], FrameBuildError::NotFinite(h)),
        (&[(t, 1.0), (t, 1.0)], FrameBuildError::DuplicateChannel(t)),
        (&[(code(999), 1.0)], FrameBuildError::UnknownChannel(code(999))),
    ] {
        assert_eq!(builder.push(logger(1), time(2), samples), Err(error));
    }
    assert_eq!(builder.push(logger(1), time(1), &[(h, 1.0)]), Err(FrameBuildError::AlreadyThere));
    let frame = Frame::decode(builder.encode(spool(), FrameSequence::new(1))).expect("decodes");
    assert_eq!((frame.len(), frame.channels()), (1, &[t][..]));
}

#[test]
fn a_full_builder_still_encodes() {
    // The worst case: values that do not scale, a different channel in each reading, times that jump.
    let mut builder = FrameBuilder::new();
    let known: Vec<ChannelCode> = channels().iter().map(|channel| channel.code).collect();
    let mut count = 0_usize;
    loop {
        let n = u32::try_from(count).expect("bounded");
        let value = f64::from(n + 1).sqrt() * 1e300;
        let ms =
            if count.is_multiple_of(2) { Millis::MIN.get() + i64::from(n) } else { Millis::MAX.get() - i64::from(n) };
        match builder.push(logger(u64::from(n % 500) + 1), time(ms), &[(known[count % known.len()], value)]) {
            Ok(()) => count += 1,
            Err(error) => {
                assert_eq!(error, FrameBuildError::Full);
                break;
            }
        }
    }
    assert!(count > 20_000 && count * known.len() <= FRAME_CELLS_MAX, "{count}");
    let bytes = builder.encode(spool(), FrameSequence::new(1));
    assert!(bytes.len() <= FRAME_BYTES_MAX);
    assert_eq!(Frame::decode(bytes).expect("decodes").len(), count);

    let mut many = FrameBuilder::new();
    let mut ms = 0;
    while many.push(logger(1), time(ms), &[(known[0], 1.0)]).is_ok() {
        ms += 1;
    }
    assert!(many.len() > 60_000 && many.len() <= FRAME_READINGS_MAX, "{}", many.len());
    assert_eq!(
        Frame::decode(many.encode(spool(), FrameSequence::new(1))).expect("decodes").len(),
        usize::try_from(ms).expect("small")
    );
}
