//! Where a test may stop the processor: before and after each thing that a commit does. Only in a build with the feature `failpoints`, which nothing
//! that is released has; there the variable `FAILPOINTS` says what happens where, in the words of the crate `fail`.

/// A commit has come so far.
#[inline]
pub(super) fn reached(point: &'static str) {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(point);
    #[cfg(not(feature = "failpoints"))]
    let _ = point;
}
