//! Where a test may stop the processor: before and after each thing that a commit does. Only in a build with the feature `failpoints`, which nothing
//! that is released has; there the variable `FAILPOINTS` says what happens where, in the words of the crate `fail`, and `CALLSIEVE_TEST_BATCH` how
//! many records a commit has at most.

/// A commit has come so far.
#[inline]
pub(super) fn reached(point: &'static str) {
    #[cfg(feature = "failpoints")]
    {
        let begun = std::time::Instant::now();
        fail::fail_point!(point);
        if begun.elapsed() >= std::time::Duration::from_secs(1) {
            tracing::info!("held up at {point}");
        }
    }
    #[cfg(not(feature = "failpoints"))]
    let _ = point;
}

/// Records of a commit, which are `full` but where a test wants fewer, so that full ones occur.
pub(super) fn batch(full: usize) -> usize {
    let wanted = if cfg!(feature = "failpoints") { std::env::var("CALLSIEVE_TEST_BATCH").ok() } else { None };
    wanted.map_or(full, |wanted| wanted.parse().expect("CALLSIEVE_TEST_BATCH is a number of records"))
}
