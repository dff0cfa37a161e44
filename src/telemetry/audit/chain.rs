//! The chain: each line's MAC covers the line and the MAC before it.

use std::collections::{BTreeMap, BTreeSet};
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
    #[error(
        "line {line}: lines {from} to {} are not here; verify the older files too, or say --from {first} if they were deleted on purpose",
        first - 1
    )]
    BeginsLate { line: u64, from: u64, first: u64 },
    #[error(
        "line {line}: an older version wrote it, and only the line before shows whether it was changed; verify the older file too, or give the head of that line with --heads"
    )]
    Unproved { line: u64 },
    #[error("line {line}: it stands here again, or too late")]
    Misplaced { line: u64 },
    #[error("line {line}: it is no line of an audit log")]
    Strange { line: u64 },
    #[error("line {line}: another chain begins; an audit log is never begun anew in the same file")]
    OtherChain { line: u64 },
    #[error("the end is cut off: line number {seq} was written once, and is not here")]
    CutOff { seq: u64 },
    #[error(
        "line number {seq} of the chain {chain} was written once, and none of that chain is here; if its files were deleted on purpose, or are another gateway's, say --without {chain}"
    )]
    Gone { chain: String, seq: u64 },
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

/// What is known of a log beside its files.
#[derive(Clone, Debug)]
pub struct Known {
    /// Places that were kept elsewhere.
    pub heads: Vec<Head>,
    /// The line that the oldest file begins with, at the latest: older ones were deleted on purpose.
    pub from: u64,
    /// Chains whose files are not among these, on purpose.
    pub without: Vec<String>,
}

impl Default for Known {
    /// No head, and all lines are there.
    fn default() -> Known {
        Known { heads: Vec::new(), from: 1, without: Vec::new() }
    }
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
    /// The MAC of the line before. Lines of older versions and the first of a chain have none.
    #[serde(rename = "doorward.prev", default)]
    before: Option<String>,
    #[serde(rename = "event.action")]
    action: String,
}

impl Place {
    fn read(line: &str) -> Option<Place> {
        let place: Place = serde_json::from_str(line).ok()?;
        is_name(&place.chain).then_some(place)
    }
}

