//! The time as RFC 3339 with nanoseconds in UTC, written without allocation: the log has one for each line.

use rustix::time::{ClockId, clock_gettime};

/// `2006-01-02T15:04:05.999999999Z`.
pub(crate) const STAMP_BYTES: usize = 30;

/// Days since 1970 as year, month, day (proleptic Gregorian; the era has 146,097 days).
fn civil(days: i64) -> (i64, u64, u64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097) as u64;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era as i64 + era * 400 + i64::from(month <= 2), month, day)
}

fn digits(target: &mut [u8], mut value: u64) {
    for digit in target.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// The stamp of a point in time.
pub(crate) fn stamp_of(seconds: i64, nanoseconds: u32) -> [u8; STAMP_BYTES] {
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400) as u64;
    digits(&mut text[0..4], year.clamp(0, 9999) as u64);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], second / 3600);
    digits(&mut text[14..16], second / 60 % 60);
    digits(&mut text[17..19], second % 60);
    digits(&mut text[20..29], nanoseconds.into());
    text
}

/// Now.
pub(crate) fn stamp() -> [u8; STAMP_BYTES] {
    let now = clock_gettime(ClockId::Realtime);
    stamp_of(now.tv_sec, now.tv_nsec as u32)
}

/// Now as text.
pub(crate) fn now() -> String {
    String::from_utf8_lossy(&stamp()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_jiff(seconds in 0i64..253_402_300_799, nanoseconds in 0u32..1_000_000_000) {
            let expected = Timestamp::new(seconds, nanoseconds as i32).unwrap();
            let ours = stamp_of(seconds, nanoseconds);
            let parsed: Timestamp = std::str::from_utf8(&ours).unwrap().parse().unwrap();
            prop_assert_eq!(parsed, expected);
        }
    }
}
