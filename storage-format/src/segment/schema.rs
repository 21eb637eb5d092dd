//! Arrow schemas of readings, conflicts and fills. Column order is part of the format.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::{Channel, ChannelCode};

/// Columns of a conflicts object, in order.
pub const CONFLICT_COLUMNS: [&str; 7] = ["logger", "time", "channel", "kept", "refused", "gateway", "received"];

/// Columns of a fills object, in order.
pub const FILL_COLUMNS: [&str; 7] = ["logger", "time", "channel", "value", "flush", "gateway", "received"];

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// Returns the schema of readings with these channels, which must be known and ascending: `logger`, `time`, one
/// nullable column per channel, `gateway`, `received`.
///
/// # Panics
/// When a channel is not in the registry. Decoded frames and segments never have such a channel.
#[must_use]
pub fn readings_schema(channels: &[ChannelCode]) -> SchemaRef {
    let mut fields = vec![Field::new("logger", DataType::UInt64, false), Field::new("time", timestamp(), false)];
    for code in channels {
        let channel = code.channel().expect("the decoders reject unknown channels");
        fields.push(Field::new(channel.name, DataType::Float64, true));
    }
    fields.push(Field::new("gateway", DataType::UInt64, false));
    fields.push(Field::new("received", timestamp(), false));
    Arc::new(Schema::new(fields))
}

/// Name of the column that a segment of several flushes has after the others.
pub const FLUSH_COLUMN: &str = "flush";

/// Returns the schema of readings of several flushes: that of [`readings_schema`], then `flush`, the number of the flush
/// in which the row first was.
///
/// # Panics
/// As [`readings_schema`].
#[must_use]
pub fn merged_readings_schema(channels: &[ChannelCode]) -> SchemaRef {
    let readings = readings_schema(channels);
    let flush = Arc::new(Field::new(FLUSH_COLUMN, DataType::UInt64, false));
    Arc::new(Schema::new(readings.fields().iter().cloned().chain([flush]).collect::<Vec<_>>()))
}

/// Returns the schema of conflicts.
#[must_use]
pub fn conflicts_schema() -> SchemaRef {
    let types = [
        DataType::UInt64,
        timestamp(),
        DataType::Utf8,
        DataType::Float64,
        DataType::Float64,
        DataType::UInt64,
        timestamp(),
    ];
    let fields: Vec<Field> =
        CONFLICT_COLUMNS.into_iter().zip(types).map(|(name, kind)| Field::new(name, kind, false)).collect();
    Arc::new(Schema::new(fields))
}

/// Returns the schema of fills.
#[must_use]
pub fn fills_schema() -> SchemaRef {
    let types = [
        DataType::UInt64,
        timestamp(),
        DataType::Utf8,
        DataType::Float64,
        DataType::UInt64,
        DataType::UInt64,
        timestamp(),
    ];
    let fields: Vec<Field> =
        FILL_COLUMNS.into_iter().zip(types).map(|(name, kind)| Field::new(name, kind, false)).collect();
    Arc::new(Schema::new(fields))
}

/// Returns the channels of a schema of readings in its order: its `Float64` columns.
#[must_use]
pub fn channels_of(schema: &Schema) -> Vec<ChannelCode> {
    let values = schema.fields().iter().filter(|field| field.data_type() == &DataType::Float64);
    values.filter_map(|field| Channel::by_name(field.name())).map(|channel| channel.code).collect()
}
