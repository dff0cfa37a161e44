//! Verification of audit files: reports lines that were changed, removed, repeated or moved.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;

use aws_lc_rs::hmac;

use super::chain::{Head, Position, TORN, mac, split_mac};

/// A defect of an audit file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditFinding {
    #[error("line {line}: changed, or moved here from elsewhere")]
    Changed { line: u64 },
    #[error("line {line}: {count} lines before this line are missing")]
    Missing { line: u64, count: u64 },
    #[error(
        "line {line}: lines {from} to {} are missing; verify the older files too, or add --from {first} if they were deleted on purpose",
        first - 1
    )]
    StartsLate { line: u64, from: u64, first: u64 },
    #[error(
        "line {line}: written by an older version, and cannot be verified without the line before; verify the older file too, or add the head of the line before with --heads"
    )]
    Unverifiable { line: u64 },
    #[error("line {line}: repeated, or out of order")]
    OutOfOrder { line: u64 },
    #[error("line {line}: not a line of an audit log")]
    Unparsable { line: u64 },
    #[error(
        "line {line}: another chain starts; doorward never starts a new chain in the same file"
    )]
    OtherChain { line: u64 },
    #[error("the end is cut off: line number {seq} was written, and is missing")]
    Truncated { seq: u64 },
    #[error(
        "line number {seq} of the chain {chain} was written, and the whole chain is missing; if its files were deleted on purpose, or belong to another gateway, add --without {chain}"
    )]
    ChainMissing { chain: String, seq: u64 },
    #[error("line number {seq} has another MAC than the kept head: the chain was rewritten")]
    Rewritten { seq: u64 },
}

/// The result of reading a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileReport {
    pub lines: u64,
    /// The number of the first line. More than 1 if an older file has the start of the chain.
    pub first: u64,
    pub last: Option<Head>,
    /// Lines that a crash cut off, as the log itself reports.
    pub torn: u64,
    /// Whether the file starts another chain than the file before.
    pub new_chain: bool,
    pub findings: Vec<AuditFinding>,
}

/// Facts about a log that its files cannot prove.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Heads that were kept in another place.
    pub heads: Vec<Head>,
    /// The highest permitted number of the first line; older lines were deleted on purpose.
    pub first_seq: u64,
    /// Chains whose files are left out on purpose.
    pub absent_chains: Vec<String>,
}

impl Default for VerifyOptions {
    /// No kept heads, and no deleted lines.
    fn default() -> VerifyOptions {
        VerifyOptions { heads: Vec::new(), first_seq: 1, absent_chains: Vec::new() }
    }
}

/// Verifies a log that consists of one file. `heads` were kept in another place.
///
/// # Errors
/// When reading fails.
pub fn verify(file: impl BufRead, key: &hmac::Key, heads: &[Head]) -> std::io::Result<FileReport> {
    let options = VerifyOptions { heads: heads.to_vec(), ..VerifyOptions::default() };
    let mut verifier = Verifier::new(key, &options);
    let mut report = verifier.file(file)?;
    report.findings.extend(verifier.finish());
    Ok(report)
}

/// The start of a rotated file, by which files are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileStart {
    /// The timestamp of the first line.
    pub timestamp: String,
    pub chain: String,
    pub seq: u64,
}

/// Returns the start that the first readable line states. It is unverified; use it only to sort files.
///
/// # Errors
/// When reading fails.
pub fn file_start(file: impl BufRead) -> std::io::Result<Option<FileStart>> {
    for line in file.split(b'\n') {
        if let Ok(Position { timestamp, chain, seq, .. }) = serde_json::from_slice(&line?) {
            return Ok(Some(FileStart { timestamp, chain, seq }));
        }
    }
    Ok(None)
}

/// Verifies the files of one log, the oldest first. The chain continues from file to file, so a missing
/// file is found like a missing line.
pub struct Verifier<'a> {
    key: &'a hmac::Key,
    options: &'a VerifyOptions,
    /// The report of the current file.
    report: FileReport,
    /// The last line of all files so far.
    last: Option<Head>,
    /// The chains of all files so far.
    chains: BTreeSet<String>,
    /// The number of an unparsable line, until the next line declares it torn.
    unparsable: Option<u64>,
}

