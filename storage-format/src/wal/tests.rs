//! Tests of the WAL codec: round trips, and the result of a scan for every kind of damage.

use proptest::prelude::*;

use super::*;
use crate::encryption::{NONCE_BYTES, SecretKey, WrappedKey, unwrap_key, wrap_key};
use crate::limits::{WAL_FILE_HEADER_BYTES, WAL_SECTOR_BYTES};
use crate::{FormatError, FormatErrorKind, GatewayId, Lsn, Millis, OrgId, WalFileId};

const FIRST_LSN: u64 = 100;

fn master() -> SecretKey {
    SecretKey::from_bytes([0x11; 32])
}

fn unwrap(wrapped: &WrappedKey, aad: &[u8]) -> Result<SecretKey, FormatError> {
    unwrap_key(&master(), wrapped, aad)
}

fn frame_bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|n| n.to_le_bytes()[0].wrapping_mul(31).wrapping_add(seed)).collect()
}

/// Creates a file of blocks, each with frames of these lengths, and `spare_sectors` unused sectors. Returns the file,
/// the offsets of the blocks and of the end of the last one, and the next LSN.
fn wal_file(blocks: &[Vec<usize>], closed: bool, spare_sectors: usize) -> (Vec<u8>, Vec<usize>, Lsn) {
    let key = SecretKey::from_bytes([0x22; 32]);
    let file_key = WalFileKey::new(&key);
    let mut builder = WalBlockBuilder::new();
    let (mut lsn, mut body, mut offsets) = (FIRST_LSN, Vec::new(), Vec::new());
    let mut seal = |builder: &mut WalBlockBuilder| {
        let offset = WAL_FILE_HEADER_BYTES + body.len();
        offsets.push(offset);
        let expected = builder.bytes_len();
        let block = builder.seal(&file_key, offset as u64);
        assert_eq!(block.len(), expected);
        body.extend_from_slice(block);
    };
    for lens in blocks {
        for &len in lens {
            assert!(builder.has_room(len, usize::MAX));
            let seed = lsn.to_le_bytes()[0];
            builder.push_frame(
                Lsn::new(lsn),
                OrgId::new(lsn).expect("id"),
                GatewayId::new(7).expect("id"),
                Millis::EPOCH,
                &frame_bytes(len, seed),
            );
            lsn += 1;
        }
        seal(&mut builder);
    }
    if closed {
        builder.push_closed(Lsn::new(lsn));
        lsn += 1;
        seal(&mut builder);
    }
    offsets.push(WAL_FILE_HEADER_BYTES + body.len());
    let file_bytes = (WAL_FILE_HEADER_BYTES + body.len() + spare_sectors * WAL_SECTOR_BYTES) as u64;
    let kind = WalFileKind::Log;
    let (id, first_lsn, created) = (WalFileId::FIRST, Lsn::new(FIRST_LSN), Millis::EPOCH);
    let aad = WalFileHeader::key_aad(kind, id, first_lsn, file_bytes, created);
    let wrapped = wrap_key(&master(), &key, [0x33; NONCE_BYTES], &aad);
    let header = WalFileHeader { kind, id, first_lsn, file_bytes, created, key: wrapped };
    let mut file = header.encode().to_vec();
    assert_eq!(WalFileHeader::decode(&file).as_ref(), Ok(&header));
    file.extend_from_slice(&body);
    file.resize(usize::try_from(file_bytes).expect("small"), 0);
    (file, offsets, Lsn::new(lsn))
}

/// Scans a file. Returns the number of blocks read, and how the file ends.
fn scan(file: &[u8]) -> (usize, Result<WalEnd, FormatError>) {
    let mut scan = match scan_wal(file, &unwrap) {
        Ok(scan) => scan,
        Err(error) => return (0, Err(error)),
    };
    let mut blocks = 0;
    for block in &mut scan {
        match block {
            Ok(_) => blocks += 1,
            Err(error) => return (blocks, Err(error)),
        }
    }
    assert!(scan.next().is_none());
    (blocks, Ok(scan.end().expect("a scan without error has an end")))
}

fn expect_damage(result: (usize, Result<WalEnd, FormatError>), blocks: usize, offset: usize) {
    let error = result.1.expect_err("must be rejected");
    assert_eq!((result.0, error.offset), (blocks, offset as u64), "{error}");
}

