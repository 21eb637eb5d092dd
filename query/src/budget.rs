//! What the functions of one query hold, and whether it goes on.
//!
//! DataFusion's memory pool counts what operators keep from batch to batch. It does not count what an expression makes
//! while a batch is computed, nor what a window function returns row by row. Those are counted here: a result is
//! claimed when it is made, and the claim goes with the result's own buffer, so that it ends exactly when the memory
//! does, whoever holds it until then.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, make_array};
use arrow::buffer::Buffer;
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, exec_datafusion_err};
use datafusion::logical_expr::ColumnarValue;

use crate::limits::QueryLimits;

/// A result that is smaller than this is not claimed: results of a batch have more.
const CLAIM_BYTES_LEAST: usize = 4 << 10;

/// Set once a query is over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Over(Arc<AtomicBool>);

impl Over {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Fails once the query is over, so that what computes for long ends.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(exec_datafusion_err!("the query is over")) } else { Ok(()) }
    }
}

/// Sets it when it is dropped: when nobody waits for a query any more that is still being planned.
#[derive(Debug)]
pub(crate) struct OverOnDrop(Option<Over>);

impl OverOnDrop {
    pub(crate) fn new(over: &Over) -> Self {
        Self(Some(over.clone()))
    }

    /// Leaves it to others to set it.
    pub(crate) fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for OverOnDrop {
    fn drop(&mut self) {
        if let Some(over) = &self.0 {
            over.set();
        }
    }
}

/// The functions' memory of one query. See the module.
///
/// Invariant: `live` is the sum of all claims.
#[derive(Debug)]
pub(crate) struct Budget {
    over: Over,
    live: AtomicUsize,
    bytes_max: usize,
    /// Bytes of one text, and of one row's values, that are made for every row of a batch.
    text_bytes_max: usize,
    /// Bytes of one value of an aggregate.
    value_bytes_max: usize,
}

impl Budget {
    pub(crate) fn new(limits: &QueryLimits, over: Over) -> Arc<Self> {
        Arc::new(Self {
            over,
            live: AtomicUsize::new(0),
            bytes_max: limits.memory_bytes_max,
            text_bytes_max: limits.text_bytes_max(),
            value_bytes_max: limits.value_bytes_max(),
        })
    }

    /// Fails once the query is over.
    pub(crate) fn check(&self) -> Result<()> {
        self.over.check()
    }

    pub(crate) fn over(&self) -> Over {
        self.over.clone()
    }

    pub(crate) fn text_bytes_max(&self) -> usize {
        self.text_bytes_max
    }

    /// Fails when a value of so many bytes is more than one value may be.
    pub(crate) fn check_value(&self, bytes: usize) -> Result<()> {
        if bytes <= self.value_bytes_max {
            return Ok(());
        }
        Err(exhausted(format!("a value of {bytes} bytes, of {} at most", self.value_bytes_max)))
    }

    fn take(&self, bytes: usize) -> Result<()> {
        let before = self.live.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.bytes_max {
            self.live.fetch_sub(bytes, Ordering::Relaxed);
            return Err(exhausted(format!("functions want {bytes} bytes beside {before}")));
        }
        Ok(())
    }

    /// Counts a function's result for as long as it lives.
    pub(crate) fn keep(self: &Arc<Self>, value: ColumnarValue) -> Result<ColumnarValue> {
        match value {
            ColumnarValue::Array(array) => Ok(ColumnarValue::Array(self.keep_array(array)?)),
            scalar @ ColumnarValue::Scalar(_) => Ok(scalar),
        }
    }

    /// Counts an array for as long as it lives.
    pub(crate) fn keep_array(self: &Arc<Self>, array: ArrayRef) -> Result<ArrayRef> {
        let bytes = array.get_array_memory_size();
        if bytes < CLAIM_BYTES_LEAST {
            return Ok(array);
        }
        let mut claim = Claim::new(self);
        claim.resize(bytes)?;
        claim.attach(array)
    }
}

// A query has one, so that functions that differ in nothing else are the same.
impl PartialEq for Budget {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Budget {}

impl Hash for Budget {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// Bytes of the budget that are taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Claim {
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Makes it a claim of so many bytes; it stays as it was when there are not so many.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<()> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.budget.take(more)?,
            None => drop(self.budget.live.fetch_sub(self.bytes - bytes, Ordering::Relaxed)),
        }
        self.bytes = bytes;
        Ok(())
    }

