//! Distinguishes the frames of a user from those of a timer. Pure; the time is an argument.
//!
//! Pages send keep-alive messages and poll over WebSockets. Such frames have the same length at the same
//! interval. The frames of a user, such as keystrokes, commands and chat messages, do not.

use crate::clock::UnixMillis;

/// Frames closer together than this count as one arrival, in milliseconds: a timer may send several.
const ONE_ARRIVAL: u64 = 100;

/// Equal intervals after which a frame counts as sent by a timer.
const EQUAL_INTERVALS: u8 = 2;

/// Lengths that are observed at a time. A page has few timers.
const LENGTHS: usize = 8;

/// The rhythm of the frames of one client.
#[derive(Debug, Default)]
pub(super) struct FrameRhythm {
    /// The rhythm of each length, the latest last.
    lengths: Vec<(u64, Rhythm)>,
    /// The rhythm of all frames, because a timer may send different lengths.
    all: Rhythm,
}

impl FrameRhythm {
    /// Returns whether a data frame with this payload length counts as an action of the user.
    pub(super) fn observe(&mut self, length: u64, now: UnixMillis) -> bool {
        let mut rhythm = self.take(length);
        let of_length = rhythm.observe(now);
        self.lengths.push((length, rhythm));
        let of_all = self.all.observe(now);
        matches!((of_length, of_all), (Arrival::Irregular, Arrival::Irregular))
    }

