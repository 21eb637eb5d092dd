//! What a planned statement is refused for before it runs, so that the error is the same in every form of answer.

use std::collections::HashSet;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, WindowFrameBound};

use crate::error::QueryError;
use crate::time::{Zone, unknown};

/// The longest name of a column that an error repeats.
const COLUMN_NAME_CHARS_MAX: usize = 100;

/// Names of columns that an error lists at most.
const COLUMN_NAMES_MAX: usize = 3;

/// Rows of a frame before or after the current one. Greater numbers than rows can have overflow where places of rows are
/// added up.
const FRAME_ROWS_MAX: u64 = 1 << 48;

/// Refuses columns that not every form of answer can have.
pub(crate) fn columns(schema: &Schema) -> Result<(), QueryError> {
    only_plain_columns(schema)?;
    distinct_names(schema)
}

/// Refuses nested columns. Not every form of answer has a way to write a list or a struct, CSV would fail half-way; so none
/// of them gets one.
fn only_plain_columns(schema: &Schema) -> Result<(), QueryError> {
    let Some(column) = schema.fields().iter().find(|field| field.data_type().is_nested()) else { return Ok(()) };
    let (kind, instead) = match column.data_type() {
        DataType::Struct(_) => ("a struct", "take its values out with get_field(…, 'name')"),
        DataType::Map(..) => ("a map", "take its values out with get_field(…, 'key')"),
        DataType::Union(..) => ("a union", "take its values out with union_extract(…, 'name')"),
        _ => ("a list", "make a text with string_agg, or ask for rows"),
    };
    let name: String = column.name().chars().take(COLUMN_NAME_CHARS_MAX).collect();
    Err(QueryError::Invalid(format!("the result column `{name}` is {kind}; results have plain columns: {instead}")))
}

/// Refuses two columns of one name: objects and tables of other programs keep one of them.
fn distinct_names(schema: &Schema) -> Result<(), QueryError> {
    let mut seen = HashSet::new();
    let twice: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .filter(|name| !seen.insert(*name))
        .map(|name| name.chars().take(COLUMN_NAME_CHARS_MAX).collect())
        .collect();
    let Some(first) = twice.first() else { return Ok(()) };
    let names = twice[..twice.len().min(COLUMN_NAMES_MAX)].join("`, `");
    let more = if twice.len() > COLUMN_NAMES_MAX { " and others" } else { "" };
    Err(QueryError::Invalid(format!(
        "more than one result column has the name `{names}`{more}; give each a name of its own, such as \
         a.{first} AS a_{first}; SELECT * over a join has the columns of both tables"
    )))
}

/// Refuses bounds of RANGE frames that would be taken for something else: negative ones, and a bare number over times,
/// which DataFusion reads as months.
pub(crate) fn frames(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut refused = None;
    // The walk fails only if the closure does.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Window(window) = node {
            let schema = window.input.schema();
            refused = window.window_expr.iter().find_map(|expr| frame(expr, schema));
        }
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    refused.map_or(Ok(()), |why| Err(QueryError::Invalid(why)))
}

/// Why a window's frame is refused, if it is.
fn frame(expr: &Expr, schema: &DFSchema) -> Option<String> {
    let Expr::WindowFunction(function) = expr.clone().unalias() else { return None };
    let params = &function.params;
    let order = params.order_by.first().and_then(|order| order.expr.get_type(schema).ok());
    let over_times = order.is_some_and(|order| matches!(order, DataType::Timestamp(..) | DataType::Date32));
    [&params.window_frame.start_bound, &params.window_frame.end_bound].into_iter().find_map(|bound| {
        let (WindowFrameBound::Preceding(value) | WindowFrameBound::Following(value)) = bound else { return None };
        if matches!(value, ScalarValue::UInt64(Some(rows)) if *rows > FRAME_ROWS_MAX) {
            return Some(format!(
                "a frame has at most {FRAME_ROWS_MAX} rows on a side; for all of them write UNBOUNDED"
            ));
        }
        let ScalarValue::Utf8(Some(text)) = value else { return None };
        if text.contains('-') {
            Some(format!("the bound '{text}' of a frame is negative; PRECEDING and FOLLOWING say the direction"))
        } else if over_times && text.trim().parse::<f64>().is_ok() {
            Some(format!("a frame over times has intervals for bounds, such as INTERVAL '5 minutes', not {text}"))
        } else {
            None
        }
    })
}

