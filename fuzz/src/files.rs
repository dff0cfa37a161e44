//! What operators write: a slip is told with its line, and never worse than told.

use std::path::Path;

use doorward::config::{Config, Style, known_keys};
use doorward::identity::{Cost, Credential, UsersError, account, htpasswd, users_file};
use doorward::secret::KeyRing;

/// A configuration loads, or says what is wrong and where.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    known_keys(text);
    let Err(problems) = Config::parse(text, "doorward.toml", Path::new("")) else { return };
    assert!(!problems.list.is_empty(), "a file is not refused without a reason");
    let lines = text.matches('\n').count() + 1;
    for problem in &problems.list {
        let told = problem.to_string();
        assert!(problem.line <= lines, "{told}");
        assert_eq!(problem.line == 0, problem.span.is_none(), "{told}");
        assert!(!told.chars().any(char::is_control), "{told:?} is one line");
        if let Some(span) = problem.span.clone() {
            assert!(text.get(span).is_some(), "{told}: its place is in the file");
        }
        problem.json();
    }
    for style in [Style::Plain, Style::Terminal] {
        assert!(!problems.render(style).is_empty());
    }
}

/// A users file reads into accounts that are told apart, or into problems with lines.
pub fn users(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match users_file::parse(Path::new("users.toml"), text) {
        Ok(accounts) => {
            let names = accounts.iter().map(|account| account::fold(&account.identity.user));
            let mut names: Vec<String> = names.collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), accounts.len(), "one account for each name");
        }
        Err(UsersError::Invalid { problems, .. }) => {
            let lines = text.matches('\n').count() + 1;
            assert!(!problems.is_empty());
            assert!(problems.iter().all(|problem| (1..=lines).contains(&problem.line)));
        }
        Err(error) => panic!("no file was read: {error}"),
    }
}

/// Every line is taken over, named, or empty; a password in clear is not repeated.
pub fn htpasswd(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (entries, unsupported) = htpasswd::parse(text);
    let empty = |line: &&str| line.trim().is_empty() || line.starts_with('#');
    let told = entries.len() + unsupported.len();
    assert_eq!(told, text.lines().filter(|line| !empty(line)).count(), "no line is lost");
    for entry in &entries {
        assert!(account::check_user_name(&entry.name).is_ok(), "{:?}", entry.name);
        assert!(matches!(entry.password.cost(), Cost::Bcrypt { .. }) || bounded(&entry.password));
    }
    for line in &unsupported {
        let name = text.lines().nth(line.line - 1).and_then(|line| line.split(':').next());
        let named = name.is_some_and(|name| name.contains("canary"));
        assert!(named || !line.message.contains("canary"), "{}", line.message);
    }
}

/// A stored password costs no more than its bounds, and so does what stands in for it.
pub fn credential(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(credential) = Credential::parse(text) else { return };
    assert_eq!(credential.stored(), text);
    assert!(bounded(&credential), "{:?}", credential.cost());
    let decoy = Credential::decoy(credential.cost()).expect("unknown names cost the same");
    assert_eq!(decoy.cost(), credential.cost());
}

fn bounded(credential: &Credential) -> bool {
    match credential.cost() {
        Cost::Argon2id { m, t, p } => m <= 256 * 1024 && t <= 16 && p <= 8,
        Cost::Bcrypt { cost } => (4..=14).contains(&cost),
    }
}

/// A keys file reads back as the same keys, or not at all.
pub fn keyring(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(ring) = KeyRing::parse(text) else { return };
    let again = KeyRing::parse(&ring.to_file()).expect("our own file");
    assert!(again.ids().eq(ring.ids()));
    assert_eq!(again.tag_of("alice"), ring.tag_of("alice"));
    assert_eq!(again.newest().0, ring.newest().0);
}