#[test]
fn records_round_trip() {
    let (file, offsets, next) = wal_file(&[vec![10, 0, 3000], vec![1], vec![500; 20]], true, 3);
    let mut scan = scan_wal(&file, &unwrap).expect("a header");
    let blocks: Vec<WalBlock> = (&mut scan).map(|block| block.expect("a valid block")).collect();
    assert_eq!((scan.end(), scan.next_lsn()), (Some(WalEnd::Closed), next));
    assert_eq!(scan.last_block(), Some(offsets[3]..offsets[4]));
    assert_eq!(blocks.iter().map(|block| block.records.len()).collect::<Vec<_>>(), [3, 1, 20, 1]);
    let mut lsn = FIRST_LSN;
    for (block, offset) in blocks.iter().zip(&offsets) {
        assert_eq!(block.offset, *offset as u64);
        for record in &block.records {
            assert_eq!(record.lsn.get(), lsn);
            match &record.kind {
                WalRecordKind::Frame { org, gateway, received, frame } => {
                    assert_eq!((org.get(), gateway.get(), *received), (lsn, 7, Millis::EPOCH));
                    assert_eq!(frame[..], frame_bytes(frame.len(), lsn.to_le_bytes()[0]));
                }
                WalRecordKind::Closed => assert_eq!(lsn + 1, next.get()),
            }
            lsn += 1;
        }
    }
}

#[test]
fn file_ends_are_distinguished() {
    let (open, offsets, _) = wal_file(&[vec![100]], false, 4);
    assert_eq!(scan(&open), (1, Ok(WalEnd::Open { offset: offsets[1] as u64 })));
    let (full, offsets, _) = wal_file(&[vec![100]], false, 0);
    assert_eq!(scan(&full), (1, Ok(WalEnd::Open { offset: offsets[1] as u64 })));
    let (empty, offsets, _) = wal_file(&[], false, 4);
    assert_eq!(scan(&empty), (0, Ok(WalEnd::Open { offset: offsets[0] as u64 })));
    let (mut closed, offsets, _) = wal_file(&[vec![100]], true, 4);
    assert_eq!(scan(&closed), (2, Ok(WalEnd::Closed)));
    // This program writes nothing after a clean close.
    let end = *offsets.last().expect("an end");
    closed[end + 1000] = 1;
    expect_damage(scan(&closed), 2, end);
}

#[test]
fn file_headers_are_validated() {
    let (file, ..) = wal_file(&[vec![100]], false, 4);
    for bit in 0..WAL_FILE_HEADER_BYTES * 8 {
        let mut bad = file.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(scan_wal(&bad, &unwrap).is_err(), "bit {bit}");
    }
    for len in [0, 1, 511, 4095, 4096, file.len() - 512, file.len() - 1] {
        assert!(scan_wal(&file[..len], &unwrap).is_err(), "{len} bytes");
    }
    let zeros = vec![0; file.len()];
    assert!(scan_wal(&zeros, &unwrap).is_err());
    let mut long = file.clone();
    long.resize(file.len() + 512, 0);
    assert!(scan_wal(&long, &unwrap).is_err());
    let other = |wrapped: &WrappedKey, aad: &[u8]| unwrap_key(&SecretKey::from_bytes([0x12; 32]), wrapped, aad);
    assert_eq!(scan_wal(&file, &other).expect_err("another master key").kind, FormatErrorKind::WrongKey);
}

#[test]
fn moved_and_missing_blocks_are_damage() {
    // Two blocks of the same length, swapped: both are intact, but neither stands at the offset that it states.
    let (mut file, offsets, _) = wal_file(&[vec![100], vec![100], vec![100]], false, 4);
    let (first, second) = (offsets[0]..offsets[1], offsets[1]..offsets[2]);
    let moved = file[first.clone()].to_vec();
    file.copy_within(second.clone(), first.start);
    file[second].copy_from_slice(&moved);
    expect_damage(scan(&file), 0, offsets[0]);
    // One block zeroed.
    let (mut file, offsets, _) = wal_file(&[vec![100], vec![100], vec![100]], false, 4);
    file[offsets[1]..offsets[2]].fill(0);
    expect_damage(scan(&file), 1, offsets[1]);
}

#[test]
fn lsns_must_be_consecutive() {
    let key = SecretKey::from_bytes([0x22; 32]);
    let (file, offsets, _) = wal_file(&[vec![100]], false, 8);
    for (lsn, valid) in [(101, true), (100, false), (102, false)] {
        let mut file = file.clone();
        let mut builder = WalBlockBuilder::new();
        builder.push_closed(Lsn::new(lsn));
        let block = builder.seal(&WalFileKey::new(&key), offsets[1] as u64).to_vec();
        file[offsets[1]..][..block.len()].copy_from_slice(&block);
        assert_eq!(scan(&file).1.is_ok(), valid, "LSN {lsn}");
    }
}