/// Refuses types, wherever the plan has them: with a time zone that does not exist; of a width that the statement
/// chooses, since one value of them can be as large as all memory.
pub(crate) fn types(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut wrong = None;
    let mut look = |data_type: &DataType| {
        wrong = unknown_zone(data_type).map(|zone| unknown(&zone)).or_else(|| unfit(data_type));
        if wrong.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue }
    };
    // The walks fail only if the closures do.
    let _ = plan.apply_with_subqueries(|node| {
        for field in node.schema().fields() {
            if look(field.data_type()) == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        let inputs = node.inputs();
        let schema = if inputs.is_empty() { DFSchema::clone(node.schema()) } else { merge_schema(&inputs) };
        node.apply_expressions(|expr| {
            expr.apply(|expr| Ok(type_of(expr, &schema).map_or(TreeNodeRecursion::Continue, |t| look(&t))))
        })
    });
    match wrong {
        Some(why) => Err(QueryError::Invalid(why)),
        None => Ok(()),
    }
}

fn unfit(data_type: &DataType) -> Option<String> {
    match data_type {
        DataType::FixedSizeList(..)
        | DataType::FixedSizeBinary(_)
        | DataType::Dictionary(..)
        | DataType::RunEndEncoded(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_) => Some(format!("there are no values of the type {data_type} here")),
        _ => None,
    }
}

/// None for what has no type before types are coerced; the parts of it are looked at too.
fn type_of(expr: &Expr, schema: &DFSchema) -> Option<DataType> {
    match expr {
        Expr::Cast(cast) => Some(cast.field.data_type().clone()),
        Expr::TryCast(cast) => Some(cast.field.data_type().clone()),
        Expr::Literal(value, _) => Some(value.data_type()),
        Expr::ScalarFunction(_) => expr.get_type(schema).ok(),
        _ => None,
    }
}

/// The name of a zone that does not exist within a type.
fn unknown_zone(data_type: &DataType) -> Option<String> {
    match data_type {
        DataType::Timestamp(_, Some(zone)) => Zone::named(zone).is_none().then(|| zone.to_string()),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            unknown_zone(field.data_type())
        }
        DataType::Struct(fields) => fields.iter().find_map(|field| unknown_zone(field.data_type())),
        DataType::Dictionary(_, values) => unknown_zone(values),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, Fields};

    use super::*;

    #[test]
    fn nested_columns_are_named() {
        let item = Arc::new(Field::new("item", DataType::Float64, true));
        let fields = Fields::from(vec![Field::new("x", DataType::Float64, true)]);
        let refused = |data_type: DataType| {
            let columns = vec![Field::new("logger", DataType::UInt64, false), Field::new("a", data_type, true)];
            only_plain_columns(&Schema::new(columns)).err().map(|error| error.to_string()).unwrap_or_default()
        };
        for (data_type, kind) in [
            (DataType::List(Arc::clone(&item)), "list"),
            (DataType::LargeList(Arc::clone(&item)), "list"),
            (DataType::FixedSizeList(item, 2), "list"),
            (DataType::Struct(fields.clone()), "struct"),
            (DataType::Map(Arc::new(Field::new("entries", DataType::Struct(fields), false)), false), "map"),
        ] {
            let text = refused(data_type);
            assert!(text.contains("`a`") && text.contains(kind), "{text}");
        }
        for plain in [DataType::Utf8, DataType::Float64, DataType::Null] {
            assert_eq!(refused(plain), "");
        }
    }
}
