//! Audit files as they lie there: their last line, and heads that were kept.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::chain::{Head, head_of_line, is_mac, is_name};

/// Far longer than any line.
const LAST_LINE: u64 = 64 * 1024;

/// Why an audit file cannot be used. Names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum AuditFileError {
    #[error("the audit log {}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error(
        "the audit log {} does not end as doorward ends it: somebody changed it, or it is of another installation; look at it with `doorward audit verify`, then move it away",
        path.display()
    )]
    Changed { path: PathBuf },
    #[error("the audit log {} is in use by another doorward; give each gateway its own file", path.display())]
    InUse { path: PathBuf },
    #[error("the audit log's thread cannot be started: {0}")]
    Thread(io::Error),
}

/// What a file ends with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// The last whole lines, the last one last.
    pub(super) lines: Vec<String>,
    /// Bytes after the last line end: a line that was being written when the power went.
    pub(super) torn: usize,
}

pub(super) fn tail(file: &mut File) -> io::Result<Tail> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_LINE)))?;
    let mut bytes = Vec::new();
    file.take(LAST_LINE).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let torn = bytes.len() - whole;
    bytes.truncate(whole);
    let lines = String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect();
    Ok(Tail { lines, torn })
}

/// The place that a file has reached; `None` when it is empty.
///
/// # Errors
/// When the file cannot be read or does not end in a line of ours.
pub fn head_of(path: &Path) -> Result<Option<Head>, AuditFileError> {
    let failed = |error| AuditFileError::File { path: path.to_owned(), error };
    let tail = File::open(path).and_then(|mut file| tail(&mut file)).map_err(failed)?;
    let Some(last) = tail.lines.last() else { return Ok(None) };
    let changed = || AuditFileError::Changed { path: path.to_owned() };
    head_of_line(last).map(Some).ok_or_else(changed)
}

/// Heads from a text that holds them: what `doorward audit head` prints, or the ordinary log. Other
/// lines are passed over.
///
/// # Errors
/// When reading fails.
pub fn read_heads(text: impl Read) -> io::Result<Vec<Head>> {
    let mut heads = Vec::new();
    for line in BufReader::new(text).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        heads.extend(plain(&line).or_else(|| logged(&line)));
    }
    Ok(heads)
}

/// `CHAIN SEQ MAC`
fn plain(line: &str) -> Option<Head> {
    let mut words = line.split_ascii_whitespace();
    let (chain, seq, mac) = (words.next()?, words.next()?, words.next()?);
    if !is_name(chain) || !is_mac(mac) || words.next().is_some() {
        return None;
    }
    Some(Head { chain: chain.to_owned(), seq: seq.parse().ok()?, mac: mac.to_owned() })
}

#[derive(Deserialize)]
struct Logged {
    event: String,
    chain: String,
    seq: u64,
    mac: String,
}

fn logged(line: &str) -> Option<Head> {
    let Logged { event, chain, seq, mac } = serde_json::from_str(line).ok()?;
    let is_head = event == super::writer::HEAD_EVENT && is_name(&chain) && is_mac(&mac);
    is_head.then_some(Head { chain, seq, mac })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_from_the_command_and_from_the_log() {
        let mac = "ab".repeat(32);
        let text = format!(
            "c1 5 {mac}\nnonsense\n{{\"level\":\"INFO\",\"event\":\"audit-head\",\"chain\":\"c1\",\"seq\":9,\"mac\":\"{mac}\"}}\n{{\"event\":\"other\",\"chain\":\"c1\",\"seq\":10,\"mac\":\"{mac}\"}}\n"
        );
        let heads = read_heads(text.as_bytes()).expect("memory");
        assert_eq!(heads.iter().map(|head| head.seq).collect::<Vec<_>>(), [5, 9]);
    }
}
