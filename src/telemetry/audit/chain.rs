//! The chain: each line's MAC covers the line and the MAC before it.

use std::io::BufRead;

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use serde::Deserialize;

use super::line::TORN;

/// What a line ends in: this, 64 hex digits, and `"}`.
const MARK: &str = ",\"doorward.mac\":\"";
const END: &str = "\"}";
const MAC: usize = 64;

/// The place that a chain has reached: its name, the number of its last line, and that line's MAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub chain: String,
    /// 1 is the first line.
    pub seq: u64,
    /// 32 bytes in hex.
    pub mac: String,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    #[error("line {line}: it was changed, or put here from elsewhere")]
    Changed { line: u64 },
    #[error("line {line}: {count} lines before it are missing")]
    Missing { line: u64, count: u64 },
    #[error("line {line}: it stands here again, or too late")]
    Misplaced { line: u64 },
    #[error("line {line}: it is no line of an audit log")]
    Strange { line: u64 },
    #[error("line {line}: another chain begins; an audit log is never begun anew in the same file")]
    OtherChain { line: u64 },
    #[error("the end is cut off: line number {seq} was written once, and is not here")]
    CutOff { seq: u64 },
    #[error(
        "line number {seq} has another MAC than the head that was kept: the chain was written anew"
    )]
    Rewritten { seq: u64 },
}

/// What reading a file told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub lines: u64,
    /// The number of the first line; more than 1 where an older file holds the beginning.
    pub first: u64,
    pub last: Option<Head>,
    /// Lines that a power cut broke; the log says so itself, and nothing was changed.
    pub torn: u64,
    /// Whether another chain begins in this file than the one before had.
    pub anew: bool,
    pub findings: Vec<Finding>,
}

/// What a line says of its place.
#[derive(Deserialize)]
struct Place {
    #[serde(rename = "@timestamp", default)]
    timestamp: String,
    #[serde(rename = "doorward.chain")]
    chain: String,
    #[serde(rename = "doorward.seq")]
    seq: u64,
    #[serde(rename = "event.action")]
    action: String,
}

/// Appends the MAC to the text of a line, which is a JSON object.
pub(super) fn seal(key: &hmac::Key, before: &str, text: &str) -> (String, String) {
    let open = text.strip_suffix('}').unwrap_or(text);
    let mac = mac(key, before, open);
    (format!("{open}{MARK}{mac}{END}\n"), mac)
}

fn mac(key: &hmac::Key, before: &str, open: &str) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(before.as_bytes());
    context.update(open.as_bytes());
    HEXLOWER.encode(context.sign().as_ref())
}

/// A line apart: what the MAC covers, and the MAC. `None` when it is no line of ours.
fn apart(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_suffix(END)?;
    let (open, mac) = rest.split_at_checked(rest.len().checked_sub(MAC)?)?;
    Some((open.strip_suffix(MARK)?, mac))
}

/// Where a line stands, if it is one of ours. Says nothing about its MAC.
pub(super) fn head_of_line(line: &str) -> Option<Head> {
    let (_, mac) = apart(line)?;
    let place: Place = serde_json::from_str(line).ok()?;
    Some(Head { chain: place.chain, seq: place.seq, mac: mac.to_owned() })
}

/// Reads a log of one file from its beginning and says everything that is wrong with it. `heads` are
/// places that were kept elsewhere; those of other chains say nothing here.
///
/// # Errors
/// When reading fails.
pub fn verify(file: impl BufRead, key: &hmac::Key, heads: &[Head]) -> std::io::Result<Report> {
    let mut check = Verifier::new(key, heads);
    let mut report = check.file(file)?;
    report.findings.extend(check.conclude());
    Ok(report)
}

/// Where a file of a rotated log belongs: files are read in the order of this.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Start {
    /// When its first line was written, as it says.
    pub timestamp: String,
    pub chain: String,
    pub seq: u64,
}

/// What the first line that can be read says of its file. Believed for the order of files only.
///
/// # Errors
/// When reading fails.
pub fn start_of(file: impl BufRead) -> std::io::Result<Option<Start>> {
    for line in file.split(b'\n') {
        if let Ok(Place { timestamp, chain, seq, .. }) = serde_json::from_slice(&line?) {
            return Ok(Some(Start { timestamp, chain, seq }));
        }
    }
    Ok(None)
}

