//! Golden files of frames, WAL files and wrapped keys: every version that was ever written still opens, and the
//! encoders still write exactly the bytes of the latest.
//!
//! `cargo test -p storage-format --test golden -- --ignored write_fixtures` writes missing files.
#![cfg(feature = "storage")]

use std::fs;
use std::path::PathBuf;

use storage_format::encryption::{SecretKey, WrappedKey, org_key_aad, unwrap_key, wrap_key};
use storage_format::wal::{WalBlockBuilder, WalEnd, WalFileHeader, WalFileKey, WalFileKind, WalRecordKind, scan_wal};
use storage_format::{
    ChannelCode, FormatError, Frame, FrameBuilder, FrameSequence, GatewayId, LoggerId, Lsn, Millis, OrgId, SpoolId,
    WalFileId,
};

const FILE_BYTES: u64 = 8192;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1").join(name)
}

fn open(name: &str) -> Vec<u8> {
    fs::read(fixture(name)).unwrap_or_else(|error| panic!("fixture {name}: {error}"))
}

fn master() -> SecretKey {
    SecretKey::from_bytes([0x11; 32])
}

fn unwrap(wrapped: &WrappedKey, aad: &[u8]) -> Result<SecretKey, FormatError> {
    unwrap_key(&master(), wrapped, aad)
}

fn org() -> OrgId {
    OrgId::new(0x0123_4567_89AB_CDEF).expect("not zero")
}

fn gateway() -> GatewayId {
    GatewayId::new(0xFEDC_BA98_7654_3210).expect("not zero")
}

fn received() -> Millis {
    "2016-02-14T00:01:00.500Z".parse().expect("a time")
}

/// Reading: logger, time, samples.
type Reading = (u64, i64, Vec<(u16, f64)>);

/// Returns readings that produce every tag, both kinds of absence, minus zero, and two loggers.
fn readings() -> Vec<Reading> {
    let start = 1_455_408_000_000;
    vec![
        (0x0012_4B00_0A6E_0001, start, vec![(1, 21.37), (2, 45.5)]),
        (0x0012_4B00_0A6E_0001, start + 300_012, vec![(1, 21.4), (3, 3.1)]),
        (0x0012_4B00_0A6E_0001, start + 600_007, vec![(1, -0.0625), (2, 46.0), (3, 0.1 + 0.2)]),
        (0x0012_4B00_0A6E_0002, start - 1, vec![(1, -0.0)]),
        (0x0012_4B00_0A6E_0002, start, vec![(1, 4.0), (2, 1e-300)]),
    ]
}

fn code(code: u16) -> ChannelCode {
    ChannelCode::new(code).expect("not zero")
}

fn frame() -> Vec<u8> {
    let mut builder = FrameBuilder::new();
    for (logger, time, samples) in readings() {
        let samples: Vec<_> = samples.iter().map(|&(c, value)| (code(c), value)).collect();
        let (logger, time) = (LoggerId::new(logger).expect("not zero"), Millis::new(time).expect("a time"));
        builder.push(logger, time, &samples).expect("a valid reading");
    }
    builder.encode(SpoolId::new(0x5B00).expect("not zero"), FrameSequence::new(42)).to_vec()
}

fn wrapped_key() -> Vec<u8> {
    wrap_key(&master(), &SecretKey::from_bytes([0x44; 32]), [0x55; 12], &org_key_aad(org(), 1)).as_bytes().to_vec()
}

fn wal_header(kind: WalFileKind, key: &SecretKey, id: WalFileId, first_lsn: Lsn, file_bytes: u64) -> Vec<u8> {
    let aad = WalFileHeader::key_aad(kind, id, first_lsn, file_bytes, received());
    let key = wrap_key(&master(), key, [0x33; 12], &aad);
    WalFileHeader { kind, id, first_lsn, file_bytes, created: received(), key }.encode().to_vec()
}

/// Creates a file of carried records, in two blocks.
fn carried() -> Vec<u8> {
    let (key, id, first) = (SecretKey::from_bytes([0x22; 32]), WalFileId::new(7).expect("an id"), Lsn::new(7));
    let (file_key, frame, mut builder, mut body) = (WalFileKey::new(&key), frame(), WalBlockBuilder::new(), Vec::new());
    for lsns in [&[7, 9][..], &[20]] {
        for lsn in lsns {
            builder.push_frame(Lsn::new(*lsn), org(), gateway(), received(), &frame);
        }
        body.extend_from_slice(builder.seal(&file_key, 4096 + body.len() as u64));
    }
    let mut file = wal_header(WalFileKind::Carried, &key, id, first, 4096 + body.len() as u64);
    file.extend_from_slice(&body);
    file
}