/// Whether this may be the name of a chain. Whoever wrote a file must not write to a terminal by it.
pub(super) fn is_name(chain: &str) -> bool {
    (1..=64).contains(&chain.len()) && chain.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Whether this may be the MAC of a line.
pub(super) fn is_mac(text: &str) -> bool {
    text.len() == MAC && text.bytes().all(|byte| byte.is_ascii_hexdigit())
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
    Some((open.strip_suffix(MARK)?, mac)).filter(|(_, mac)| is_mac(mac))
}

/// Where a line stands, if it is one of ours. Says nothing about its MAC.
pub(super) fn head_of_line(line: &str) -> Option<Head> {
    let (_, mac) = apart(line)?;
    let place = Place::read(line)?;
    Some(Head { chain: place.chain, seq: place.seq, mac: mac.to_owned() })
}

/// Where a line stands that is sound: after the line with this MAC where that is there, else after the
/// one that it names itself. `None` also where nobody can tell.
pub(super) fn sound(key: &hmac::Key, before: Option<&str>, line: &str) -> Option<Head> {
    let (open, written) = apart(line)?;
    let place = Place::read(line)?;
    let before = match place.seq {
        0 => None,
        1 => Some(""),
        _ => before.or(place.before.as_deref()),
    };
    (mac(key, before?, open) == written).then(|| place.head(written))
}

impl Place {
    fn head(self, mac: &str) -> Head {
        Head { chain: self.chain, seq: self.seq, mac: mac.to_owned() }
    }
}

/// Reads a log of one file from its beginning and says everything that is wrong with it. `heads` are
/// places that were kept elsewhere.
///
/// # Errors
/// When reading fails.
pub fn verify(file: impl BufRead, key: &hmac::Key, heads: &[Head]) -> std::io::Result<Report> {
    let known = Known { heads: heads.to_vec(), ..Known::default() };
    let mut check = Verifier::new(key, &known);
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
    known: &'a Known,
    /// Of the file at hand.
    report: Report,
    /// The last line of all files so far.
    last: Option<Head>,
    /// Those that were here.
    chains: BTreeSet<String>,
    /// A line that is none, until the next one explains it.
    strange: Option<u64>,
}

impl<'a> Verifier<'a> {
    /// Nothing is read yet.
    pub fn new(key: &'a hmac::Key, known: &'a Known) -> Verifier<'a> {
        let (report, chains) = (Report::default(), BTreeSet::new());
        Verifier { key, known, report, last: None, chains, strange: None }
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
    pub fn conclude(self) -> Vec<Finding> {
        let cut_off = self.last.as_ref().and_then(|last| self.cut_off(last));
        cut_off.into_iter().chain(self.gone()).collect()
    }

    fn line(&mut self, bytes: &[u8]) {
        self.report.lines += 1;
        let number = self.report.lines;
        let read = std::str::from_utf8(bytes).ok().and_then(|text| {
            let (open, mac) = apart(text)?;
            Some((open, mac, Place::read(text)?))
        });
        let Some((open, written, place)) = read else {
            self.say_strange();
            self.strange = Some(number);
            return;
        };
        let finding =
            self.place(number, &place).or_else(|| self.wrong(number, open, written, &place));
        let explains = finding.is_none() && place.action == TORN;
        self.report.findings.extend(finding);
        if self.strange.take_if(|_| explains).is_some() {
            self.report.torn += 1;
        }
        self.say_strange();
        self.compare_with_heads(written, &place);
        let head = place.head(written);
        self.report.last = Some(head.clone());
        self.last = Some(head);
    }

    /// Whether the line is not the one that comes next.
    fn place(&mut self, line: u64, place: &Place) -> Option<Finding> {
        if self.report.last.is_none() {
            self.report.first = place.seq;
            self.begin_anew(place);
            self.begin_late(line, place);
        }
        self.chains.insert(place.chain.clone());
        let last = self.last.as_ref()?;
        if place.chain != last.chain {
            Some(Finding::OtherChain { line })
        } else if place.seq <= last.seq {
            Some(Finding::Misplaced { line })
        } else {
            let count = place.seq - last.seq - 1;
            (count > 0).then_some(Finding::Missing { line, count })
        }
    }

    /// Whether a line in its place was changed.
    fn wrong(&self, line: u64, open: &str, written: &str, place: &Place) -> Option<Finding> {
        let Some(before) = self.before(place) else { return Some(Finding::Unproved { line }) };
        (mac(self.key, before, open) != written).then_some(Finding::Changed { line })
    }

    /// The MAC of the line before: as it stands there, as it was kept, or as the line says, which is
    /// under its own MAC.
    fn before<'b>(&'b self, place: &'b Place) -> Option<&'b str> {
        let kept =
            |head: &&Head| head.chain == place.chain && head.seq.checked_add(1) == Some(place.seq);
        match (&self.last, place.seq) {
            (Some(last), _) => Some(&last.mac),
            (None, 1) => Some(""),
            (None, _) => match self.known.heads.iter().find(kept) {
                Some(head) => Some(&head.mac),
                None => place.before.as_deref(),
            },
        }
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

    fn begin_late(&mut self, line: u64, place: &Place) {
        let (from, first) = (self.known.from.max(1), place.seq);
        if self.last.is_none() && first > from {
            self.report.findings.push(Finding::BeginsLate { line, from, first });
        }
    }

    fn cut_off(&self, last: &Head) -> Option<Finding> {
        let kept = self.known.heads.iter().filter(|head| head.chain == last.chain);
        let seq = kept.map(|head| head.seq).max().filter(|seq| *seq > last.seq)?;
        Some(Finding::CutOff { seq })
    }

    /// Chains of which nothing is here but what was kept elsewhere.
    fn gone(&self) -> Vec<Finding> {
        let mut gone: BTreeMap<&str, u64> = BTreeMap::new();
        for Head { chain, seq, .. } in &self.known.heads {
            if !self.chains.contains(chain) && !self.known.without.contains(chain) {
                let last = gone.entry(chain).or_default();
                *last = (*last).max(*seq);
            }
        }
        let finding = |(chain, seq): (&str, u64)| Finding::Gone { chain: chain.to_owned(), seq };
        gone.into_iter().map(finding).collect()
    }

    fn compare_with_heads(&mut self, written: &str, place: &Place) {
        let mut kept = self.known.heads.iter();
        let other =
            |head: &Head| head.chain == place.chain && head.seq == place.seq && head.mac != written;
        if kept.any(other) {
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
        made(lines, true)
    }

    /// Lines of older versions do not name the one before.
    fn made(lines: u64, names_before: bool) -> (Vec<String>, Vec<Head>) {
        let (mut out, mut heads, mut before) = (Vec::new(), Vec::new(), String::new());
        for seq in 1..=lines {
            let named = format!(",\"doorward.prev\":\"{before}\"");
            let named = if names_before && seq > 1 { &named } else { "" };
            let text = format!(
                r#"{{"event.action":"session.login","user.name":"user{seq}","doorward.chain":"c","doorward.seq":{seq}{named}}}"#
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

    fn findings_from(from: u64, lines: &[String], heads: &[Head]) -> Vec<Finding> {
        let known = Known { heads: heads.to_vec(), from, ..Known::default() };
        let key = key();
        let mut verifier = Verifier::new(&key, &known);
        let mut findings = verifier.file(lines.concat().as_bytes()).expect("memory").findings;
        findings.extend(verifier.conclude());
        findings
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
    fn lines_removed_from_the_beginning_are_found_unless_they_were_removed_on_purpose() {
        let (lines, heads) = log(5);
        let late = |from| Finding::BeginsLate { line: 1, from, first: 3 };
        assert_eq!(findings(&lines[2..], &[]), [late(1)]);
        assert_eq!(findings(&lines[2..], &heads[..1]), [late(1)]);
        assert_eq!(findings_from(2, &lines[2..], &[]), [late(2)]);
        assert_eq!(findings_from(3, &lines[2..], &heads), []);
        assert_eq!(findings_from(3, &lines, &heads), [], "they are still there");
    }

    #[test]
    fn the_first_line_of_the_oldest_file_is_held_against_the_one_that_it_names() {
        let (lines, heads) = log(5);
        let mut changed = lines[2..].to_vec();
        changed[0] = changed[0].replace("user3", "user9");
        assert_eq!(findings_from(3, &changed, &[]), [Finding::Changed { line: 1 }]);
        let elsewhere = lines[2].replace(&heads[1].mac, &heads[0].mac);
        assert_eq!(findings_from(3, &[elsewhere], &[]), [Finding::Changed { line: 1 }]);
    }

    #[test]
    fn a_first_line_that_names_none_is_held_against_a_kept_head_and_never_believed() {
        let (lines, heads) = made(5, false);
        assert_eq!(findings(&lines, &heads), [], "a whole log of an older version");
        assert_eq!(findings_from(3, &lines[2..], &heads[1..2]), []);
        let unproved = Finding::Unproved { line: 1 };
        assert_eq!(findings_from(3, &lines[2..], &heads[..1]), [unproved]);
        let mut changed = lines[2..].to_vec();
        changed[0] = changed[0].replace("user3", "user9");
        assert_eq!(findings_from(3, &changed, &heads[1..2]), [Finding::Changed { line: 1 }]);
    }

    #[test]
    fn a_chain_of_which_only_a_head_is_left_is_found_unless_it_is_left_out_on_purpose() {
        let (lines, _) = log(2);
        let mac = "0".repeat(64);
        let head = |seq| Head { chain: "gone".into(), seq, mac: mac.clone() };
        let heads = [head(7), head(9), head(8)];
        let gone = Finding::Gone { chain: "gone".into(), seq: 9 };
        assert_eq!(findings(&lines, &heads), [gone]);
        let known = Known { heads: heads.into(), without: vec!["gone".into()], ..Known::default() };
        let key = key();
        let mut verifier = Verifier::new(&key, &known);
        assert_eq!(verifier.file(lines.concat().as_bytes()).expect("memory").findings, []);
        assert_eq!(verifier.conclude(), []);
    }

    #[test]
    fn the_largest_number_makes_nothing_overflow() {
        let (lines, _) = log(1);
        let largest =
            lines[0].replace("\"doorward.seq\":1", &format!("\"doorward.seq\":{}", u64::MAX));
        let found = findings(&[largest.clone(), largest.clone()], &[]);
        assert_eq!(found.last(), Some(&Finding::Misplaced { line: 2 }), "{found:?}");
        let found = findings(&[lines[0].clone(), largest], &[]);
        assert_eq!(found, [Finding::Missing { line: 2, count: u64::MAX - 2 }]);
    }

    #[test]
    fn a_chain_with_a_name_that_a_terminal_would_obey_is_no_line_of_ours() {
        let (lines, heads) = log(1);
        let named = lines[0].replace("\"c\"", "\"\\u001b[2J\"");
        assert_eq!(head_of_line(&named), None);
        assert_eq!(findings(&[named], &[]), [Finding::Strange { line: 1 }]);
        let sealed = lines[0].replace(&heads[0].mac, &"\u{1b}".repeat(64));
        assert_eq!(head_of_line(&sealed), None);
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