/// Reads the files of one log, the oldest first. The chain goes on from file to file, so that a file
/// that is gone from between two others is found like a line.
pub struct Verifier<'a> {
    key: &'a hmac::Key,
    heads: &'a [Head],
    /// Of the file at hand.
    report: Report,
    /// The last line of all files so far.
    last: Option<Head>,
    /// A line that is none, until the next one explains it.
    strange: Option<u64>,
}

impl<'a> Verifier<'a> {
    /// Nothing is read yet.
    pub fn new(key: &'a hmac::Key, heads: &'a [Head]) -> Verifier<'a> {
        Verifier { key, heads, report: Report::default(), last: None, strange: None }
    }

    /// Reads the next file.
    ///
    /// # Errors
    /// When reading fails.
    pub fn file(&mut self, file: impl BufRead) -> std::io::Result<Report> {
        for line in file.split(b'\n') {
            self.line(&line?);
        }
        self.say_strange();
        Ok(std::mem::take(&mut self.report))
    }

    /// After the last file: what kept heads say that is not here.
    pub fn conclude(self) -> Option<Finding> {
        self.last.as_ref().and_then(|last| self.cut_off(last))
    }

    fn line(&mut self, bytes: &[u8]) {
        self.report.lines += 1;
        let number = self.report.lines;
        let read = std::str::from_utf8(bytes).ok().and_then(|text| {
            let (open, mac) = apart(text)?;
            Some((open, mac, serde_json::from_str::<Place>(text).ok()?))
        });
        let Some((open, written, place)) = read else {
            self.say_strange();
            self.strange = Some(number);
            return;
        };
        let sound = self.follows(number, open, written, &place);
        if self.strange.take_if(|_| sound && place.action == TORN).is_some() {
            self.report.torn += 1;
        }
        self.say_strange();
        self.compare_with_heads(written, &place);
        let head = Head { chain: place.chain, seq: place.seq, mac: written.to_owned() };
        self.report.last = Some(head.clone());
        self.last = Some(head);
    }

    /// Whether the line is the one that comes next, unchanged.
    fn follows(&mut self, number: u64, open: &str, written: &str, place: &Place) -> bool {
        if self.report.last.is_none() {
            self.report.first = place.seq;
            self.begin_anew(place);
        }
        let Some(last) = &self.last else {
            // Without the line before, the first of a later file cannot be checked; its followers are.
            if place.seq == 1 && mac(self.key, "", open) != written {
                self.report.findings.push(Finding::Changed { line: number });
                return false;
            }
            return true;
        };
        let finding = if place.chain != last.chain {
            Finding::OtherChain { line: number }
        } else if place.seq > last.seq + 1 {
            Finding::Missing { line: number, count: place.seq - last.seq - 1 }
        } else if place.seq <= last.seq {
            Finding::Misplaced { line: number }
        } else if mac(self.key, &last.mac, open) != written {
            Finding::Changed { line: number }
        } else {
            return true;
        };
        self.report.findings.push(finding);
        false
    }

    /// A file may begin another chain: the one before was moved away while no gateway ran. Nobody can
    /// begin one without the key.
    fn begin_anew(&mut self, place: &Place) {
        let is_other = |last: &mut Head| place.seq == 1 && place.chain != last.chain;
        if let Some(before) = self.last.take_if(is_other) {
            self.report.anew = true;
            self.report.findings.extend(self.cut_off(&before));
        }
    }

    fn cut_off(&self, last: &Head) -> Option<Finding> {
        let kept = self.heads.iter().filter(|head| head.chain == last.chain);
        let seq = kept.map(|head| head.seq).max().filter(|seq| *seq > last.seq)?;
        Some(Finding::CutOff { seq })
    }

    fn compare_with_heads(&mut self, written: &str, place: &Place) {
        let kept =
            self.heads.iter().find(|head| head.chain == place.chain && head.seq == place.seq);
        if kept.is_some_and(|head| head.mac != written) {
            self.report.findings.push(Finding::Rewritten { seq: place.seq });
        }
    }

    fn say_strange(&mut self) {
        if let Some(line) = self.strange.take() {
            self.report.findings.push(Finding::Strange { line });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[7; 32])
    }

    fn log(lines: u64) -> (Vec<String>, Vec<Head>) {
        let (mut out, mut heads, mut before) = (Vec::new(), Vec::new(), String::new());
        for seq in 1..=lines {
            let text = format!(
                r#"{{"event.action":"session.login","user.name":"user{seq}","doorward.chain":"c","doorward.seq":{seq}}}"#
            );
            let (line, mac) = seal(&key(), &before, &text);
            heads.push(Head { chain: "c".into(), seq, mac: mac.clone() });
            out.push(line);
            before = mac;
        }
        (out, heads)
    }

    fn findings(lines: &[String], heads: &[Head]) -> Vec<Finding> {
        verify(lines.concat().as_bytes(), &key(), heads).expect("memory").findings
    }

    #[test]
    fn an_untouched_log_is_sound() {
        let (lines, heads) = log(5);
        let report = verify(lines.concat().as_bytes(), &key(), &heads).expect("memory");
        assert_eq!((report.lines, report.first, report.findings), (5, 1, vec![]));
        assert_eq!(report.last, heads.last().cloned());
    }

    #[test]
    fn an_edited_line_is_found() {
        let (mut lines, _) = log(5);
        lines[2] = lines[2].replace("user3", "user9");
        assert_eq!(findings(&lines, &[]), [Finding::Changed { line: 3 }]);
    }

    #[test]
    fn a_line_made_with_another_key_is_found() {
        let (mut lines, heads) = log(3);
        let other = hmac::Key::new(hmac::HMAC_SHA256, &[8; 32]);
        let text = r#"{"event.action":"x","doorward.chain":"c","doorward.seq":4}"#;
        lines.push(seal(&other, &heads[2].mac, text).0);
        assert_eq!(findings(&lines, &[]), [Finding::Changed { line: 4 }]);
    }

    #[test]
    fn a_removed_a_repeated_and_a_swapped_line_are_found() {
        let (lines, _) = log(5);
        let removed = [&lines[..2], &lines[3..]].concat();
        assert_eq!(findings(&removed, &[]), [Finding::Missing { line: 3, count: 1 }]);
        let repeated = [&lines[..3], &lines[2..]].concat();
        assert_eq!(findings(&repeated, &[]), [Finding::Misplaced { line: 4 }]);
        let mut swapped = lines;
        swapped.swap(1, 2);
        assert!(!findings(&swapped, &[]).is_empty());
    }

    #[test]
    fn a_cut_off_end_is_found_by_a_head_that_was_kept() {
        let (lines, heads) = log(5);
        assert_eq!(findings(&lines[..3], &[]), []);
        assert_eq!(findings(&lines[..3], &heads[4..]), [Finding::CutOff { seq: 5 }]);
    }

    #[test]
    fn a_chain_written_anew_is_found_by_a_head_that_was_kept() {
        let (lines, mut heads) = log(5);
        heads[1].mac = "0".repeat(64);
        assert_eq!(findings(&lines, &heads[1..2]), [Finding::Rewritten { seq: 2 }]);
    }

    #[test]
    fn another_chain_in_the_same_file_and_a_line_that_is_none_are_found() {
        let (lines, _) = log(2);
        let other: Vec<String> = lines.iter().map(|line| line.replace("\"c\"", "\"d\"")).collect();
        assert!(
            findings(&[lines.clone(), other].concat(), &[])
                .contains(&Finding::OtherChain { line: 3 })
        );
        let strange = [lines.as_slice(), &["nonsense\n".to_owned()]].concat();
        assert_eq!(findings(&strange, &[]), [Finding::Strange { line: 3 }]);
    }

    #[test]
    fn a_later_file_of_a_rotated_log_is_sound_by_itself() {
        let (lines, _) = log(5);
        let report = verify(lines[2..].concat().as_bytes(), &key(), &[]).expect("memory");
        assert_eq!((report.first, report.findings), (3, vec![]));
    }

    #[test]
    fn a_line_that_a_power_cut_broke_is_told_apart_from_an_attack() {
        let (mut lines, heads) = log(2);
        lines.push("{\"event.action\":\"sess\n".to_owned());
        let text = format!(r#"{{"event.action":"{TORN}","doorward.chain":"c","doorward.seq":3}}"#);
        lines.push(seal(&key(), &heads[1].mac, &text).0);
        let report = verify(lines.concat().as_bytes(), &key(), &[]).expect("memory");
        assert_eq!((report.torn, report.findings), (1, vec![]));
    }
}
