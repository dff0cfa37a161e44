//! Import from an htpasswd file. Only bcrypt entries are supported; the other formats are too weak
//! or not hashes. Each unsupported line is reported with a remedy.

use super::account;
use super::credential::{Credential, CredentialError};

/// One importable line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HtpasswdEntry {
    /// Counted from 1.
    pub line: usize,
    pub name: String,
    pub password: Credential,
}

/// One unsupported line and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedLine {
    pub line: usize,
    pub message: String,
}

/// Parses an htpasswd file. Skips empty lines and comments.
pub fn parse(text: &str) -> (Vec<HtpasswdEntry>, Vec<UnsupportedLine>) {
    let (mut entries, mut unsupported) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_line(line) {
            Ok((name, password)) => entries.push(HtpasswdEntry { line: number, name, password }),
            Err(message) => unsupported.push(UnsupportedLine { line: number, message }),
        }
    }
    (entries, unsupported)
}

fn parse_line(line: &str) -> Result<(String, Credential), String> {
    let (name, stored) =
        line.split_once(':').ok_or_else(|| "it has no ':'; write NAME:HASH".to_owned())?;
    account::check_user_name(name).map_err(|error| error.to_string())?;
    let stored = stored.trim_end();
    match Credential::parse(stored) {
        Ok(password) => Ok((name.to_owned(), password)),
        Err(error) => Err(format!("user {name:?}: {}", advice(name, stored, error))),
    }
}

fn advice(name: &str, stored: &str, error: CredentialError) -> String {
    let instead = format!("set a new password with `doorward user add {name}`");
    match error {
        CredentialError::Weak(kind) => format!("{kind} is too weak to import; {instead}"),
        CredentialError::Unknown if is_des_crypt(stored) => {
            format!("DES crypt uses only eight characters of a password; {instead}")
        }
        CredentialError::Unknown => format!("a plaintext password or an unknown format; {instead}"),
        CredentialError::Damaged => format!("the hash is truncated or damaged; {instead}"),
        CredentialError::Argon2Cost | CredentialError::BcryptCost | CredentialError::Hash => {
            format!("{error}; {instead}")
        }
    }
}

fn is_des_crypt(stored: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    stored.len() == 13 && stored.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u";

    #[test]
    fn bcrypt_lines_are_imported_and_others_reported_by_line() {
        let text = format!(
            "# users\nalice:{HASH}\n\nbob:$apr1$x$y\ncarol:{{SHA}}zzz=\ndave:ab01FAX.bQRSU\nerin:hunter2\nfrank\n:{HASH}\r\ngrace:{HASH}\r\n"
        );
        let (entries, unsupported) = parse(&text);
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["alice", "grace"]);
        let lines: Vec<usize> = unsupported.iter().map(|line| line.line).collect();
        assert_eq!(lines, [4, 5, 6, 7, 8, 9]);
        for (line, word) in
            unsupported.iter().zip(["$apr1$", "{SHA}", "DES", "plaintext", "':'", "empty"])
        {
            assert!(line.message.contains(word), "{line:?}");
            assert!(!line.message.contains("hunter2"), "{line:?}");
        }
    }
}
