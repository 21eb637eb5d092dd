//! The bodies of the fuzz targets: plain functions that take any bytes and panic only when a decoder breaks a promise.
//! Each answers whether the bytes were good, so that a test can see that its seeds reach what is behind the checks.
//!
//! The ordinary tests replay `corpora/` and mutations of the golden files through the same functions, so that a body
//! that no longer finds anything is noticed without a fuzzer. A canary shows that a broken promise would be reported.

use std::fmt::Display;
use std::str::FromStr;

use bytes::Bytes;
use storage_format::encryption::{SecretKey, unwrap_key};
use storage_format::manifest::{ManifestHeader, decode_manifest};
use storage_format::segment::read_tail;
use storage_format::wal::{WalEnd, scan_wal};
use storage_format::{
    Channel, Frame, FrameBuilder, FrameHeader, LoggerId, Millis, ObjectKey, SpoolId, WalFileId, Window,
};

/// The master key of the golden WAL files.
const MASTER_KEY: [u8; 32] = [0x11; 32];
/// The organisation key of the golden manifests.
const ORG_KEY: [u8; 32] = [7; 32];

/// A frame: what decodes is wholly valid, and encodes and decodes to the same readings again. Half of the inputs get a
/// right checksum first, or none but the seeds would ever come past it.
pub fn frame(data: &[u8]) -> bool {
    let _ = FrameHeader::peek(data);
    let good = check_frame(data);
    if let Some(body) = data.len().checked_sub(4) {
        let mut mended = data.to_vec();
        let checksum = crc32c::crc32c(&data[..body]);
        mended[body..].copy_from_slice(&checksum.to_le_bytes());
        check_frame(&mended);
    }
    good
}

fn check_frame(data: &[u8]) -> bool {
    let Ok(frame) = Frame::decode(Bytes::copy_from_slice(data)) else { return false };
    assert_eq!(frame.bytes(), data, "a frame keeps the bytes that it came from");
    assert_eq!(frame.runs().iter().map(|run| run.len as usize).sum::<usize>(), frame.len());
    // Eight bytes a value and a few per reading, whatever the frame claims: no bomb.
    let cells = frame.len() * (frame.channels().len() + 1);
    assert!(frame.memory_bytes() <= 4096 + data.len() * 4 + cells * 8, "{} bytes in memory", frame.memory_bytes());
    let mut builder = FrameBuilder::new();
    let mut samples = Vec::new();
    for run in frame.runs() {
        for row in run.range() {
            samples.clear();
            for (index, &channel) in frame.channels().iter().enumerate() {
                let value = frame.column(index)[row];
                if !value.is_nan() {
                    samples.push((channel, value));
                }
            }
            let time = Millis::new(frame.times()[row]).expect("a decoded time is a time");
            assert!(frame.time_min() <= time && time <= frame.time_max());
            // Encoded otherwise than ours, a frame may hold more than ours takes.
            if builder.push(run.logger, time, &samples).is_err() {
                return true;
            }
        }
    }
    let again = Frame::decode(builder.encode(frame.spool(), frame.sequence())).expect("what we encode, we decode");
    assert_eq!(again.times(), frame.times());
    assert_eq!(again.runs(), frame.runs());
    for index in 0..frame.channels().len() {
        let bits = |frame: &Frame| frame.column(index).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&again), bits(&frame), "values survive to the bit");
    }
    true
}

/// A WAL file: records come in order without holes, blocks do not overlap, and the end lies behind the last block.
pub fn wal_scan(data: &[u8]) -> bool {
    let master = SecretKey::from_bytes(MASTER_KEY);
    let Ok(mut scan) = scan_wal(data, &|wrapped, aad| unwrap_key(&master, wrapped, aad)) else { return false };
    let mut next = scan.header().first_lsn;
    let mut last_end = 0;
    for block in scan.by_ref() {
        let Ok(block) = block else { return false };
        assert!(block.offset >= last_end, "blocks do not overlap");
        last_end = block.offset + block.bytes;
        for record in block.records {
            assert_eq!(record.lsn, next, "LSNs have no holes");
            next = record.lsn.next().expect("not at the end of u64");
        }
    }
    match scan.end().expect("a scan without an error has an end") {
        WalEnd::Open { offset } | WalEnd::TornTail { offset, .. } => assert!(offset >= last_end),
        WalEnd::Closed => assert!(last_end > 0, "a closed file has a closing block"),
    }
    last_end > 0
}

/// A manifest object: decoding ends in a state or an error.
pub fn manifest(data: &[u8]) -> bool {
    let key = SecretKey::from_bytes(ORG_KEY);
    // Under the name that it gives itself, or everything would end at the first comparison.
    let Ok(header) = ManifestHeader::decode(data) else { return false };
    decode_manifest(header.org, header.version, data, &key).is_ok()
}

/// A segment's tail: decoding ends in key metadata or an error whose offset lies in the file.
pub fn segment_tail(data: &[u8]) -> bool {
    let length = data.len() as u64;
    match read_tail(length, data) {
        Ok(_) => true,
        Err(error) => {
            assert!(error.offset <= length, "{error}");
            false
        }
    }
}

/// Texts that name things: what parses has one text form.
pub fn object_key(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let good = same_text::<ObjectKey>(text, text) || text.parse::<Window>().is_ok();
    same_text::<WalFileId>(text, text);
    same_text::<Window>(text, text);
    same_text::<LoggerId>(text, &text.to_uppercase());
    same_text::<SpoolId>(text, &text.to_lowercase());
    let _ = text.parse::<Millis>();
    if let Some(channel) = Channel::by_name(text) {
        assert_eq!(channel.code.channel(), Some(channel));
    }
    good
}

fn same_text<T: FromStr + Display>(text: &str, canonical: &str) -> bool {
    let Ok(value) = text.parse::<T>() else { return false };
    assert_eq!(value.to_string(), canonical);
    true
}

#[cfg(test)]
mod tests;