#[test]
fn builder_is_reusable_and_predicts_its_length() {
    let key = WalFileKey::new(&SecretKey::from_bytes([0x22; 32]));
    let mut builder = WalBlockBuilder::new();
    for len in [0, 1, 411, 412, 413, 5000] {
        let id = |n| OrgId::new(n).expect("id");
        builder.push_frame(Lsn::new(1), id(1), GatewayId::new(1).expect("id"), Millis::EPOCH, &vec![1; len]);
        assert_eq!(builder.bytes_len(), WalBlockBuilder::bytes_for(len));
        assert!(!builder.is_empty());
        assert_eq!(builder.seal(&key, 4096).len(), WalBlockBuilder::bytes_for(len));
        assert!(builder.is_empty());
        assert!(builder.has_room(len, WalBlockBuilder::bytes_for(len)));
        assert!(!builder.has_room(len, WalBlockBuilder::bytes_for(len) - 1));
    }
}

fn blocks() -> impl Strategy<Value = Vec<Vec<usize>>> {
    prop::collection::vec(prop::collection::vec(0..1500_usize, 1..5), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Checks that a flipped bit is reported as damage at its block, and that nothing after that block is read.
    #[test]
    fn flipped_bits_are_damage(blocks in blocks(), at in any::<prop::sample::Index>(), bit in 0..8_u32, spare in 0..4_usize) {
        let (mut file, offsets, _) = wal_file(&blocks, false, spare);
        let body = offsets[0]..offsets[blocks.len()];
        let at = body.start + at.index(body.len());
        file[at] ^= 1 << bit;
        let block = offsets.iter().rposition(|&offset| offset <= at).expect("after the first");
        expect_damage(scan(&file), block, offsets[block]);
    }

    /// Checks the loss of sectors of the last block: if all are lost, the log ends before it; if some, it is torn.
    #[test]
    fn missing_sectors_of_the_last_block_are_a_tear(blocks in blocks(), lost in prop::collection::vec(any::<bool>(), 64), spare in 0..4_usize) {
        let (mut file, offsets, _) = wal_file(&blocks, false, spare);
        let last = offsets[blocks.len() - 1];
        let mut sectors: Vec<bool> = Vec::new();
        for (index, sector) in file[last..offsets[blocks.len()]].chunks_mut(WAL_SECTOR_BYTES).enumerate() {
            let lose = lost[index % lost.len()];
            sectors.push(lose);
            if lose {
                sector.fill(0);
            }
        }
        let end = match sectors.iter().rposition(|&lost| !lost) {
            None => WalEnd::Open { offset: last as u64 },
            Some(_) if !sectors.contains(&true) => WalEnd::Open { offset: offsets[blocks.len()] as u64 },
            Some(kept) => WalEnd::TornTail { offset: last as u64, bytes: ((kept + 1) * WAL_SECTOR_BYTES) as u64 },
        };
        let read = if sectors.contains(&true) { blocks.len() - 1 } else { blocks.len() };
        prop_assert_eq!(scan(&file), (read, Ok(end)));
    }

    /// Checks that the loss of a sector of any other block is damage.
    #[test]
    fn missing_sectors_of_an_earlier_block_are_damage(mut blocks in blocks(), pick in any::<prop::sample::Index>(), which in any::<prop::sample::Index>()) {
        blocks.push(vec![10]);
        let (mut file, offsets, _) = wal_file(&blocks, false, 2);
        let block = pick.index(blocks.len() - 1);
        let sectors = (offsets[block + 1] - offsets[block]) / WAL_SECTOR_BYTES;
        let sector = offsets[block] + which.index(sectors) * WAL_SECTOR_BYTES;
        file[sector..][..WAL_SECTOR_BYTES].fill(0);
        expect_damage(scan(&file), block, offsets[block]);
    }

    /// Checks that a truncated file is damage, never the end of the log.
    #[test]
    fn truncated_files_are_damage(blocks in blocks(), at in any::<prop::sample::Index>()) {
        let (file, ..) = wal_file(&blocks, false, 1);
        prop_assert!(scan(&file[..at.index(file.len())]).1.is_err());
    }

    /// Fills a file with zeros from some sector on. The blocks before it are read; the rest is the end of the log, or a
    /// torn block if the zeros start inside one.
    #[test]
    fn a_zeroed_tail_is_an_end_or_a_tear(blocks in blocks(), at in any::<prop::sample::Index>()) {
        let (mut file, offsets, _) = wal_file(&blocks, false, 2);
        let body = offsets[0]..offsets[blocks.len()];
        let at = (body.start + at.index(body.len())) / WAL_SECTOR_BYTES * WAL_SECTOR_BYTES;
        file[at..].fill(0);
        let intact = offsets.iter().rposition(|&offset| offset <= at).expect("after the first");
        let (read, end) = scan(&file);
        prop_assert_eq!(read, intact);
        let expected = if offsets[intact] == at {
            WalEnd::Open { offset: at as u64 }
        } else {
            WalEnd::TornTail { offset: offsets[intact] as u64, bytes: (at - offsets[intact]) as u64 }
        };
        prop_assert_eq!(end, Ok(expected));
    }

    /// Overwrites parts of a file. The scan does not panic, and every block that it reads is one that was written.
    #[test]
    fn overwritten_files_do_not_panic(
        blocks in blocks(),
        overwrites in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..600)), 1..4),
    ) {
        let (mut file, offsets, _) = wal_file(&blocks, false, 2);
        let original = file.clone();
        for (at, bytes) in overwrites {
            let at = at.index(file.len());
            let len = bytes.len().min(file.len() - at);
            file[at..at + len].copy_from_slice(&bytes[..len]);
        }
        let (read, _) = scan(&file);
        for block in 0..read {
            prop_assert_eq!(&file[offsets[block]..offsets[block + 1]], &original[offsets[block]..offsets[block + 1]]);
        }
    }
}

