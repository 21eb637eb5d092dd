//! Write buffers: what is appended comes back sorted, in prefixes, by window; memory is counted and given back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use arrow::array::AsArray as _;
use arrow::array::{Array as _, Float64Array, RecordBatch, TimestampMillisecondArray, UInt64Array};
use arrow::datatypes::{DataType, Float64Type, TimestampMillisecondType, UInt64Type};
use proptest::prelude::*;
use storage_format::manifest::Manifest;
use storage_format::{
    ChannelCode, Frame, FrameBuilder, FrameSequence, GatewayId, LoggerId, Lsn, Millis, OrgId, SpoolId, TimeRange,
};

use super::{Budget, BufferWriter, WriteBuffer};
use crate::apply::{FrameRecord, apply};
use crate::org::{Orgs, Writers};
use crate::snapshot::Snapshot;

fn code(value: u16) -> ChannelCode {
    ChannelCode::new(value).expect("not zero")
}

fn millis(ms: i64) -> Millis {
    Millis::new(ms).expect("in range")
}

fn logger(id: u64) -> LoggerId {
    LoggerId::new(id).expect("not zero")
}

fn gateway(id: u64) -> GatewayId {
    GatewayId::new(id).expect("not zero")
}

fn spool(id: u64) -> SpoolId {
    SpoolId::new(id).expect("not zero")
}

/// A waker, and whether it was woken.
fn waker() -> (Arc<Woken>, Waker) {
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    (Arc::clone(&woken), Waker::from(woken))
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[allow(clippy::type_complexity, reason = "one literal per test line")]
fn frame(sequence: u64, readings: &[(u64, i64, &[(u16, f64)])]) -> Frame {
    let mut builder = FrameBuilder::new();
    for (id, time, samples) in readings {
        let samples: Vec<_> = samples.iter().map(|(channel, value)| (code(*channel), *value)).collect();
        builder.push(logger(*id), millis(*time), &samples).expect("a reading");
    }
    Frame::decode(builder.encode(spool(9), FrameSequence::new(sequence))).expect("a frame")
}

fn buffer() -> (Arc<WriteBuffer>, BufferWriter, Arc<Budget>) {
    let budget = Arc::new(Budget::new(1 << 30));
    let (buffer, writer) = WriteBuffer::create(&budget);
    (buffer, writer, budget)
}

type Row = (u64, i64, Option<f64>, Option<f64>, u64, i64);

fn rows(batches: impl IntoIterator<Item = RecordBatch>) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        let loggers: &UInt64Array = batch.column(0).as_primitive::<UInt64Type>();
        let times: &TimestampMillisecondArray = batch.column(1).as_primitive::<TimestampMillisecondType>();
        let value = |column: usize, row: usize| {
            let values: &Float64Array = batch.column(column).as_primitive::<Float64Type>();
            values.is_valid(row).then(|| values.value(row))
        };
        for row in 0..batch.num_rows() {
            rows.push((
                loggers.value(row),
                times.value(row),
                value(2, row),
                value(3, row),
                batch.column(4).as_primitive::<UInt64Type>().value(row),
                batch.column(5).as_primitive::<TimestampMillisecondType>().value(row),
            ));
        }
    }
    rows
}

