//! Reading of audit files: their last lines, and kept heads.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::chain::{Head, is_chain_name, is_mac, parse_head};

/// The event that logs a head.
pub(super) const HEAD_EVENT: &str = "audit.head";
/// Its former name, which kept logs still have.
const OLD_HEAD_EVENT: &str = "audit-head";

/// Bytes that are read from the end of a file, longer than any line.
const TAIL_BYTES: u64 = 64 * 1024;

/// An audit file that cannot be used. The message has the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum AuditFileError {
    #[error("the audit log {}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error(
        "the last line of the audit log {} is not valid: the file was modified, or belongs to another installation; check it with `doorward audit verify`, then move it away",
        path.display()
    )]
    Changed { path: PathBuf },
    #[error("the audit log {} is in use by another doorward; give each gateway its own file", path.display())]
    InUse { path: PathBuf },
    #[error("the audit log's thread cannot be started: {0}")]
    Thread(io::Error),
}

/// The end of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// The last complete lines, in order.
    pub(super) lines: Vec<String>,
    /// Bytes after the last line end, from a write that a crash cut off.
    pub(super) torn: usize,
}

pub(super) fn tail(file: &mut File) -> io::Result<Tail> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let torn = bytes.len() - whole;
    bytes.truncate(whole);
    let lines = String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect();
    Ok(Tail { lines, torn })
}

/// Returns the head that the last line of a file states; `None` if the file is empty.
///
/// # Errors
/// When the file cannot be read, or its last line is not a line of an audit log.
pub fn read_last_head(path: &Path) -> Result<Option<Head>, AuditFileError> {
    let failed = |error| AuditFileError::File { path: path.to_owned(), error };
    let tail = File::open(path).and_then(|mut file| tail(&mut file)).map_err(failed)?;
    let Some(last) = tail.lines.last() else { return Ok(None) };
    let changed = || AuditFileError::Changed { path: path.to_owned() };
    parse_head(last).map(Some).ok_or_else(changed)
}

/// Reads heads from the output of `doorward audit head`, or from the log as JSON. Skips other lines.
///
/// # Errors
/// When reading fails.
pub fn read_heads(text: impl Read) -> io::Result<Vec<Head>> {
    let mut heads = Vec::new();
    for line in BufReader::new(text).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        heads.extend(parse_printed_head(&line).or_else(|| parse_logged_head(&line)));
    }
    Ok(heads)
}

/// `CHAIN SEQ MAC`
fn parse_printed_head(line: &str) -> Option<Head> {
    let mut words = line.split_ascii_whitespace();
    let (chain, seq, mac) = (words.next()?, words.next()?, words.next()?);
    if !is_chain_name(chain) || !is_mac(mac) || words.next().is_some() {
        return None;
    }
    Some(Head { chain: chain.to_owned(), seq: seq.parse().ok()?, mac: mac.to_owned() })
}

#[derive(Deserialize)]
struct LoggedHead {
    event: String,
    chain: String,
    seq: u64,
    mac: String,
}

fn parse_logged_head(line: &str) -> Option<Head> {
    let LoggedHead { event, chain, seq, mac } = serde_json::from_str(line).ok()?;
    let is_head_event = [HEAD_EVENT, OLD_HEAD_EVENT].contains(&event.as_str());
    let is_head = is_head_event && is_chain_name(&chain) && is_mac(&mac);
    is_head.then_some(Head { chain, seq, mac })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_from_the_command_and_from_new_and_old_logs() {
        let mac = "ab".repeat(32);
        let logged = |event: &str, seq: u64| {
            format!(
                "{{\"level\":\"INFO\",\"event\":\"{event}\",\"chain\":\"c1\",\"seq\":{seq},\"mac\":\"{mac}\"}}\n"
            )
        };
        let [old, new] = [logged("audit-head", 8), logged("audit.head", 9)];
        let text = format!("c1 5 {mac}\nnonsense\n{old}{new}{}", logged("other", 10));
        let heads = read_heads(text.as_bytes()).expect("memory");
        assert_eq!(heads.iter().map(|head| head.seq).collect::<Vec<_>>(), [5, 8, 9]);
    }
}
