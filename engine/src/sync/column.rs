//! Append-only columns of 64-bit cells: one writer, any number of readers, no lock.
//!
//! A column is a row of chunks that never move once they are there: small at first, so that ten thousand small
//! organisations stay small, then of one size. Invariants: the writer fills cells before it publishes the length that
//! covers them (release); a reader takes the length first (acquire) and reads only cells below it; a cell below a
//! published length never changes again. A cell that was never written reads as the column's vacant value.
//!
//! Owns cells and their publication; does not know what they mean, nor enforce that there is one writer (the buffer's
//! writer half does). Chunks come through the standard library's `OnceLock` also under loom, which need not prove it.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use std::sync::OnceLock;

/// Rows of the first chunk. Each of the growing chunks has twice the rows of the one before.
#[cfg(not(loom))]
const FIRST_ROWS: usize = 64;
/// How many chunks grow.
#[cfg(not(loom))]
const GROWING: usize = 8;
/// Chunks of the last size: their directory (24 B each) is made when the first of them is.
#[cfg(not(loom))]
const EVEN: usize = 256;

// Small enough for every interleaving to be tried.
#[cfg(loom)]
const FIRST_ROWS: usize = 1;
#[cfg(loom)]
const GROWING: usize = 1;
#[cfg(loom)]
const EVEN: usize = 2;

const GROWING_ROWS: usize = FIRST_ROWS * ((1 << GROWING) - 1);
const EVEN_ROWS: usize = FIRST_ROWS << GROWING;

/// How many rows a column can hold: bounds the directory, and thereby a buffer, to about 4.2 million rows.
pub(crate) const ROWS_MAX: usize = GROWING_ROWS + EVEN * EVEN_ROWS;

type Chunk = Box<[AtomicU64]>;

/// Append-only 64-bit cells.
pub(crate) struct Column {
    growing: [OnceLock<Chunk>; GROWING],
    even: OnceLock<Box<[OnceLock<Chunk>]>>,
    vacant: u64,
}

/// Where a row is: its chunk, and its place in it.
struct Place {
    chunk: usize,
    offset: usize,
    rows: usize,
}

fn place(row: usize) -> Place {
    if row < GROWING_ROWS {
        // Chunk k starts at FIRST_ROWS * (2^k - 1).
        let chunk = (row / FIRST_ROWS + 1).ilog2() as usize;
        Place { chunk, offset: row - FIRST_ROWS * ((1 << chunk) - 1), rows: FIRST_ROWS << chunk }
    } else {
        let beyond = row - GROWING_ROWS;
        Place { chunk: GROWING + beyond / EVEN_ROWS, offset: beyond % EVEN_ROWS, rows: EVEN_ROWS }
    }
}

impl Column {
    /// An empty column; cells that are never written read as `vacant`.
    pub(crate) fn new(vacant: u64) -> Self {
        Self { growing: std::array::from_fn(|_| OnceLock::new()), even: OnceLock::new(), vacant }
    }

    fn chunk(&self, index: usize) -> Option<&Chunk> {
        match self.growing.get(index) {
            Some(chunk) => chunk.get(),
            None => self.even.get()?.get(index - GROWING)?.get(),
        }
    }

    /// The value at `row`, which must be below a length that was observed.
    pub(crate) fn get(&self, row: usize) -> u64 {
        let place = place(row);
        self.chunk(place.chunk).map_or(self.vacant, |chunk| chunk[place.offset].load(Ordering::Relaxed))
    }