#[test]
fn rows_come_back_sorted_and_stable_with_their_provenance() {
    let (buffer, mut writer, _) = buffer();
    assert!(buffer.view().is_empty() && buffer.lsn_first().is_none() && buffer.view().time_bounds().is_none());
    writer.append(&frame(5, &[(2, 10, &[(1, 1.0)]), (1, 30, &[(1, 2.0)])]), gateway(7), millis(5_999), Lsn::new(11));
    let early = buffer.view();
    writer.append(
        &frame(6, &[(1, 30, &[(2, 3.0)]), (1, 20, &[(1, 4.0), (2, 5.0)])]),
        gateway(8),
        millis(6_000),
        Lsn::new(12),
    );

    let channels = [code(1), code(2)];
    assert_eq!(
        rows(buffer.view().batches(None, None, &channels)),
        [
            (1, 20, Some(4.0), Some(5.0), 8, 6_000),
            (1, 30, Some(2.0), None, 7, 5_000),
            (1, 30, None, Some(3.0), 8, 6_000),
            (2, 10, Some(1.0), None, 7, 5_000),
        ]
    );
    // A view is a prefix: what came later is not in it.
    assert_eq!(early.rows(), 2);
    assert_eq!(rows(early.batches(None, None, &channels)).len(), 2);
    let range = TimeRange::new(millis(20), millis(30)).expect("a range");
    assert_eq!(rows(buffer.view().batches(Some(range), None, &channels)).len(), 1);
    assert_eq!(rows(buffer.view().batches(None, Some(&[logger(2), logger(3)]), &channels)).len(), 1);
    assert_eq!(buffer.channels(), channels);
    assert_eq!(buffer.view().time_bounds(), Some((millis(10), millis(30))));
    assert_eq!(buffer.view().logger_bounds(), Some((logger(1), logger(2))));
    assert_eq!((buffer.lsn_first(), buffer.lsn_last()), (Some(Lsn::new(11)), Some(Lsn::new(12))));
    assert_eq!(buffer.oldest_received(), Some(millis(5_999)));
    assert_eq!(buffer.spool_sequence(gateway(7), spool(9)).get(), 5);
    assert_eq!(buffer.spool_sequence(gateway(7), spool(8)).get(), 0);
}

#[test]
fn channels_of_the_schema_that_nobody_measured_are_null() {
    let (buffer, mut writer, _) = buffer();
    writer.append(&frame(1, &[(1, 1, &[(3, 1.0)])]), gateway(1), millis(0), Lsn::new(1));
    let batch = buffer.view().batches(None, None, &[code(1), code(3)]).next().expect("a batch");
    assert_eq!(batch.column(2).null_count(), 1);
    assert_eq!(batch.column(3).data_type(), &DataType::Float64);
    assert_eq!(batch.column(3).null_count(), 0);
}

#[test]
fn memory_is_counted_and_given_back() {
    let (buffer, mut writer, budget) = buffer();
    writer.append(&frame(1, &[(1, 1, &[(1, 1.0)])]), gateway(1), millis(0), Lsn::new(1));
    // Loggers, times, one channel, and three columns of frames, of 64 cells each.
    assert_eq!(buffer.bytes(), 6 * 64 * 8);
    assert_eq!(budget.used(), buffer.bytes());
    let view = buffer.view();
    drop((buffer, writer));
    assert!(budget.used() > 0, "a reader holds it");
    drop(view);
    assert_eq!(budget.used(), 0);
}

#[test]
fn readers_see_prefixes_while_the_writer_writes() {
    let (buffer, mut writer, _) = buffer();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=400_i64 {
                let id = number.cast_unsigned();
                let value = id as f64;
                let readings: Vec<_> = (0..50).map(|i| (id, i, [(1_u16, value)])).collect();
                let readings: Vec<_> = readings.iter().map(|(id, time, samples)| (*id, *time, &samples[..])).collect();
                writer.append(&frame(id, &readings), gateway(id), millis(number * 1000), Lsn::new(id));
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        let mut last = 0;
        while !done.load(std::sync::atomic::Ordering::Acquire) {
            let view = buffer.view();
            assert!(view.rows() >= last && view.rows() % 50 == 0, "whole frames only");
            last = view.rows();
            let rows = rows(view.batches(None, None, &[code(1), code(2)]));
            assert_eq!(rows.len(), view.rows());
            for (index, row) in rows.iter().enumerate() {
                let id = (index / 50 + 1) as u64;
                assert_eq!(*row, (id, (index % 50) as i64, Some(id as f64), None, id, id.cast_signed() * 1000));
            }
        }
    });
    assert_eq!(buffer.rows(), 20_000);
}

