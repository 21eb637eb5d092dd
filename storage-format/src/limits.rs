//! Upper limits of the formats. A decoder rejects anything larger before it allocates.

/// Largest frame, in bytes. Limits what a connection may hold in memory before the frame is checked.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Most readings in a frame.
pub const FRAME_READINGS_MAX: usize = 65_536;

/// Most channels in a frame.
pub const FRAME_CHANNELS_MAX: usize = 16;

/// Upper limit of readings times channels in a frame. A decoded frame takes eight bytes for each cell, measured or not:
/// 2 MiB at most.
pub const FRAME_CELLS_MAX: usize = 262_144;

/// Most decimals of a scaled value. Ten to this power, and every mantissa allowed with it, are exact in an `f64`.
pub const FRAME_EXPONENT_MAX: u8 = 15;

/// Size of a disk sector, which is assumed to be written completely or not at all. WAL blocks are aligned to it.
pub const WAL_SECTOR_BYTES: usize = 512;

/// Size of the WAL file header: a full page, so that no block shares a page with it.
pub const WAL_FILE_HEADER_BYTES: usize = 4096;

/// Largest WAL block, in bytes. Limits what one group commit writes and what a scan decrypts at a time.
pub const WAL_BLOCK_BYTES_MAX: usize = 16 << 20;

/// Largest WAL file, in bytes. A scan holds one file in memory.
pub const WAL_FILE_BYTES_MAX: u64 = 1 << 30;

const _: () = {
    // The largest frame fits twice into a block, and the largest block fits into a file.
    assert!(FRAME_BYTES_MAX * 2 <= WAL_BLOCK_BYTES_MAX);
    assert!(WAL_FILE_HEADER_BYTES as u64 + WAL_BLOCK_BYTES_MAX as u64 <= WAL_FILE_BYTES_MAX);
    assert!(WAL_FILE_HEADER_BYTES.is_multiple_of(WAL_SECTOR_BYTES));
    assert!(WAL_BLOCK_BYTES_MAX.is_multiple_of(WAL_SECTOR_BYTES));
    // Offsets and lengths within a frame and a block are written as u32.
    assert!(WAL_BLOCK_BYTES_MAX < u32::MAX as usize);
    assert!(FRAME_CELLS_MAX >= FRAME_READINGS_MAX);
};