    /// Makes many reads of rows below `len`, a length that was observed, cheap: each chunk is looked for once.
    pub(crate) fn reader(&self, len: usize) -> Reader<'_> {
        let chunks = len.checked_sub(1).map_or(0, |last| place(last).chunk + 1);
        Reader {
            chunks: (0..chunks).map(|index| self.chunk(index).map(|chunk| &chunk[..])).collect(),
            vacant: self.vacant,
        }
    }

    /// Writes `count` cells from `row` on, before the length that covers them is published. Answers how many bytes
    /// that made the column grow by.
    ///
    /// # Panics
    /// Past [`ROWS_MAX`].
    pub(crate) fn write(&self, row: usize, count: usize, mut value: impl FnMut(usize) -> u64) -> usize {
        let (mut done, mut grown) = (0, 0);
        while done < count {
            let place = place(row + done);
            let slot = match self.growing.get(place.chunk) {
                Some(slot) => slot,
                None => {
                    let even = self.even.get_or_init(|| {
                        grown += EVEN * size_of::<OnceLock<Chunk>>();
                        (0..EVEN).map(|_| OnceLock::new()).collect()
                    });
                    &even[place.chunk - GROWING]
                }
            };
            let chunk = slot.get_or_init(|| {
                grown += place.rows * size_of::<u64>();
                (0..place.rows).map(|_| AtomicU64::new(self.vacant)).collect()
            });
            let here = (place.rows - place.offset).min(count - done);
            for (index, cell) in chunk[place.offset..place.offset + here].iter().enumerate() {
                cell.store(value(done + index), Ordering::Relaxed);
            }
            done += here;
        }
        grown
    }
}

/// Rows of a column that were there at one time.
pub(crate) struct Reader<'a> {
    /// None where nothing was ever written.
    chunks: Vec<Option<&'a [AtomicU64]>>,
    vacant: u64,
}

impl Reader<'_> {
    /// The value at `row`.
    ///
    /// # Panics
    /// Past the length that it was made for, rounded up to a chunk.
    #[inline]
    pub(crate) fn get(&self, row: usize) -> u64 {
        let place = place(row);
        self.chunks[place.chunk].map_or(self.vacant, |chunk| chunk[place.offset].load(Ordering::Relaxed))
    }

    /// Adds the values of `count` rows from `row` on.
    #[inline]
    pub(crate) fn extend<T>(&self, values: &mut Vec<T>, row: usize, count: usize, value: impl Fn(u64) -> T) {
        let mut done = 0;
        while done < count {
            let place = place(row + done);
            let here = (place.rows - place.offset).min(count - done);
            match self.chunks[place.chunk] {
                Some(chunk) => {
                    let cells = chunk[place.offset..place.offset + here].iter();
                    values.extend(cells.map(|cell| value(cell.load(Ordering::Relaxed))));
                }
                None => values.extend((0..here).map(|_| value(self.vacant))),
            }
            done += here;
        }
    }
}

/// The length up to which readers may read.
pub(crate) struct Published(AtomicUsize);

impl Published {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Shows every row below `len`: everything written before is visible to whoever observes this length.
    pub(crate) fn publish(&self, len: usize) {
        self.0.store(len, Ordering::Release);
    }

    /// The length to read up to.
    pub(crate) fn observe(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn places_are_dense() {
        let (mut chunk, mut offset) = (0, 0);
        for row in 0..GROWING_ROWS + 3 * EVEN_ROWS {
            let at = place(row);
            if at.chunk != chunk {
                assert_eq!(at.chunk, chunk + 1);
                (chunk, offset) = (at.chunk, 0);
            }
            assert_eq!(at.offset, offset, "row {row}");
            assert!(at.offset < at.rows);
            offset += 1;
        }
        assert_eq!(place(ROWS_MAX - 1).chunk, GROWING + EVEN - 1);
        assert_eq!(place(ROWS_MAX - 1).offset, EVEN_ROWS - 1);
    }

    #[test]
    fn unwritten_cells_are_vacant() {
        let column = Column::new(7);
        assert_eq!(column.get(5), 7);
        assert_eq!(column.write(100, 3, |index| 100 + index as u64), 128 * 8);
        assert_eq!([column.get(99), column.get(100), column.get(102), column.get(103)], [7, 100, 102, 7]);
        // Over the border of the growing chunks.
        column.write(GROWING_ROWS - 2, 4, |index| index as u64);
        assert_eq!((0..4).map(|i| column.get(GROWING_ROWS - 2 + i)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