/// Creates a file of two blocks, with one frame and with six. With `torn`, the second lost a sector; otherwise the
/// record of a clean close follows.
fn wal(torn: bool) -> Vec<u8> {
    let (key, id, first) = (SecretKey::from_bytes([0x22; 32]), WalFileId::FIRST, Lsn::new(7));
    let mut file = wal_header(WalFileKind::Log, &key, id, first, FILE_BYTES);
    let (file_key, frame) = (WalFileKey::new(&key), frame());
    let mut builder = WalBlockBuilder::new();
    builder.push_frame(Lsn::new(7), org(), gateway(), received(), &frame);
    file.extend_from_slice(builder.seal(&file_key, 4096));
    for lsn in 8..14 {
        builder.push_frame(Lsn::new(lsn), org(), gateway(), received(), &frame);
    }
    let last = file.len();
    file.extend_from_slice(builder.seal(&file_key, last as u64));
    if torn {
        file[last + 512..last + 1024].fill(0);
    } else {
        builder.push_closed(Lsn::new(14));
        let offset = file.len() as u64;
        file.extend_from_slice(builder.seal(&file_key, offset));
    }
    file.resize(usize::try_from(FILE_BYTES).expect("small"), 0);
    file
}

fn all() -> [(&'static str, Vec<u8>); 5] {
    [
        ("frame.bin", frame()),
        ("wrapped-key.bin", wrapped_key()),
        ("closed.wal", wal(false)),
        ("torn.wal", wal(true)),
        ("../v2/carried.wal", carried()),
    ]
}

#[test]
#[ignore = "writes missing golden files; those of a released version never change"]
fn write_fixtures() {
    for (name, bytes) in all() {
        let path = fixture(name);
        if !path.exists() {
            fs::write(path, bytes).expect("writes");
        }
    }
}

#[test]
fn encoders_reproduce_the_golden_files() {
    for (name, bytes) in all() {
        assert!(bytes == open(name), "{name} would be written differently: a new version of the format is needed");
    }
}

#[test]
fn frame_opens() {
    let frame = Frame::decode(open("frame.bin").into()).expect("decodes");
    assert_eq!((frame.spool().get(), frame.sequence().get()), (0x5B00, 42));
    let mut back = Vec::new();
    for run in frame.runs() {
        for row in run.range() {
            let samples =
                frame.channels().iter().enumerate().map(|(index, code)| (code.get(), frame.column(index)[row]));
            let samples: Vec<_> = samples.filter(|(_, value)| !value.is_nan()).collect();
            back.push((run.logger.get(), frame.times()[row], samples));
        }
    }
    assert_eq!(back, readings());
    assert!(frame.column(0)[3].is_sign_negative(), "minus zero keeps its sign");
}

#[test]
fn wrapped_key_opens() {
    let bytes: [u8; 60] = open("wrapped-key.bin").try_into().expect("60 bytes");
    let key = unwrap(&WrappedKey::from_bytes(bytes), &org_key_aad(org(), 1)).expect("unwraps");
    assert_eq!(key.expose(), &[0x44; 32]);
}

#[test]
fn wal_files_open() {
    let carried_bytes = open("../v2/carried.wal").len() as u64;
    for (name, lsns, end) in [
        ("closed.wal", (7..=14).collect::<Vec<_>>(), WalEnd::Closed),
        ("torn.wal", vec![7], WalEnd::TornTail { offset: 4608, bytes: 1536 }),
        ("../v2/carried.wal", vec![7, 9, 20], WalEnd::Open { offset: carried_bytes }),
    ] {
        let file = open(name);
        let mut scan = scan_wal(&file, &unwrap).expect("a header");
        let records: Vec<_> = (&mut scan).flat_map(|block| block.expect("a valid block").records).collect();
        assert_eq!(scan.end(), Some(end), "{name}");
        assert_eq!(records.iter().map(|record| record.lsn.get()).collect::<Vec<_>>(), lsns);
        match &records[0].kind {
            WalRecordKind::Frame { org: o, gateway: g, received: r, frame } => {
                assert_eq!((*o, *g, *r, &frame[..]), (org(), gateway(), received(), &open("frame.bin")[..]));
            }
            WalRecordKind::Closed => panic!("{name} begins with a frame"),
        }
    }
}

/// Checks that the pages state magic, version and limits as the code has them, and name every golden file.
#[test]
fn pages_and_code_agree() {
    for (page, needles) in [
        ("frame.md", &["\"ICEF\"", "version = 1", "fixtures/v1/frame.bin", "65,536", "1,048,576", "262,144"][..]),
        (
            "wal.md",
            &[
                "\"ICEW\"",
                "\"ICEB\"",
                "fixtures/v1/closed.wal",
                "fixtures/v1/torn.wal",
                "fixtures/v2/carried.wal",
                "  4096     …  blocks",
            ],
        ),
        (
            "encryption.md",
            &["icecore org key 1", "icecore wal file key 1", "icecore data key 1", "fixtures/v1/wrapped-key.bin"],
        ),
    ] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
        let text = fs::read_to_string(&path).expect("the page exists");
        for needle in needles {
            assert!(text.contains(needle), "{page} does not contain {needle}");
        }
    }
    assert_eq!((&open("frame.bin")[..6], &open("closed.wal")[..6]), (&b"ICEF\x01\0"[..], &b"ICEW\x01\0"[..]));
    assert_eq!(&open("closed.wal")[4100..4104], b"ICEB");
    use storage_format::limits::{FRAME_BYTES_MAX, FRAME_CELLS_MAX, FRAME_READINGS_MAX};
    assert_eq!((FRAME_BYTES_MAX, FRAME_CELLS_MAX, FRAME_READINGS_MAX), (1_048_576, 262_144, 65_536));
}
