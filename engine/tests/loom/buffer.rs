//! The write buffer: columns of rows and of frames, and the extent that shows them.

use loom::sync::Arc;
use loom::thread::JoinHandle;

use crate::engine::column::Column;
use crate::engine::extent::Extent;

/// Rows of each frame; its LSN is its number, from one.
const FRAMES: [usize; 2] = [1, 2];

/// A write buffer with what the engine's has one of each kind of.
struct Buffer {
    rows: Column,
    starts: Column,
    extent: Extent,
}

impl Buffer {
    fn new() -> Self {
        Self { rows: Column::new(0), starts: Column::new(0), extent: Extent::new() }
    }

    /// As `BufferWriter::append`: the rows of a frame, what is kept once a frame, then all of it is shown.
    fn append(&self, rows_before: usize, frames_before: usize, rows: usize, lsn: u64) {
        self.rows.write(rows_before, rows, |_| lsn);
        self.starts.write(frames_before, 1, |_| rows_before as u64);
        self.extent.publish(rows_before + rows, frames_before + 1, lsn);
    }

    /// An empty one, and the thread that writes both frames to it.
    fn being_written() -> (Arc<Self>, JoinHandle<()>) {
        let buffer = Arc::new(Self::new());
        let written = Arc::clone(&buffer);
        let writer = loom::thread::spawn(move || {
            written.append(0, 0, FRAMES[0], 1);
            written.append(FRAMES[0], 1, FRAMES[1], 2);
        });
        (buffer, writer)
    }

    /// The LSNs that a view's rows came with, after a look whether each finds its frame, as `BufferView` looks it up.
    fn view(&self) -> Vec<u64> {
        let rows = self.extent.rows();
        let frames = self.extent.frames();
        let start_of = |frame: usize| if frame < frames { self.starts.get(frame) } else { u64::MAX };
        let (mut frame, mut frame_lsn) = (0, 0);
        let mut lsns = Vec::new();
        for row in 0..rows {
            let begins = start_of(frame) == row as u64;
            let lsn = self.rows.get(row);
            if begins {
                frame += 1;
                assert!(lsn > frame_lsn, "a row before its frame's first, or not written");
                frame_lsn = lsn;
            }
            assert_eq!(lsn, frame_lsn, "a row with another frame's cells");
            lsns.push(lsn);
        }
        lsns
    }
}

#[test]
fn a_view_is_a_prefix_of_whole_frames() {
    loom::model(|| {
        let (buffer, writer) = Buffer::being_written();
        let mut before = 0;
        for _ in 0..2 {
            let view = buffer.view();
            assert!([&[][..], &[1], &[1, 2, 2]].contains(&&*view), "{view:?}");
            assert!(view.len() >= before, "a view never shrinks");
            before = view.len();
        }
        writer.join().expect("the writer ends");
        assert_eq!(buffer.view(), [1, 2, 2]);
    });
}

#[test]
fn whoever_sees_rows_or_a_first_lsn_sees_a_last_one() {
    loom::model(|| {
        let (buffer, writer) = Buffer::being_written();
        let rows = buffer.extent.rows();
        let (first, last) = (buffer.extent.lsn_first(), buffer.extent.lsn_last());
        if rows > 0 {
            assert_eq!(first, Some(1));
        }
        if first.is_some() {
            assert!(last >= Some(if rows > 1 { 2 } else { 1 }), "{rows} rows, up to {last:?}");
        }
        writer.join().expect("the writer ends");
    });
}
