//! How C and C++ code waits for so long at most: by a clock that nobody sets.
//!
//! Kafka's C client waits by `cnd_timedwait`, or by `pthread_cond_timedwait` as RocksDB does, until a time of the computer's clock. Set back by an hour,
//! that lets each wait that is under way last an hour longer: an idle member sends no heartbeats for so long, and doesn't learn that it lost its place. The
//! linker puts what is here in their places (`build.rs`; it takes glibc 2.30). Nothing in the binary makes condition variables that tell time by another
//! clock.
#![allow(unsafe_code, reason = "called by C, and calls it")]

use libc::{CLOCK_MONOTONIC, CLOCK_REALTIME, c_int, clockid_t, pthread_cond_t, pthread_mutex_t, timespec};

const NANOS: i64 = 1_000_000_000;
/// Of C's `threads.h`.
const THRD_SUCCESS: c_int = 0;
const THRD_ERROR: c_int = 2;
const THRD_TIMEDOUT: c_int = 4;

unsafe extern "C" {
    fn pthread_cond_clockwait(condition: *mut pthread_cond_t, mutex: *mut pthread_mutex_t, clock: clockid_t, until: *const timespec) -> c_int;
}

fn now(clock: clockid_t) -> timespec {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it is there to be written to. Both clocks are everywhere, so this can't fail.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now
}

/// The same moment as `until`, by another clock; `wall` and `other` are now.
fn translated(until: &timespec, wall: &timespec, other: &timespec) -> timespec {
    let nanos = other.tv_nsec + until.tv_nsec - wall.tv_nsec;
    let seconds = other.tv_sec.saturating_add(until.tv_sec.saturating_sub(wall.tv_sec));
    // No time is before the clock's beginning.
    timespec { tv_sec: seconds.saturating_add(nanos.div_euclid(NANOS)).max(0), tv_nsec: nanos.rem_euclid(NANOS) }
}

/// `pthread_cond_timedwait`, by a clock that only goes forward.
///
/// # Safety
/// As there: `mutex` is locked by the caller, and all three are valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_pthread_cond_timedwait(condition: *mut pthread_cond_t, mutex: *mut pthread_mutex_t, until: *const timespec) -> c_int {
    // SAFETY: the caller's, who has them from C.
    let until = unsafe { &*until };
    if !(0..NANOS).contains(&until.tv_nsec) {
        return libc::EINVAL;
    }
    let until = translated(until, &now(CLOCK_REALTIME), &now(CLOCK_MONOTONIC));
    // SAFETY: the caller's; the time lives until the call is over.
    unsafe { pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &raw const until) }
}

/// `cnd_timedwait`, likewise. The C library has condition variables and mutexes in one form, whatever the standard that they are of.
///
/// # Safety
/// As there: `mutex` is locked by the caller, and all three are valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_cnd_timedwait(condition: *mut pthread_cond_t, mutex: *mut pthread_mutex_t, until: *const timespec) -> c_int {
    // SAFETY: the caller's.
    match unsafe { __wrap_pthread_cond_timedwait(condition, mutex, until) } {
        0 => THRD_SUCCESS,
        libc::ETIMEDOUT => THRD_TIMEDOUT,
        _ => THRD_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    type Wait = unsafe extern "C" fn(*mut pthread_cond_t, *mut pthread_mutex_t, *const timespec) -> c_int;

    unsafe extern "C" {
        // What C calls, which the linker replaces.
        fn pthread_cond_timedwait(condition: *mut pthread_cond_t, mutex: *mut pthread_mutex_t, until: *const timespec) -> c_int;
        fn cnd_timedwait(condition: *mut pthread_cond_t, mutex: *mut pthread_mutex_t, until: *const timespec) -> c_int;
    }

    fn at(seconds: i64, nanos: i64) -> timespec {
        timespec { tv_sec: seconds, tv_nsec: nanos }
    }

    #[test]
    fn a_moment_by_another_clock() {
        let cases = [
            // until, wall, other, expected
            ((1_000, 5), (900, 0), (7, 0), (107, 5)),
            ((1_000, 400_000_000), (1_000, 600_000_000), (7, 100_000_000), (6, 900_000_000)),
            ((1_000, 900_000_000), (1_000, 100_000_000), (7, 300_000_000), (8, 100_000_000)),
            ((0, 0), (1_000, 0), (7, 0), (0, 0)),
            ((i64::MAX, 0), (1_000, 0), (i64::MAX, 999_999_999), (i64::MAX, 999_999_999)),
        ];
        for (until, wall, other, expected) in cases {
            let found = translated(&at(until.0, until.1), &at(wall.0, wall.1), &at(other.0, other.1));
            assert_eq!((found.tv_sec, found.tv_nsec), expected, "{until:?} at {wall:?}");
        }
    }

    /// Waits for what never comes: the answer, and how long that took.
    fn waited(by: Wait, millis: i64) -> (c_int, Duration) {
        let (mut condition, mut mutex) = (libc::PTHREAD_COND_INITIALIZER, libc::PTHREAD_MUTEX_INITIALIZER);
        let (begun, now) = (Instant::now(), now(CLOCK_REALTIME));
        let nanos = now.tv_nsec + millis * 1_000_000;
        let until = at(now.tv_sec + nanos.div_euclid(NANOS), nanos.rem_euclid(NANOS));
        // SAFETY: this thread's own, and locked.
        let code = unsafe {
            libc::pthread_mutex_lock(&raw mut mutex);
            let code = by(&raw mut condition, &raw mut mutex, &raw const until);
            libc::pthread_mutex_unlock(&raw mut mutex);
            code
        };
        (code, begun.elapsed())
    }

    #[test]
    fn c_waits_for_as_long_as_it_says() {
        assert_eq!(pthread_cond_timedwait as Wait as usize, __wrap_pthread_cond_timedwait as Wait as usize, "is what C calls");
        assert_eq!(cnd_timedwait as Wait as usize, __wrap_cnd_timedwait as Wait as usize, "is what C calls");
        for (wait, timed_out) in [(pthread_cond_timedwait as Wait, libc::ETIMEDOUT), (cnd_timedwait as Wait, THRD_TIMEDOUT)] {
            let (code, lasted) = waited(wait, 50);
            assert!(code == timed_out && lasted >= Duration::from_millis(50), "{code}, {lasted:?}");
            assert_eq!(waited(wait, -5_000).0, timed_out, "of what is over");
        }
    }
}