    /// Takes the rhythm of a length, and drops the oldest one if there are too many.
    fn take(&mut self, length: u64) -> Rhythm {
        match self.lengths.iter().position(|(known, _)| *known == length) {
            Some(at) => self.lengths.remove(at).1,
            None => {
                if self.lengths.len() == LENGTHS {
                    self.lengths.remove(0);
                }
                Rhythm::default()
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// Part of the arrival before.
    Same,
    Regular,
    Irregular,
}

/// Arrivals with their last interval.
#[derive(Clone, Copy, Debug, Default)]
struct Rhythm {
    last: Option<UnixMillis>,
    /// In milliseconds; zero before the second arrival.
    interval: u64,
    /// How often the interval was the same as the one before.
    equal: u8,
}

impl Rhythm {
    fn observe(&mut self, now: UnixMillis) -> Arrival {
        let Some(last) = self.last else {
            self.last = Some(now);
            return Arrival::Irregular;
        };
        let interval = now.0.saturating_sub(last.0);
        if interval < ONE_ARRIVAL {
            return Arrival::Same;
        }
        let is_equal = is_similar(interval, self.interval);
        self.equal = if is_equal { self.equal.saturating_add(1) } else { 0 };
        (self.last, self.interval) = (Some(now), interval);
        if self.equal >= EQUAL_INTERVALS { Arrival::Regular } else { Arrival::Irregular }
    }
}

/// Whether two intervals differ by at most a fifth. Timers are late when a page is busy.
fn is_similar(a: u64, b: u64) -> bool {
    a.abs_diff(b) <= a.max(b) / 5
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator of repeatable numbers (xorshift).
    struct Random(u64);

    impl Random {
        fn range(&mut self, from: u64, to: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            from + self.0 % (to - from)
        }
    }

    /// The times, in seconds, of the frames that count. Each frame has a time in milliseconds and a length.
    fn counted(mut frames: Vec<(u64, u64)>) -> Vec<u64> {
        let mut rhythm = FrameRhythm::default();
        frames.sort_unstable();
        let counts = |(at, length): &(u64, u64)| rhythm.observe(*length, UnixMillis(*at));
        frames.into_iter().filter(counts).map(|(at, _)| at / 1000).collect()
    }

    /// A timer over one hour. Each frame is late by up to `late` milliseconds.
    fn timer(every: u64, length: u64, late: u64, random: &mut Random) -> Vec<(u64, u64)> {
        let ticks = 1..3_600_000 / every;
        ticks.map(|tick| (tick * every + random.range(0, late + 1), length)).collect()
    }

    /// Frames of a real page in Chromium: milliseconds since its start and payload length, in lines.
    fn recorded(lines: &str) -> Vec<u64> {
        let frame = |line: &str| {
            let (at, length) = line.split_once('\t').expect("two columns");
            (at.parse().expect("a time"), length.parse().expect("a length"))
        };
        counted(lines.lines().map(frame).collect())
    }

    /// Cockpit sends a reply every 5 s, a ping every 30 s and a command every 60 s. The others send nothing.
    #[test]
    fn abandoned_pages_of_real_apps_do_not_count_after_minutes() {
        for (app, lines) in [
            ("Cockpit", include_str!("../../tests/data/frames/cockpit-abandoned.tsv")),
            ("JupyterLab", include_str!("../../tests/data/frames/jupyter-abandoned.tsv")),
            ("Node-RED", include_str!("../../tests/data/frames/node-red-abandoned.tsv")),
        ] {
            let last = recorded(lines).last().copied();
            assert!(last <= Some(200), "{app}: the last at {last:?} s of 660 s");
        }
    }

    /// Commands typed into a terminal, and values entered in a form, with up to a minute between them.
    #[test]
    fn work_in_real_apps_counts() {
        for (app, lines) in [
            ("Cockpit", include_str!("../../tests/data/frames/cockpit-terminal.tsv")),
            ("JupyterLab", include_str!("../../tests/data/frames/jupyter-terminal.tsv")),
            ("Streamlit", include_str!("../../tests/data/frames/streamlit-input.tsv")),
        ] {
            let counted = recorded(lines);
            let gap = counted.windows(2).map(|pair| pair[1] - pair[0]).max();
            assert!(gap <= Some(120), "{app}: the longest time without activity: {gap:?} s");
            assert!(counted.last() >= Some(&360), "{app}: {counted:?}");
        }
    }

    #[test]
    fn keep_alive_frames_of_a_timer_do_not_count() {
        let mut random = Random(1);
        for (every, late) in [(1_000, 90), (5_000, 400), (15_000, 1_000), (30_000, 2_000)] {
            let frames = timer(every, 12, late, &mut random);
            let last = counted(frames).last().copied().unwrap_or_default();
            assert!(last <= 4 * every / 1000, "every {every} ms: the last at {last} s");
        }
    }

    #[test]
    fn several_timers_of_one_page_do_not_count() {
        let mut random = Random(2);
        let mut frames = timer(25_000, 1, 500, &mut random);
        frames.extend(timer(10_000, 40, 500, &mut random));
        // Two frames of one length at once.
        frames.extend(timer(30_000, 7, 0, &mut random));
        frames.extend(timer(30_000, 7, 20, &mut random));
        let last = counted(frames).last().copied();
        assert!(last <= Some(120), "the last at {last:?} s");
    }

    #[test]
    fn a_timer_with_varying_lengths_does_not_count() {
        let frames = (1..120).map(|tick| (tick * 30_000, 100 + tick * 37 % 50)).collect();
        let last = counted(frames).last().copied();
        assert!(last <= Some(120), "the last at {last:?} s");
    }

    #[test]
    fn the_work_of_a_user_counts_beside_a_timer() {
        let mut random = Random(3);
        let mut frames = timer(25_000, 1, 500, &mut random);
        let mut at = 0;
        // A few keystrokes of one length, then a pause of up to four minutes.
        while at < 3_500_000 {
            for _ in 0..random.range(2, 30) {
                at += random.range(110, 900);
                frames.push((at, 30));
            }
            at += random.range(10_000, 240_000);
        }
        let counted = counted(frames);
        let gap = counted.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(gap <= Some(300), "the longest time without activity: {gap:?} s");
        assert!(counted.last() >= Some(&3_200), "{counted:?}");
    }

    #[test]
    fn single_messages_count() {
        let frames = vec![(60_000, 80), (400_000, 80), (600_000, 81), (1_700_000, 80)];
        assert_eq!(counted(frames), [60, 400, 600, 1_700]);
    }
}
