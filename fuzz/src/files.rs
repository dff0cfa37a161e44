//! Files that operators write: every mistake is reported with its line.

use std::path::Path;

use doorward::config::{Config, RenderStyle, known_keys};
use doorward::identity::{Cost, Credential, UsersError, account, htpasswd, users_file};
use doorward::secret::KeyRing;

/// A configuration parses or reports what is wrong and where.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    known_keys(text);
    let Err(problems) = Config::parse(text, "doorward.toml", Path::new("")) else { return };
    assert!(!problems.diagnostics.is_empty(), "a rejection has a reason");
    let lines = text.matches('\n').count() + 1;
    for problem in &problems.diagnostics {
        let text_of_problem = problem.to_string();
        assert!(problem.line <= lines, "{text_of_problem}");
        assert_eq!(problem.line == 0, problem.span.is_none(), "{text_of_problem}");
        assert!(!text_of_problem.chars().any(char::is_control), "{text_of_problem:?} is one line");
        if let Some(span) = problem.span.clone() {
            assert!(text.get(span).is_some(), "{text_of_problem}: its span is in the file");
        }
        problem.json();
    }
    for style in [RenderStyle::Plain, RenderStyle::Terminal] {
        assert!(!problems.render(style).is_empty());
    }
}

/// A users file parses into accounts with distinct names, or reports problems with lines.
pub fn users(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match users_file::parse(Path::new("users.toml"), text) {
        Ok(accounts) => {
            let names =
                accounts.iter().map(|account| account::normalize_name(&account.identity.user));
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

/// Every line is imported, reported or empty; a plaintext password is never repeated.
pub fn htpasswd(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (entries, unsupported) = htpasswd::parse(text);
    let empty = |line: &&str| line.trim().is_empty() || line.starts_with('#');
    let reported = entries.len() + unsupported.len();
    assert_eq!(reported, text.lines().filter(|line| !empty(line)).count(), "no line is lost");
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

/// A stored hash and its decoy have a bounded cost.
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

/// A keys file round-trips or is rejected.
pub fn keyring(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(ring) = KeyRing::parse(text) else { return };
    let again = KeyRing::parse(&ring.to_file()).expect("our own file");
    assert!(again.ids().eq(ring.ids()));
    assert_eq!(again.user_tag("alice"), ring.user_tag("alice"));
    assert_eq!(again.signing_key().0, ring.signing_key().0);
}
