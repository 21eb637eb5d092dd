//! The digest of a rollup's rows: SHA-256 over a canonical form of what they decode to.

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, TimestampMillisecondType, UInt64Type};
use ring::digest::{Context, SHA256};

use super::RollupGrain;

/// Digest of rows of the schema in memory, with all channels of the object, in the order given, regardless of how they
/// are divided into batches.
pub struct RollupDigest {
    context: Context,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for RollupDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RollupDigest").finish_non_exhaustive()
    }
}

impl RollupDigest {
    /// Creates the digest of no rows.
    #[must_use]
    pub fn new(grain: RollupGrain) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(match grain {
            RollupGrain::Hourly => b"icecore rollup hourly 1",
            RollupGrain::Daily => b"icecore rollup daily 1",
        });
        Self { context, bytes: Vec::new() }
    }

    /// Adds the rows of a batch.
    ///
    /// # Panics
    /// With a batch of another schema.
    pub fn update(&mut self, batch: &RecordBatch) {
        for row in 0..batch.num_rows() {
            for column in batch.columns().iter().filter(|column| column.is_valid(row)) {
                let bits = match column.data_type() {
                    DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row),
                    DataType::Float64 => column.as_primitive::<Float64Type>().value(row).to_bits(),
                    _ => column.as_primitive::<TimestampMillisecondType>().value(row).cast_unsigned(),
                };
                self.bytes.extend_from_slice(&bits.to_le_bytes());
            }
        }
        self.context.update(&self.bytes);
        self.bytes.clear();
    }

    /// Returns the digest.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.context.finish().as_ref());
        out
    }
}