#[test]
fn who_holds_little_again_goes_on_though_readers_hold_the_memory() {
    let org = OrgId::new(1).expect("not zero");
    let filled = |bytes_max| {
        let orgs = Orgs::new(Arc::new(Budget::new(bytes_max)), 1 << 30);
        let loaded = orgs.add(org, Arc::new(Manifest::empty()));
        let mut writers = Writers::new(Arc::clone(&orgs));
        for number in 1..=1000 {
            let frame = frame(number, &[(number, 5, &[(1, 1.0)])]);
            let record = FrameRecord { lsn: Lsn::new(number), gateway: gateway(1), received: millis(0), frame: &frame };
            apply(&record, writers.org(org).expect("loaded"));
        }
        (orgs, loaded, writers)
    };
    let bytes = filled(1 << 30).0.budget().used();
    let (orgs, loaded, mut writers) = filled(bytes + bytes / 16);
    assert!(loaded.must_wait(orgs.budget()), "only the reserve is left");
    assert!(writers.org(org).expect("loaded").freeze());
    let reader = Snapshot::take(&loaded).expect("whole");
    let mut room = std::pin::pin!(loaded.room(orgs.budget()));
    let (woken, wake) = waker();
    assert!(room.as_mut().poll(&mut Context::from_waker(&wake)).is_pending());
    let state = loaded.state();
    loaded.flushed(&state.manifest, &state.frozen[0]);
    assert!(woken.0.load(Ordering::Relaxed), "it is told");
    assert!(room.as_mut().poll(&mut Context::from_waker(&wake)).is_ready());
    assert!(orgs.budget().used() >= bytes, "{reader:?} holds it");
}

#[test]
fn a_full_buffer_is_frozen_and_snapshots_see_all_once() {
    let org = OrgId::new(1).expect("not zero");
    let orgs = Orgs::new(Arc::new(Budget::new(1 << 30)), 20_000);
    let mut writers = Writers::new(Arc::clone(&orgs));
    assert!(writers.org(org).is_none(), "not loaded");
    let loaded = orgs.add(org, Arc::new(Manifest::empty()));
    for number in 1..=100_u64 {
        let readings: Vec<_> = (0..10).map(|i| (number, i, &[(1_u16, 1.0)][..])).collect();
        let frame = frame(number, &readings);
        let record = FrameRecord { lsn: Lsn::new(number), gateway: gateway(1), received: millis(0), frame: &frame };
        apply(&record, writers.org(org).expect("loaded"));
        orgs.set_applied(Lsn::new(number));
        assert_eq!(Snapshot::take(&loaded).expect("whole").buffered_rows() as u64, number * 10);
        assert_eq!(orgs.first_unflushed().get(), 1);
        assert_eq!(loaded.durable_sequence(gateway(1), spool(9)).get(), number);
    }
    let state = loaded.state();
    assert!(state.frozen.len() > 1, "{} frozen", state.frozen.len());
    // What is flushed goes, and the WAL may go up to the next.
    let (first, second) = (&state.frozen[0], &state.frozen[1]);
    loaded.flushed(&state.manifest, first);
    assert_eq!(Some(orgs.first_unflushed()), second.lsn_first());
    for frozen in &state.frozen[1..] {
        loaded.flushed(&state.manifest, frozen);
    }
    let freeze = writers.org(org).expect("loaded");
    let any = freeze.freeze();
    assert_eq!(any, state.active.rows() > 0);
    if any {
        loaded.flushed(&state.manifest, &state.active);
    }
    assert_eq!(orgs.first_unflushed().get(), 101);
    assert!(!writers.org(org).expect("loaded").freeze(), "nothing to freeze");
}

