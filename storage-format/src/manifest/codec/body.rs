//! Codec of the sealed body of a manifest object.

use std::collections::BTreeMap;

use super::header::{MANIFEST_HEADER_BYTES, ManifestHeader};
use super::{ManifestBase, ManifestObject, error};
use crate::manifest::{Manifest, ManifestDelta, SegmentEntry, SegmentKind, SpoolPosition, SpoolState, Totals};
use crate::{
    ChannelCode, FlushNumber, FormatError, FormatErrorKind, FrameSequence, GatewayId, LoggerId, Lsn, Millis, SegmentId,
    SpoolId, Window,
};

/// Of format version 1, which has no field `of`.
const ENTRY_BYTES_MIN: usize = 152;
const SPOOL_BYTES: usize = 32;
const SEGMENT_ID_BYTES: usize = 16;

pub(super) fn encode(object: &ManifestObject) -> Vec<u8> {
    let mut out = Vec::new();
    put_delta(&mut out, object.delta());
    if let ManifestObject::Base(base) = object {
        let state = &base.state;
        put_totals(&mut out, state.totals());
        for entries in state.lists() {
            put_entries(&mut out, entries);
        }
        let spools: Vec<SpoolPosition> = state.spools().collect();
        put_spools(&mut out, &spools);
    }
    out
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_time(out: &mut Vec<u8>, time: Millis) {
    out.extend_from_slice(&time.get().to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // An object of 2^32 entries would exceed the size limit, which the caller checks.
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_totals(out: &mut Vec<u8>, totals: Totals) {
    for count in [totals.readings, totals.duplicates, totals.conflicts, totals.filled, totals.dropped] {
        put_u64(out, count);
    }
}

fn put_delta(out: &mut Vec<u8>, delta: &ManifestDelta) {
    put_time(out, delta.created);
    put_u64(out, delta.lsn_covered.get());
    put_u64(out, delta.flush.get());
    put_totals(out, delta.totals);
    put_entries(out, &delta.added);
    put_count(out, delta.removed.len());
    for id in &delta.removed {
        out.extend_from_slice(&id.get().to_le_bytes());
    }
    put_spools(out, &delta.spools);
}

fn put_entries(out: &mut Vec<u8>, entries: &[SegmentEntry]) {
    put_count(out, entries.len());
    for entry in entries {
        out.extend_from_slice(&entry.id.get().to_le_bytes());
        out.extend_from_slice(&entry.of.map_or(0, SegmentId::get).to_le_bytes());
        out.push(entry.kind.code());
        out.push(u8::from(entry.shares_keys));
        // Distinct non-zero codes: at most 65,535.
        out.extend_from_slice(&u16::try_from(entry.channels.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(&entry.key_version.to_le_bytes());
        put_time(out, entry.window.range().start());
        put_time(out, entry.window.range().end());
        for value in [entry.flush_first.get(), entry.flush_last.get(), entry.rows, entry.bytes] {
            put_u64(out, value);
        }
        put_time(out, entry.time_min);
        put_time(out, entry.time_max);
        for value in [entry.logger_min.get(), entry.logger_max.get(), entry.lsn_min.get(), entry.lsn_max.get()] {
            put_u64(out, value);
        }
        out.extend_from_slice(&entry.digest);
        for code in &entry.channels {
            out.extend_from_slice(&code.get().to_le_bytes());
        }
    }
}

fn put_spools(out: &mut Vec<u8>, spools: &[SpoolPosition]) {
    put_count(out, spools.len());
    for spool in spools {
        for value in [spool.gateway.get(), spool.spool.get(), spool.sequence.get(), spool.lsn.get()] {
            put_u64(out, value);
        }
    }
}

pub(super) fn decode(header: &ManifestHeader, body: &[u8]) -> Result<ManifestObject, FormatError> {
    let mut reader = Reader { bytes: body, at: 0, format: header.format };
    let delta = reader.delta(header)?;
    let object = if header.base {
        let at = reader.at;
        let state = reader.state(&delta)?;
        state.check().map_err(|e| error(FormatErrorKind::Invalid, MANIFEST_HEADER_BYTES + at, e.to_string()))?;
        ManifestObject::Base(Box::new(ManifestBase { delta, state }))
    } else {
        ManifestObject::Delta(delta)
    };
    if reader.at != body.len() {
        return Err(reader.invalid("unexpected bytes after the last field"));
    }
    Ok(object)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Format version of the object.
    format: u16,
}

impl Reader<'_> {
    fn error(&self, kind: FormatErrorKind, detail: impl Into<String>) -> FormatError {
        error(kind, MANIFEST_HEADER_BYTES + self.at, detail)
    }

    fn invalid(&self, detail: impl Into<String>) -> FormatError {
        self.error(FormatErrorKind::Invalid, detail)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        match self.bytes[self.at..].first_chunk::<N>() {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(self.error(FormatErrorKind::Truncated, "the body ends inside a field")),
        }
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a value with a fallible constructor.
    fn checked<T, E: std::fmt::Display, const N: usize>(
        &mut self,
        construct: impl FnOnce([u8; N]) -> Result<T, E>,
    ) -> Result<T, FormatError> {
        let at = self.at;
        let raw = self.array()?;
        construct(raw).map_err(|e| error(FormatErrorKind::Invalid, MANIFEST_HEADER_BYTES + at, e.to_string()))
    }

    fn time(&mut self) -> Result<Millis, FormatError> {
        self.checked(|raw| Millis::new(i64::from_le_bytes(raw)))
    }

    /// Reads a count of entries that take at least `bytes_each` bytes each.
    fn count(&mut self, bytes_each: usize) -> Result<usize, FormatError> {
        let count = u32::from_le_bytes(self.array()?) as usize;
        if count > (self.bytes.len() - self.at) / bytes_each {
            let detail = format!("{count} entries are more than the bytes that follow could hold");
            return Err(self.error(FormatErrorKind::Truncated, detail));
        }
        Ok(count)
    }

    fn totals(&mut self) -> Result<Totals, FormatError> {
        Ok(Totals {
            readings: self.u64()?,
            duplicates: self.u64()?,
            conflicts: self.u64()?,
            filled: self.u64()?,
            dropped: if self.format >= 2 { self.u64()? } else { 0 },
        })
    }

    fn delta(&mut self, header: &ManifestHeader) -> Result<ManifestDelta, FormatError> {
        let created = self.time()?;
        let lsn_covered = Lsn::new(self.u64()?);
        let flush = FlushNumber::new(self.u64()?);
        let totals = self.totals()?;
        let added = self.entries(|_| true)?;
        let count = self.count(SEGMENT_ID_BYTES)?;
        let removed = (0..count)
            .map(|_| self.checked(|raw| SegmentId::new(u128::from_le_bytes(raw))))
            .collect::<Result<_, _>>()?;
        let spools = self.spools()?;
        Ok(ManifestDelta {
            version: header.version,
            epoch: header.epoch,
            nonce: header.nonce,
            created,
            lsn_covered,
            flush,
            added,
            removed,
            spools,
            totals,
        })
    }

    fn state(&mut self, delta: &ManifestDelta) -> Result<Manifest, FormatError> {
        let totals = self.totals()?;
        let segments = self.entries(|kind| kind == SegmentKind::Readings)?;
        let conflicts = self.entries(|kind| kind == SegmentKind::Conflicts)?;
        let (fills, rollups) = if self.format >= 2 {
            (self.entries(|kind| kind == SegmentKind::Fills)?, self.entries(SegmentKind::is_rollup)?)
        } else {
            (Vec::new(), Vec::new())
        };
        let at = self.at;
        let listed = self.spools()?;
        if !listed.is_sorted_by(|a, b| (a.gateway, a.spool) < (b.gateway, b.spool)) {
            return Err(error(FormatErrorKind::Invalid, MANIFEST_HEADER_BYTES + at, "the spools are not in order"));
        }
        let spools: BTreeMap<_, _> = listed
            .iter()
            .map(|spool| ((spool.gateway, spool.spool), SpoolState { sequence: spool.sequence, lsn: spool.lsn }))
            .collect();
        Ok(Manifest {
            version: delta.version,
            epoch: delta.epoch,
            lsn_covered: delta.lsn_covered,
            flush: delta.flush,
            segments,
            conflicts,
            fills,
            rollups,
            spools,
            totals,
        })
    }

    fn spools(&mut self) -> Result<Vec<SpoolPosition>, FormatError> {
        let count = self.count(SPOOL_BYTES)?;
        (0..count)
            .map(|_| {
                Ok(SpoolPosition {
                    gateway: self.checked(|raw| GatewayId::new(u64::from_le_bytes(raw)))?,
                    spool: self.checked(|raw| SpoolId::new(u64::from_le_bytes(raw)))?,
                    sequence: FrameSequence::new(self.u64()?),
                    lsn: Lsn::new(self.u64()?),
                })
            })
            .collect()
    }

    fn entries(&mut self, belongs: fn(SegmentKind) -> bool) -> Result<Vec<SegmentEntry>, FormatError> {
        let count = self.count(ENTRY_BYTES_MIN)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let at = self.at;
            let entry = self.entry()?;
            if !belongs(entry.kind) {
                let detail = "the list has an entry of another kind";
                return Err(error(FormatErrorKind::Invalid, MANIFEST_HEADER_BYTES + at, detail));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn entry(&mut self) -> Result<SegmentEntry, FormatError> {
        let id = self.checked(|raw| SegmentId::new(u128::from_le_bytes(raw)))?;
        let of = match self.format {
            1 => None,
            _ => SegmentId::new(u128::from_le_bytes(self.array()?)).ok(),
        };
        let format = self.format;
        let known = |kind: &SegmentKind| format >= 2 || kind.code() <= SegmentKind::Conflicts.code();
        let kind =
            self.checked(|[code]: [u8; 1]| SegmentKind::from_code(code).filter(known).ok_or("unknown segment kind"))?;
        let shares_keys = self.checked(|[flag]: [u8; 1]| match flag {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("the flag is neither 0 nor 1"),
        })?;
        let channel_count = u16::from_le_bytes(self.array()?);
        let key_version = u32::from_le_bytes(self.array()?);
        let window = self.window()?;
        let (flush_first, flush_last) = (FlushNumber::new(self.u64()?), FlushNumber::new(self.u64()?));
        let (rows, bytes) = (self.u64()?, self.u64()?);
        let (time_min, time_max) = (self.time()?, self.time()?);
        let logger_min = self.checked(|raw| LoggerId::new(u64::from_le_bytes(raw)))?;
        let logger_max = self.checked(|raw| LoggerId::new(u64::from_le_bytes(raw)))?;
        let (lsn_min, lsn_max) = (Lsn::new(self.u64()?), Lsn::new(self.u64()?));
        let digest = self.array()?;
        // At most 65,535 codes of two bytes, so the count needs no check.
        let channels = (0..channel_count)
            .map(|_| self.checked(|raw| ChannelCode::new(u16::from_le_bytes(raw)).ok_or("channel code zero")))
            .collect::<Result<_, _>>()?;
        Ok(SegmentEntry {
            id,
            kind,
            of,
            window,
            flush_first,
            flush_last,
            rows,
            bytes,
            time_min,
            time_max,
            logger_min,
            logger_max,
            channels,
            shares_keys,
            key_version,
            lsn_min,
            lsn_max,
            digest,
        })
    }

    fn window(&mut self) -> Result<Window, FormatError> {
        self.checked(|raw: [u8; 16]| {
            let (mut start, mut end) = ([0; 8], [0; 8]);
            start.copy_from_slice(&raw[..8]);
            end.copy_from_slice(&raw[8..]);
            Window::from_bounds(i64::from_le_bytes(start), i64::from_le_bytes(end))
        })
    }
}