impl<'a> Verifier<'a> {
    pub fn new(key: &'a hmac::Key, options: &'a VerifyOptions) -> Verifier<'a> {
        let (report, chains) = (FileReport::default(), BTreeSet::new());
        Verifier { key, options, report, last: None, chains, unparsable: None }
    }

    /// Verifies the next file.
    ///
    /// # Errors
    /// When reading fails.
    pub fn file(&mut self, file: impl BufRead) -> std::io::Result<FileReport> {
        for line in file.split(b'\n') {
            self.line(&line?);
        }
        self.report_unparsable();
        Ok(std::mem::take(&mut self.report))
    }

    /// Returns the kept heads that no file contains. Call it after the last file.
    pub fn finish(self) -> Vec<AuditFinding> {
        let truncation = self.last.as_ref().and_then(|last| self.truncation(last));
        truncation.into_iter().chain(self.missing_chains()).collect()
    }

    fn line(&mut self, bytes: &[u8]) {
        self.report.lines += 1;
        let number = self.report.lines;
        let read = std::str::from_utf8(bytes).ok().and_then(|text| {
            let (content, mac) = split_mac(text)?;
            Some((content, mac, Position::parse(text)?))
        });
        let Some((content, stated, position)) = read else {
            self.report_unparsable();
            self.unparsable = Some(number);
            return;
        };
        let finding = self
            .check_position(number, &position)
            .or_else(|| self.check_mac(number, content, stated, &position));
        let is_torn_marker = finding.is_none() && position.action == TORN;
        self.report.findings.extend(finding);
        if self.unparsable.take_if(|_| is_torn_marker).is_some() {
            self.report.torn += 1;
        }
        self.report_unparsable();
        self.compare_with_heads(stated, &position);
        let head = position.head(stated);
        self.report.last = Some(head.clone());
        self.last = Some(head);
    }

    /// Returns a finding unless the line has the next number of the chain.
    fn check_position(&mut self, line: u64, position: &Position) -> Option<AuditFinding> {
        if self.report.last.is_none() {
            self.report.first = position.seq;
            self.start_new_chain(position);
            self.check_start(line, position);
        }
        self.chains.insert(position.chain.clone());
        let last = self.last.as_ref()?;
        if position.chain != last.chain {
            Some(AuditFinding::OtherChain { line })
        } else if position.seq <= last.seq {
            Some(AuditFinding::OutOfOrder { line })
        } else {
            let count = position.seq - last.seq - 1;
            (count > 0).then_some(AuditFinding::Missing { line, count })
        }
    }

    /// Returns a finding unless the MAC of the line is valid.
    fn check_mac(
        &self,
        line: u64,
        content: &str,
        stated: &str,
        position: &Position,
    ) -> Option<AuditFinding> {
        let Some(previous) = self.previous_mac(position) else {
            return Some(AuditFinding::Unverifiable { line });
        };
        (mac(self.key, previous, content) != stated).then_some(AuditFinding::Changed { line })
    }

    /// Returns the MAC of the line before: from that line, from a kept head, or from the line itself,
    /// whose MAC covers it.
    fn previous_mac<'b>(&'b self, position: &'b Position) -> Option<&'b str> {
        let kept = |head: &&Head| {
            head.chain == position.chain && head.seq.checked_add(1) == Some(position.seq)
        };
        match (&self.last, position.seq) {
            (Some(last), _) => Some(&last.mac),
            (None, 1) => Some(""),
            (None, _) => match self.options.heads.iter().find(kept) {
                Some(head) => Some(&head.mac),
                None => position.previous.as_deref(),
            },
        }
    }

    /// Accepts a new chain at the start of a file: the file before was moved away while no gateway ran.
    /// A chain cannot be started without the key.
    fn start_new_chain(&mut self, position: &Position) {
        let is_other = |last: &mut Head| position.seq == 1 && position.chain != last.chain;
        if let Some(previous) = self.last.take_if(is_other) {
            self.report.new_chain = true;
            self.report.findings.extend(self.truncation(&previous));
        }
    }

    fn check_start(&mut self, line: u64, position: &Position) {
        let (from, first) = (self.options.first_seq.max(1), position.seq);
        if self.last.is_none() && first > from {
            self.report.findings.push(AuditFinding::StartsLate { line, from, first });
        }
    }

    fn truncation(&self, last: &Head) -> Option<AuditFinding> {
        let kept = self.options.heads.iter().filter(|head| head.chain == last.chain);
        let seq = kept.map(|head| head.seq).max().filter(|seq| *seq > last.seq)?;
        Some(AuditFinding::Truncated { seq })
    }

    /// Returns the chains of which only kept heads exist.
    fn missing_chains(&self) -> Vec<AuditFinding> {
        let mut missing: BTreeMap<&str, u64> = BTreeMap::new();
        for Head { chain, seq, .. } in &self.options.heads {
            if !self.chains.contains(chain) && !self.options.absent_chains.contains(chain) {
                let last = missing.entry(chain).or_default();
                *last = (*last).max(*seq);
            }
        }
        let finding =
            |(chain, seq): (&str, u64)| AuditFinding::ChainMissing { chain: chain.to_owned(), seq };
        missing.into_iter().map(finding).collect()
    }

    fn compare_with_heads(&mut self, stated: &str, position: &Position) {
        let mut kept = self.options.heads.iter();
        let other = |head: &Head| {
            head.chain == position.chain && head.seq == position.seq && head.mac != stated
        };
        if kept.any(other) {
            self.report.findings.push(AuditFinding::Rewritten { seq: position.seq });
        }
    }

    fn report_unparsable(&mut self) {
        if let Some(line) = self.unparsable.take() {
            self.report.findings.push(AuditFinding::Unparsable { line });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::{parse_head, seal};

    fn key() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[7; 32])
    }

    fn log(lines: u64) -> (Vec<String>, Vec<Head>) {
        chain(lines, true)
    }

    /// Lines of older versions do not state the MAC of the line before.
    fn chain(lines: u64, states_previous: bool) -> (Vec<String>, Vec<Head>) {
        let (mut out, mut heads, mut before) = (Vec::new(), Vec::new(), String::new());
        for seq in 1..=lines {
            let named = format!(",\"doorward.prev\":\"{before}\"");
            let named = if states_previous && seq > 1 { &named } else { "" };
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

    fn findings(lines: &[String], heads: &[Head]) -> Vec<AuditFinding> {
        verify(lines.concat().as_bytes(), &key(), heads).expect("memory").findings
    }

    fn findings_from(from: u64, lines: &[String], heads: &[Head]) -> Vec<AuditFinding> {
        let options =
            VerifyOptions { heads: heads.to_vec(), first_seq: from, ..VerifyOptions::default() };
        let key = key();
        let mut verifier = Verifier::new(&key, &options);
        let mut findings = verifier.file(lines.concat().as_bytes()).expect("memory").findings;
        findings.extend(verifier.finish());
        findings
    }

    #[test]
    fn an_unchanged_log_has_no_findings() {
        let (lines, heads) = log(5);
        let report = verify(lines.concat().as_bytes(), &key(), &heads).expect("memory");
        assert_eq!((report.lines, report.first, report.findings), (5, 1, vec![]));
        assert_eq!(report.last, heads.last().cloned());
    }

    #[test]
    fn a_changed_line_is_found() {
        let (mut lines, _) = log(5);
        lines[2] = lines[2].replace("user3", "user9");
        assert_eq!(findings(&lines, &[]), [AuditFinding::Changed { line: 3 }]);
    }

    #[test]
    fn a_line_with_the_mac_of_another_key_is_found() {
        let (mut lines, heads) = log(3);
        let other = hmac::Key::new(hmac::HMAC_SHA256, &[8; 32]);
        let text = r#"{"event.action":"x","doorward.chain":"c","doorward.seq":4}"#;
        lines.push(seal(&other, &heads[2].mac, text).0);
        assert_eq!(findings(&lines, &[]), [AuditFinding::Changed { line: 4 }]);
    }

    #[test]
    fn removed_repeated_and_swapped_lines_are_found() {
        let (lines, _) = log(5);
        let removed = [&lines[..2], &lines[3..]].concat();
        assert_eq!(findings(&removed, &[]), [AuditFinding::Missing { line: 3, count: 1 }]);
        let repeated = [&lines[..3], &lines[2..]].concat();
        assert_eq!(findings(&repeated, &[]), [AuditFinding::OutOfOrder { line: 4 }]);
        let mut swapped = lines;
        swapped.swap(1, 2);
        assert!(!findings(&swapped, &[]).is_empty());
    }

    #[test]
    fn a_truncated_log_is_found_with_a_kept_head() {
        let (lines, heads) = log(5);
        assert_eq!(findings(&lines[..3], &[]), []);
        assert_eq!(findings(&lines[..3], &heads[4..]), [AuditFinding::Truncated { seq: 5 }]);
    }

    #[test]
    fn a_rewritten_chain_is_found_with_a_kept_head() {
        let (lines, mut heads) = log(5);
        heads[1].mac = "0".repeat(64);
        assert_eq!(findings(&lines, &heads[1..2]), [AuditFinding::Rewritten { seq: 2 }]);
    }

    #[test]
    fn a_second_chain_and_an_unparsable_line_are_found() {
        let (lines, _) = log(2);
        let other: Vec<String> = lines.iter().map(|line| line.replace("\"c\"", "\"d\"")).collect();
        assert!(
            findings(&[lines.clone(), other].concat(), &[])
                .contains(&AuditFinding::OtherChain { line: 3 })
        );
        let unparsable = [lines.as_slice(), &["nonsense\n".to_owned()]].concat();
        assert_eq!(findings(&unparsable, &[]), [AuditFinding::Unparsable { line: 3 }]);
    }

    #[test]
    fn lines_missing_at_the_start_are_found_unless_declared() {
        let (lines, heads) = log(5);
        let late = |from| AuditFinding::StartsLate { line: 1, from, first: 3 };
        assert_eq!(findings(&lines[2..], &[]), [late(1)]);
        assert_eq!(findings(&lines[2..], &heads[..1]), [late(1)]);
        assert_eq!(findings_from(2, &lines[2..], &[]), [late(2)]);
        assert_eq!(findings_from(3, &lines[2..], &heads), []);
        assert_eq!(findings_from(3, &lines, &heads), [], "the lines still exist");
    }

    #[test]
    fn the_first_line_is_verified_with_its_stated_predecessor() {
        let (lines, heads) = log(5);
        let mut changed = lines[2..].to_vec();
        changed[0] = changed[0].replace("user3", "user9");
        assert_eq!(findings_from(3, &changed, &[]), [AuditFinding::Changed { line: 1 }]);
        let elsewhere = lines[2].replace(&heads[1].mac, &heads[0].mac);
        assert_eq!(findings_from(3, &[elsewhere], &[]), [AuditFinding::Changed { line: 1 }]);
    }

    #[test]
    fn a_first_line_without_a_predecessor_needs_a_kept_head() {
        let (lines, heads) = chain(5, false);
        assert_eq!(findings(&lines, &heads), [], "a whole log of an older version");
        assert_eq!(findings_from(3, &lines[2..], &heads[1..2]), []);
        let unproved = AuditFinding::Unverifiable { line: 1 };
        assert_eq!(findings_from(3, &lines[2..], &heads[..1]), [unproved]);
        let mut changed = lines[2..].to_vec();
        changed[0] = changed[0].replace("user3", "user9");
        assert_eq!(findings_from(3, &changed, &heads[1..2]), [AuditFinding::Changed { line: 1 }]);
    }

    #[test]
    fn a_missing_chain_is_found_unless_declared_absent() {
        let (lines, _) = log(2);
        let mac = "0".repeat(64);
        let head = |seq| Head { chain: "gone".into(), seq, mac: mac.clone() };
        let heads = [head(7), head(9), head(8)];
        let gone = AuditFinding::ChainMissing { chain: "gone".into(), seq: 9 };
        assert_eq!(findings(&lines, &heads), [gone]);
        let options = VerifyOptions {
            heads: heads.into(),
            absent_chains: vec!["gone".into()],
            ..VerifyOptions::default()
        };
        let key = key();
        let mut verifier = Verifier::new(&key, &options);
        assert_eq!(verifier.file(lines.concat().as_bytes()).expect("memory").findings, []);
        assert_eq!(verifier.finish(), []);
    }

    #[test]
    fn the_largest_line_number_does_not_overflow() {
        let (lines, _) = log(1);
        let largest =
            lines[0].replace("\"doorward.seq\":1", &format!("\"doorward.seq\":{}", u64::MAX));
        let found = findings(&[largest.clone(), largest.clone()], &[]);
        assert_eq!(found.last(), Some(&AuditFinding::OutOfOrder { line: 2 }), "{found:?}");
        let found = findings(&[lines[0].clone(), largest], &[]);
        assert_eq!(found, [AuditFinding::Missing { line: 2, count: u64::MAX - 2 }]);
    }

    #[test]
    fn a_chain_name_with_control_codes_is_unparsable() {
        let (lines, heads) = log(1);
        let named = lines[0].replace("\"c\"", "\"\\u001b[2J\"");
        assert_eq!(parse_head(&named), None);
        assert_eq!(findings(&[named], &[]), [AuditFinding::Unparsable { line: 1 }]);
        let sealed = lines[0].replace(&heads[0].mac, &"\u{1b}".repeat(64));
        assert_eq!(parse_head(&sealed), None);
    }

    #[test]
    fn a_torn_line_is_not_a_finding() {
        let (mut lines, heads) = log(2);
        lines.push("{\"event.action\":\"sess\n".to_owned());
        let text = format!(r#"{{"event.action":"{TORN}","doorward.chain":"c","doorward.seq":3}}"#);
        lines.push(seal(&key(), &heads[1].mac, &text).0);
        let report = verify(lines.concat().as_bytes(), &key(), &[]).expect("memory");
        assert_eq!((report.torn, report.findings), (1, vec![]));
    }

    #[test]
    fn a_log_with_action_names_of_older_versions_is_valid() {
        let (mut lines, mut previous) = (Vec::new(), String::new());
        let actions = ["audit.begun", "session.moved", "session.poisoned", "audit.torn"];
        for (seq, action) in (1..).zip(actions) {
            let json = format!(
                r#"{{"event.action":"{action}","doorward.chain":"c","doorward.seq":{seq}}}"#
            );
            let (line, mac) = seal(&key(), &previous, &json);
            lines.push(line);
            previous = mac;
        }
        lines.insert(3, "{\"event.action\":\"sess\n".to_owned());
        let report = verify(lines.concat().as_bytes(), &key(), &[]).expect("memory");
        assert_eq!((report.lines, report.torn, report.findings), (5, 1, vec![]));
    }
}