proptest! {
    #[test]
    fn rows_are_in_the_order_of_logger_time_and_arrival(
        // Few loggers and times: runs that follow each other, overlap, and repeat.
        frames in proptest::collection::vec(proptest::collection::btree_set((1_u64..5, 0_i64..40), 1..12), 1..40),
        from in 0_i64..40,
    ) {
        let (buffer, mut writer, _) = buffer();
        let mut expected = Vec::new();
        for (number, keys) in (1_u64..).zip(&frames) {
            let value = [(1_u16, number as f64)];
            let readings: Vec<_> = keys.iter().map(|(id, time)| (*id, *time, &value[..])).collect();
            let received = number.cast_signed() * 1000;
            writer.append(&frame(number, &readings), gateway(number), millis(received), Lsn::new(number));
            expected.extend(keys.iter().map(|(id, time)| (*id, *time, Some(number as f64), None, number, received)));
        }
        // Stable, as arrival wants it.
        expected.sort_by_key(|row| (row.0, row.1));
        let view = buffer.view();
        prop_assert_eq!(&rows(view.batches(None, None, &[code(1), code(2)])), &expected);
        let range = TimeRange::new(millis(from), millis(from + 7)).expect("a range");
        let some: Vec<_> = expected.iter().copied().filter(|row| (from..from + 7).contains(&row.1)).collect();
        let batches = view.batches(Some(range), None, &[code(1), code(2)]);
        prop_assert_eq!(batches.rows(), some.len());
        if let Some(((first, last), (min, max))) = batches.bounds() {
            prop_assert_eq!((first.get(), last.get()), (some[0].0, some[some.len() - 1].0));
            let times = || some.iter().map(|row| row.1);
            prop_assert_eq!((Some(min.get()), Some(max.get())), (times().min(), times().max()));
        }
        let split: Vec<_> = batches.clone().split(3).into_iter().flatten().collect();
        prop_assert_eq!(&rows(split), &some);
        let mut at = 0;
        for key in (0_u64..6).flat_map(|id| (0..40).map(move |time| (id, time))) {
            prop_assert_eq!(batches.seek(key, &mut at), some.iter().any(|row| (row.0, row.1) == key), "{:?}", key);
        }
        prop_assert_eq!(rows(batches), some);
    }

    #[test]
    fn parts_have_no_logger_in_common_and_are_the_buffer_together(
        frames in proptest::collection::vec(proptest::collection::btree_set((1_u64..12, 0_i64..40), 1..12), 1..40),
        count in 1_usize..14,
    ) {
        let (buffer, mut writer, _) = buffer();
        for (number, keys) in (1_u64..).zip(&frames) {
            let value = [(1_u16, number as f64)];
            let readings: Vec<_> = keys.iter().map(|(id, time)| (*id, *time, &value[..])).collect();
            writer.append(&frame(number, &readings), gateway(number), millis(0), Lsn::new(number));
        }
        let batches = buffer.view().batches(None, None, &[code(1), code(2)]);
        let parts = batches.clone().split(count);
        prop_assert!((1..=count).contains(&parts.len()), "{} parts, not {count}", parts.len());
        let mut seen = BTreeSet::new();
        for part in &parts {
            let rows = rows(part.clone());
            prop_assert!(!rows.is_empty() && rows.len() == part.rows());
            // What a part says of its loggers is what its rows say.
            let mut loggers: BTreeMap<u64, (i64, i64)> = BTreeMap::new();
            for (logger, time, ..) in rows {
                let (min, max) = loggers.entry(logger).or_insert((time, time));
                (*min, *max) = (time.min(*min), time.max(*max));
            }
            let told: Vec<_> = part.loggers().iter().map(|times| (times.logger, (times.min, times.max))).collect();
            prop_assert!(loggers.keys().all(|logger| seen.insert(*logger)), "a logger in two parts");
            prop_assert_eq!(told, loggers.into_iter().collect::<Vec<_>>());
        }
        prop_assert_eq!(rows(parts.into_iter().flatten()), rows(batches));
    }

    #[test]
    fn windows_split_the_rows(times in proptest::collection::vec(0_i64..40_000_000_000, 1..200)) {
        let (buffer, mut writer, _) = buffer();
        let mut lsn = 0;
        for chunk in times.chunks(7) {
            let mut builder = FrameBuilder::new();
            for (index, time) in chunk.iter().enumerate() {
                builder.push(logger(index as u64 + 1), millis(*time), &[(code(1), 1.0)]).expect("a reading");
            }
            lsn += 1;
            let frame = Frame::decode(builder.encode(spool(1), FrameSequence::new(lsn))).expect("a frame");
            writer.append(&frame, gateway(1), millis(0), Lsn::new(lsn));
        }
        let view = buffer.view();
        let windows = view.by_window(&[code(1)]);
        let mut all = 0;
        for (window, sorted) in windows {
            let (_, (min, max)) = sorted.bounds().expect("not empty");
            prop_assert!(window.range().contains(min) && window.range().contains(max));
            prop_assert_eq!(sorted.rows(), times.iter().filter(|t| window.range().contains(millis(**t))).count());
            let keys: Vec<_> = rows(sorted.map(|batch| {
                let columns = vec![batch.column(0).clone(), batch.column(1).clone(), batch.column(2).clone(),
                    batch.column(2).clone(), batch.column(3).clone(), batch.column(4).clone()];
                RecordBatch::try_from_iter(["a", "b", "c", "d", "e", "f"].into_iter().zip(columns)).expect("a batch")
            })).into_iter().map(|row| (row.0, row.1)).collect();
            prop_assert!(keys.is_sorted());
            all += keys.len();
        }
        prop_assert_eq!(all, times.len());
    }
}
