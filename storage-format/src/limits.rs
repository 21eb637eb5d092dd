//! What the formats promise at most: a decoder refuses what is larger before it allocates anything.

/// A frame's bytes. Bounds what a connection may hold in memory before anything is checked.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Readings in a frame.
pub const FRAME_READINGS_MAX: usize = 65_536;

/// Channels in a frame.
pub const FRAME_CHANNELS_MAX: usize = 16;

/// Readings times channels in a frame: decoded, a frame takes eight bytes for each, whether measured or not. 2 MiB.
pub const FRAME_CELLS_MAX: usize = 262_144;

/// Decimals of a scaled value. Ten to this power, and every mantissa allowed beside it, are exact in an `f64`.
pub const FRAME_EXPONENT_MAX: u8 = 15;

/// What a disk writes wholly or not at all. WAL blocks start and end on such a border.
pub const WAL_SECTOR_BYTES: usize = 512;

/// The WAL file header. A whole page, so that no block shares one with it.
pub const WAL_FILE_HEADER_BYTES: usize = 4096;

/// A WAL block. Bounds what one group commit writes, and what a scan decrypts at a time.
pub const WAL_BLOCK_BYTES_MAX: usize = 16 << 20;

/// A WAL file. A scan holds one in memory.
pub const WAL_FILE_BYTES_MAX: u64 = 1 << 30;

const _: () = {
    // The largest frame fits a block with room to spare, and the largest block fits a file.
    assert!(FRAME_BYTES_MAX * 2 <= WAL_BLOCK_BYTES_MAX);
    assert!(WAL_FILE_HEADER_BYTES as u64 + WAL_BLOCK_BYTES_MAX as u64 <= WAL_FILE_BYTES_MAX);
    assert!(WAL_FILE_HEADER_BYTES.is_multiple_of(WAL_SECTOR_BYTES));
    assert!(WAL_BLOCK_BYTES_MAX.is_multiple_of(WAL_SECTOR_BYTES));
    // Offsets and lengths within a frame and a block are written as u32.
    assert!(WAL_BLOCK_BYTES_MAX < u32::MAX as usize);
    assert!(FRAME_CELLS_MAX >= FRAME_READINGS_MAX);
};
