//! How many files this process may have open, and how much of that HTTP may take. Engine, control database and wire
//! need descriptors too, and without one the log cannot go on: nobody who merely connects may take the last of them.

use std::fs;

/// The system's limit for this process; none where it does not tell, or there is none.
#[must_use]
pub fn limit() -> Option<usize> {
    parse(&fs::read_to_string("/proc/self/limits").ok()?)
}

fn parse(limits: &str) -> Option<usize> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

/// What everything but HTTP needs at its default settings, generously: log, control database and threads have some
/// twenty, two flushes that settle 16 segments each have 32, and queries read as many again.
const OTHERS: usize = 128;

/// How many connections HTTP may have at once: what is configured, but no more than the others leave. Where the limit is
/// so low that they leave next to nothing, a quarter of it.
#[must_use]
pub fn http_connections(configured: usize, limit: Option<usize>) -> usize {
    limit.map_or(configured, |limit| configured.min(limit.saturating_sub(OTHERS).max(limit / 4).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_page_is_understood() {
        let page = |soft: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max processes             95854                95854                processes \n\
                 Max open files            {soft}                 1048576              files     \n"
            )
        };
        assert_eq!(parse(&page("1024")), Some(1024));
        assert_eq!(parse(&page("unlimited")), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn http_leaves_the_others_what_they_need() {
        assert_eq!(http_connections(512, None), 512);
        assert_eq!(http_connections(512, Some(1024)), 512);
        assert_eq!(http_connections(512, Some(256)), 128);
        assert_eq!(http_connections(512, Some(64)), 16);
        assert_eq!(http_connections(512, Some(1)), 1, "none at all would answer nobody");
    }
}
