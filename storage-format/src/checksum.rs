//! CRC32C (Castagnoli, RFC 3720 appendix B.4), stored little endian: notices damage, proves nothing about intent.

/// The CRC32C of these bytes.
#[must_use]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_standard_check_value() {
        assert_eq!(super::crc32c(b"123456789"), 0xE306_9283);
    }
}
