//! Columns of rollups: as everybody sees them in memory, and as they are stored.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::RollupGrain;
use crate::{Channel, ChannelCode};

/// An aggregate of a channel's values within a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aggregate {
    /// Number of values.
    Count,
    /// Smallest value.
    Min,
    /// Greatest value.
    Max,
    /// Sum of the values.
    Sum,
    /// Sum of the squares of the values.
    SumSquares,
    /// Earliest value.
    First,
    /// Latest value.
    Last,
    /// Time of the earliest value.
    FirstTime,
    /// Time of the latest value.
    LastTime,
    /// Seconds that values stand for: the sum of the weights.
    Weight,
    /// Sum of values times weights.
    WeightedSum,
    /// Sum of terms of the mean kinetic temperature times weights; NULL for channels that are not in degrees Celsius.
    WeightedMkt,
}

const HOURLY: &[Aggregate] = &[Aggregate::Count, Aggregate::Min, Aggregate::Max, Aggregate::Sum];
const DAILY: &[Aggregate] = &[
    Aggregate::Count,
    Aggregate::Min,
    Aggregate::Max,
    Aggregate::Sum,
    Aggregate::SumSquares,
    Aggregate::First,
    Aggregate::Last,
    Aggregate::FirstTime,
    Aggregate::LastTime,
    Aggregate::Weight,
    Aggregate::WeightedSum,
    Aggregate::WeightedMkt,
];

impl Aggregate {
    /// Returns the aggregates of a channel in rows of this grain, in the order of their columns.
    #[must_use]
    pub const fn of(grain: RollupGrain) -> &'static [Self] {
        match grain {
            RollupGrain::Hourly => HOURLY,
            RollupGrain::Daily => DAILY,
        }
    }

    /// Returns the end of the column's name, after the channel's name and an underscore.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Min => "min",
            Self::Max => "max",
            Self::Sum => "sum",
            Self::SumSquares => "sum_squares",
            Self::First => "first",
            Self::Last => "last",
            Self::FirstTime => "first_time",
            Self::LastTime => "last_time",
            Self::Weight => "weight",
            Self::WeightedSum => "weighted_sum",
            Self::WeightedMkt => "weighted_mkt",
        }
    }

    /// Returns the name of the column of a channel.
    #[must_use]
    pub fn column(self, channel: &Channel) -> String {
        format!("{}_{}", channel.name, self.suffix())
    }

    /// Returns the type of the column.
    #[must_use]
    pub fn data_type(self) -> DataType {
        match self {
            Self::Count => DataType::UInt64,
            Self::FirstTime | Self::LastTime => timestamp(),
            _ => DataType::Float64,
        }
    }
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

fn registered(code: ChannelCode) -> &'static Channel {
    code.channel().expect("the decoders reject unknown channels")
}

/// Returns whether the channel is in degrees Celsius, so that a mean kinetic temperature of it can be asked for.
pub(super) fn is_temperature(code: ChannelCode) -> bool {
    registered(code).unit == "Cel"
}

/// Returns the schema of rollup rows in memory: `logger`, `bucket`, `rows`, then for each channel, in the order given,
/// the columns of [`Aggregate::of`]. All of a channel's columns but the count are NULL where the count is zero.
///
/// # Panics
/// When a channel is not in the registry. Decoded manifests never have such a channel.
#[must_use]
pub fn rollup_schema(grain: RollupGrain, channels: &[ChannelCode]) -> SchemaRef {
    let mut fields = vec![
        Field::new("logger", DataType::UInt64, false),
        Field::new("bucket", timestamp(), false),
        Field::new("rows", DataType::UInt64, false),
    ];
    for &code in channels {
        for &aggregate in Aggregate::of(grain) {
            let nullable = aggregate != Aggregate::Count;
            fields.push(Field::new(aggregate.column(registered(code)), aggregate.data_type(), nullable));
        }
    }
    Arc::new(Schema::new(fields))
}

/// A column of a channel at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Missing,
    Unit,
    Min,
    Range,
    Sum,
    SumSquares,
    First,
    Last,
    FirstAfter,
    LastBefore,
    WeightLess,
    WeightedSum,
    WeightedMkt,
}

const HOURLY_STORED: &[Stored] = &[Stored::Missing, Stored::Unit, Stored::Min, Stored::Range, Stored::Sum];
const DAILY_STORED: &[Stored] = &[
    Stored::Missing,
    Stored::Unit,
    Stored::Min,
    Stored::Range,
    Stored::Sum,
    Stored::SumSquares,
    Stored::First,
    Stored::Last,
    Stored::FirstAfter,
    Stored::LastBefore,
    Stored::WeightLess,
    Stored::WeightedSum,
    Stored::WeightedMkt,
];

impl Stored {
    /// Returns the stored columns of a channel, in their order.
    pub(super) fn of(grain: RollupGrain, code: ChannelCode) -> impl Iterator<Item = Self> {
        let all = match grain {
            RollupGrain::Hourly => HOURLY_STORED,
            RollupGrain::Daily => DAILY_STORED,
        };
        all.iter().copied().filter(move |column| *column != Self::WeightedMkt || is_temperature(code))
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unit => "unit",
            Self::Min => "min",
            Self::Range => "range",
            Self::Sum => "sum",
            Self::SumSquares => "sum_squares",
            Self::First => "first",
            Self::Last => "last",
            Self::FirstAfter => "first_after",
            Self::LastBefore => "last_before",
            Self::WeightLess => "weight_less",
            Self::WeightedSum => "weighted_sum",
            Self::WeightedMkt => "weighted_mkt",
        }
    }

    pub(super) fn column(self, code: ChannelCode) -> String {
        format!("{}_{}", registered(code).name, self.suffix())
    }

    pub(super) const fn is_double(self) -> bool {
        matches!(self, Self::SumSquares | Self::WeightedSum | Self::WeightedMkt)
    }

    pub(super) fn data_type(self) -> DataType {
        if self.is_double() { DataType::Float64 } else { DataType::Int64 }
    }

    /// Returns whether values are small differences of whole numbers that are mostly the same as in the row before.
    pub(super) const fn is_steady(self) -> bool {
        matches!(self, Self::Missing | Self::Unit | Self::Min | Self::FirstAfter | Self::LastBefore | Self::WeightLess)
    }
}

/// Names of the columns of daily rows that state when the first reading was, after the bucket's start, and the last one,
/// before its end.
pub(super) const EDGES: [&str; 2] = ["first_after", "last_before"];

/// Returns the schema at rest of an object with these channels; also, of any such object, the columns that rows with
/// these channels are decoded from.
///
/// # Panics
/// As [`rollup_schema`].
#[must_use]
pub fn stored_schema(grain: RollupGrain, channels: &[ChannelCode]) -> SchemaRef {
    let mut fields = vec![
        Field::new("logger", DataType::UInt64, false),
        Field::new("bucket", timestamp(), false),
        Field::new("rows", DataType::UInt64, false),
    ];
    if grain == RollupGrain::Daily {
        fields.extend(EDGES.map(|name| Field::new(name, DataType::Int64, false)));
    }
    for &code in channels {
        for column in Stored::of(grain, code) {
            let always = matches!(column, Stored::Missing | Stored::Unit);
            fields.push(Field::new(column.column(code), column.data_type(), !always));
        }
    }
    Arc::new(Schema::new(fields))
}
