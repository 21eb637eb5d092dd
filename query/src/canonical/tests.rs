//! Tests of canonical arrays, and of the plan that makes them.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, Float64Array, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, Float64Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::*;

fn bits(array: &ArrayRef) -> Vec<Option<u64>> {
    array.as_primitive::<Float64Type>().iter().map(|value| value.map(f64::to_bits)).collect()
}

#[test]
fn zeros_and_nans_become_one_each() {
    let values = [Some(-0.0), None, Some(1.5), Some(-f64::NAN), Some(f64::from_bits(0x7FF0_0000_0000_0001))];
    let array: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
    let canonical = canonical_array(&array).expect("floats").expect("it changes");
    let (zero, nan) = (Some(0.0_f64.to_bits()), Some(f64::NAN.to_bits()));
    assert_eq!(bits(&canonical), [zero, None, Some(1.5_f64.to_bits()), nan, nan]);
    assert!(canonical_array(&canonical).expect("floats").is_none(), "nothing is left to do");
}

#[test]
fn what_is_canonical_is_not_copied() {
    let mut values = vec![0.0, f64::MIN_POSITIVE, -5e-324, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -1.0];
    values.resize(EXAMINED_AT_ONCE * 2 + 3, 4.25);
    let array: ArrayRef = Arc::new(Float64Array::from(values.clone()));
    assert!(canonical_array(&array).expect("floats").is_none());
    // The last one, past the last whole chunk.
    values.push(-0.0);
    let array: ArrayRef = Arc::new(Float64Array::from(values));
    assert!(canonical_array(&array).expect("floats").is_some());
}

#[test]
fn floats_within_lists_are_found() {
    let items = Arc::new(Float32Array::from(vec![1.0, -0.0, 2.0]));
    let field = Arc::new(Field::new("item", DataType::Float32, true));
    let list: ArrayRef = Arc::new(ListArray::new(field, OffsetBuffer::from_lengths([1, 2]), items, None));
    let canonical = canonical_array(&list).expect("lists").expect("it changes");
    let items = canonical.as_list::<i32>().values().as_primitive::<Float32Type>().clone();
    assert_eq!(items.value(1).to_bits(), 0.0_f32.to_bits());
    assert_eq!(canonical.data_type(), list.data_type());
    let scalar = ScalarValue::try_from_array(&list, 1).expect("a list");
    assert!(canonical_scalar(&scalar).expect("a list").is_some());
}

/// One large segment is read in as many parts as there are threads, although this plan is between it and what computes.
#[tokio::test]
async fn a_large_file_below_is_split() {
    #[derive(Debug)]
    struct Large(SchemaRef);

    #[async_trait]
    impl TableProvider for Large {
        fn schema(&self) -> SchemaRef {
            Arc::clone(&self.0)
        }

        fn table_type(&self) -> TableType {
            TableType::Base
        }

        async fn scan(
            &self,
            _: &dyn Session,
            projection: Option<&Vec<usize>>,
            _: &[Expr],
            _: Option<usize>,
        ) -> Result<Arc<dyn ExecutionPlan>> {
            let mut statistics = Statistics::new_unknown(&self.0);
            statistics.num_rows = Precision::Exact(100_000_000);
            let url = ObjectStoreUrl::parse("large://files")?;
            let config = FileScanConfigBuilder::new(url, Arc::new(ParquetSource::new(Arc::clone(&self.0))))
                .with_file(PartitionedFile::new("large.parquet", 1 << 30))
                .with_statistics(statistics)
                .with_projection_indices(projection.cloned())?;
            Ok(CanonicalFloatsExec::over(DataSourceExec::from_data_source(config.build())))
        }
    }

    let fields = ["x", "y"].map(|name| Field::new(name, DataType::Float64, true));
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(4));
    context.register_table("large", Arc::new(Large(Arc::new(Schema::new(fields.to_vec()))))).expect("registers");
    for sql in ["SELECT sum(x) FROM large", "SELECT count(*) FROM large WHERE x > 0", "SELECT y, x FROM large LIMIT 3"]
    {
        let plan = context.sql(sql).await.expect("plans").create_physical_plan().await.expect("plans");
        let plan = displayable(plan.as_ref()).indent(false).to_string();
        assert!(plan.contains("CanonicalFloatsExec") && plan.contains("4 groups"), "{sql}: {plan}");
    }
}
