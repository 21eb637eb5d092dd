//! The bodies of the fuzz targets that need the whole server: SQL text, CSV of readings, configuration. As in `fuzz`,
//! they are plain functions that take any bytes and panic only when a promise is broken.

/// SQL.
pub fn sql(_data: &[u8]) -> bool {
    true
}
/// CSV.
pub fn csv(_data: &[u8]) -> bool {
    true
}
/// Config.
pub fn config(_data: &[u8]) -> bool {
    true
}
/// Units.
pub fn units(_data: &[u8]) -> bool {
    true
}