    pub(crate) fn grow(&mut self, more: usize) -> Result<()> {
        self.resize(self.bytes.saturating_add(more))
    }

    /// Ties the claim to the largest buffer of the array.
    fn attach(self, array: ArrayRef) -> Result<ArrayRef> {
        let data = array.to_data();
        let mut buffers = data.buffers().to_vec();
        // What has no buffer of its own, such as a struct, is made of results that were claimed before.
        let Some(largest) = buffers.iter_mut().max_by_key(|buffer| buffer.len()) else { return Ok(array) };
        let owner = Claimed { buffer: largest.clone(), _claim: self };
        *largest = Buffer::from(Bytes::from_owner(owner));
        Ok(make_array(data.into_builder().buffers(buffers).build()?))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.budget.live.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A buffer with its claim.
struct Claimed {
    buffer: Buffer,
    _claim: Claim,
}

impl AsRef<[u8]> for Claimed {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

fn exhausted(what: String) -> DataFusionError {
    DataFusionError::ResourcesExhausted(what)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Float64Array, StringArray, StringViewArray};
    use arrow::datatypes::Float64Type;

    use super::*;

    fn budget(memory_bytes_max: usize) -> Arc<Budget> {
        Budget::new(&QueryLimits { memory_bytes_max, ..QueryLimits::default() }, Over::default())
    }

    fn live(budget: &Budget) -> usize {
        budget.live.load(Ordering::Relaxed)
    }

    #[test]
    fn a_result_is_counted_until_its_last_slice_is_gone() {
        let budget = budget(1 << 20);
        let texts = StringArray::from_iter_values((0..1_000).map(|row| format!("a text of row {row}")));
        let (before, expected) = (texts.get_array_memory_size(), texts.clone());
        let kept = budget.keep_array(Arc::new(texts)).expect("fits");
        assert_eq!(kept.as_string::<i32>(), &expected);
        assert_eq!(live(&budget), before);
        let slice = kept.slice(998, 2);
        drop(kept);
        assert_eq!(live(&budget), before, "its slice keeps the memory");
        assert_eq!(slice.as_string::<i32>().value(1), "a text of row 999");
        drop(slice);
        assert_eq!(live(&budget), 0);
    }

    #[test]
    fn what_is_too_much_is_refused_and_not_counted() {
        let budget = budget(100_000);
        let numbers = || Arc::new(Float64Array::from(vec![1.5; 8_000]));
        let first = budget.keep_array(numbers()).expect("fits");
        let error = budget.keep_array(numbers()).expect_err("too much");
        assert!(matches!(error, DataFusionError::ResourcesExhausted(_)), "{error}");
        assert_eq!(first.as_primitive::<Float64Type>().value(7_999).to_bits(), 1.5_f64.to_bits());
        drop(first);
        assert_eq!(live(&budget), 0);
        budget.keep_array(numbers()).expect("there is room again");
    }

    #[test]
    fn every_kind_of_array_stays_what_it_is() {
        let budget = budget(1 << 24);
        let views = StringViewArray::from_iter_values((0..1_000).map(|row| format!("a long text of row {row}")));
        let nulls = Float64Array::from_iter((0..1_000).map(|row| (row % 3 > 0).then(|| f64::from(row))));
        let arrays: [ArrayRef; 3] = [Arc::new(views.slice(3, 900)), Arc::new(nulls.slice(5, 700)), Arc::new(nulls)];
        for array in arrays {
            let kept = budget.keep_array(Arc::clone(&array)).expect("fits");
            assert_eq!(kept.to_data(), array.to_data());
        }
        assert_eq!(live(&budget), 0);
    }

    #[test]
    fn claims_grow_and_shrink() {
        let budget = budget(100);
        let mut claim = Claim::new(&budget);
        claim.resize(60).expect("fits");
        claim.grow(41).expect_err("too much");
        claim.grow(40).expect("fits");
        claim.resize(10).expect("less");
        assert_eq!(live(&budget), 10);
        drop(claim);
        assert_eq!(live(&budget), 0);
    }
}