/// Creates a file of carried records with these LSNs, block by block.
fn carried(blocks: &[&[u64]], spare_sectors: usize) -> Vec<u8> {
    let (key, mut builder, mut body) = (SecretKey::from_bytes([0x22; 32]), WalBlockBuilder::new(), Vec::new());
    for lsns in blocks {
        for &lsn in *lsns {
            let (org, gateway) = (OrgId::new(5).expect("id"), GatewayId::new(7).expect("id"));
            builder.push_frame(Lsn::new(lsn), org, gateway, Millis::EPOCH, &frame_bytes(700, 1));
        }
        let offset = (WAL_FILE_HEADER_BYTES + body.len()) as u64;
        body.extend_from_slice(builder.seal(&WalFileKey::new(&key), offset));
    }
    body.resize(body.len() + spare_sectors * WAL_SECTOR_BYTES, 0);
    let (kind, id, first_lsn) =
        (WalFileKind::Carried, WalFileId::new(blocks[0][0]).expect("id"), Lsn::new(blocks[0][0]));
    let (file_bytes, created) = ((WAL_FILE_HEADER_BYTES + body.len()) as u64, Millis::EPOCH);
    let aad = WalFileHeader::key_aad(kind, id, first_lsn, file_bytes, created);
    let wrapped = wrap_key(&master(), &key, [0x33; NONCE_BYTES], &aad);
    let mut file = WalFileHeader { kind, id, first_lsn, file_bytes, created, key: wrapped }.encode().to_vec();
    file.extend_from_slice(&body);
    file
}

#[test]
fn carried_records_leave_out_numbers_and_never_go_back() {
    let file = carried(&[&[4, 5, 9], &[12]], 0);
    let mut blocks = scan_wal(&file, &unwrap).expect("a header");
    let lsns: Vec<u64> = blocks.by_ref().flat_map(|block| block.expect("valid").records).map(|r| r.lsn.get()).collect();
    assert_eq!((lsns.as_slice(), blocks.header().kind), (&[4, 5, 9, 12][..], WalFileKind::Carried));
    assert!(matches!(blocks.end(), Some(WalEnd::Open { offset }) if offset == file.len() as u64));
    for wrong in [&[&[4, 5, 5][..]][..], &[&[4, 9], &[8]], &[&[4, 9], &[9]]] {
        assert!(scan(&carried(wrong, 0)).1.is_err(), "{wrong:?}");
    }
    let mut cut = file.clone();
    cut[WAL_FILE_HEADER_BYTES..].fill(0);
    cut[WAL_FILE_HEADER_BYTES + 700] = 1;
    expect_damage(scan(&cut), 0, WAL_FILE_HEADER_BYTES);
    // The same bytes in the log would have a gap: the version is bound to the key.
    let mut log = file;
    log[4] = 1;
    assert!(scan(&log).1.is_err());
}
