//! Configuration files: valid ones, invalid ones with their messages, and the reference file.
//!
//! `BLESS=1 cargo test --test system config::` updates the expected messages.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use doorward::config::{
    Config, ConfigError, KeyDefault, LogFormat, LogLevel, Memory, RenderStyle, StoreLocation,
    known_keys,
};
use doorward::route::BodyLimits;
use proptest::prelude::*;

const VALID: usize = 40;
const INVALID: usize = 84;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The `.toml` files of a directory below `tests/config`, by name.
fn files(directory: &str) -> Vec<PathBuf> {
    let directory = repository().join("tests/config").join(directory);
    let entries = fs::read_dir(directory).expect("the directory is there");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

fn parse(text: &str) -> Result<(Config, Vec<String>), ConfigError> {
    let (config, warnings) = Config::parse(text, "doorward.toml", Path::new("/srv"))?;
    Ok((config, warnings.iter().map(ToString::to_string).collect()))
}

/// Compares with the `.expected` file beside it.
fn assert_expected(path: &Path, output: &str) {
    let expected = path.with_extension("expected");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&expected, output).expect("written");
    }
    assert_eq!(output, read(&expected), "{} (left: actual, right: expected)", name(path));
}

#[test]
fn valid_files_load_with_their_warnings() {
    let files = files("valid");
    for path in &files {
        let loaded = Config::parse(&read(path), &name(path), Path::new(""));
        let (_, warnings) = loaded.unwrap_or_else(|problems| panic!("{problems}"));
        let lines: Vec<String> = warnings.iter().map(|warning| format!("{warning}\n")).collect();
        if name(path).starts_with("warned_") {
            assert_expected(path, &lines.concat());
        } else {
            assert!(lines.is_empty(), "{}: {lines:?}", name(path));
        }
    }
    assert_eq!(files.len(), VALID);
}

#[test]
fn invalid_files_give_exactly_the_expected_messages() {
    let files = files("invalid");
    for path in &files {
        match Config::parse(&read(path), &name(path), Path::new("")) {
            Ok(_) => panic!("{} loads", name(path)),
            Err(problems) => assert_expected(path, &problems.to_string()),
        }
    }
    assert_eq!(files.len(), INVALID);
}

#[test]
fn every_expectation_belongs_to_a_file() {
    for directory in ["valid", "invalid"] {
        let folder = repository().join("tests/config").join(directory);
        for entry in fs::read_dir(folder).expect("the directory is there") {
            let path = entry.expect("an entry").path();
            assert!(path.with_extension("toml").exists(), "{} is left over", name(&path));
        }
    }
}

#[test]
fn the_configuration_of_the_package_loads() {
    let text = read(&repository().join("config/systemd/doorward.toml"));
    let (config, warnings) = parse(&text).expect("loads");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.keys_file, Path::new("/var/lib/doorward/keys.toml"));
}

#[test]
fn all_errors_of_a_file_are_reported_in_line_order() {
    let path = repository().join("tests/config/invalid/six_errors.toml");
    let problems = parse(&read(&path)).expect_err("six problems");
    let lines: Vec<usize> = problems.diagnostics.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [2, 3, 6, 12, 14, 16]);
}

#[test]
fn no_message_format_shows_a_password_in_a_url() {
    for file in
        ["store_password_in_url.toml", "syntax_with_a_password.toml", "notify_password_in_url.toml"]
    {
        let text = read(&repository().join("tests/config/invalid").join(file));
        assert!(text.contains("hunter2"), "{file}");
        let problems = parse(&text).expect_err("rejected");
        let json = problems.diagnostics[0].json().to_string();
        let forms =
            [problems.render(RenderStyle::Plain), problems.render(RenderStyle::Terminal), json];
        for form in forms.into_iter().chain([format!("{problems:?}")]) {
            assert!(!form.contains("hunter2") && form.len() > 20, "{form}");
        }
    }
}

#[test]
fn a_terminal_shows_both_lines_of_a_conflict() {
    let path = repository().join("tests/config/invalid/routes_conflict.toml");
    let shown = parse(&read(&path)).expect_err("a conflict").render(RenderStyle::Terminal);
    assert_eq!(shown.matches("[[route]]").count(), 2, "{shown}");
    assert!(shown.contains("doorward.toml:13:1"), "{shown}");
}

fn login(users: &str) -> String {
    format!("[login.password]\nusers = \"{users}\"")
}

#[test]
fn missing_files_are_reported() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("doorward.toml");
    let problems = Config::load(&path).expect_err("no such file");
    assert!(problems.to_string().contains("cannot be read"), "{problems}");

    let at = |file: &str| directory.path().join(file).display().to_string();
    let text = read(&repository().join("config/minimal.toml"))
        .replace("certs/", &at(""))
        .replace("[login.password]", &login(&at("users.toml")));
    fs::write(&path, text).expect("written");
    Config::load(&path).expect("loads: files are checked at start");
    let problems = Config::check(&path).expect_err("three files are missing");
    let lines: Vec<usize> = problems.diagnostics.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [4, 5, 7], "{problems}");

    for file in ["doorward.pem", "doorward.key", "users.toml"] {
        fs::write(directory.path().join(file), "").expect("written");
    }
    Config::check(&path).expect("all files are there");
}

#[test]
fn check_verifies_the_notify_secret_and_program() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    for file in ["doorward.pem", "doorward.key", "users.toml"] {
        fs::write(at(file), "").expect("written");
    }
    let minimal = read(&repository().join("config/minimal.toml"))
        .replace("certs/", &at("").display().to_string())
        .replace("[login.password]", &login(&at("users.toml").display().to_string()));
    let (secret, program) = (at("secret"), at("program"));
    let notify = format!(
        "[notify]\nsecret_file = \"{}\"\ncommand = [\"{}\", \"x\"]\n",
        secret.display(),
        program.display()
    );
    let path = at("doorward.toml");
    fs::write(&path, format!("{notify}{minimal}")).expect("written");
    let check = |text: &str, modes: [u32; 2]| {
        for (path, text, mode) in [(&secret, text, modes[0]), (&program, "", modes[1])] {
            fs::write(path, text).expect("written");
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
        }
        match Config::check(&path) {
            Ok((_, warnings)) => warnings.iter().map(|warning| format!("{warning}\n")).collect(),
            Err(problems) => problems.to_string(),
        }
    };
    let good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    assert_eq!(check(good, [0o600, 0o755]), "");
    assert_eq!(check(good, [0o640, 0o700]), "");
    let output = check(good, [0o604, 0o755]);
    assert!(
        output.contains(":2: ") && output.contains("may read or write this secret"),
        "{output}"
    );
    let output = check("hunter2", [0o600, 0o755]);
    assert!(
        output.contains("does not begin with whsec_") && !output.contains("hunter2"),
        "{output}"
    );
    let output = check(good, [0o600, 0o644]);
    assert!(output.contains(":3: ") && output.contains("is not executable"), "{output}");
    let output = check(good, [0o600, 0o777]);
    assert!(output.contains("may change this program"), "{output}");
    fs::remove_file(&secret).expect("removed");
    fs::remove_file(&program).expect("removed");
    let output = Config::check(&path).expect_err("two files are missing").to_string();
    assert_eq!(output.lines().count(), 2, "{output}");
}

#[test]
fn the_minimal_file_loads_with_defaults_and_no_warning() {
    let (config, warnings) =
        parse(&read(&repository().join("config/minimal.toml"))).expect("loads");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.keys_file, Path::new("/srv/state/keys.toml"));
    assert_eq!(config.admin.socket.as_deref(), Some(Path::new("/srv/state/admin.sock")));
    assert_eq!(config.server.https, ["0.0.0.0:8443".parse().expect("an address")]);
    assert!(config.server.http.is_empty() && config.server.trusted_proxies.is_empty());
    assert_eq!((config.log.level, config.log.requests), (LogLevel::Info, true));
    assert!(matches!(&config.store.location,
        StoreLocation::Embedded(at) if at == Path::new("/srv/state")));
}

#[test]
fn a_state_directory_moves_every_default_and_no_other_key() {
    let routes = "[[tls.certificate]]\ncert = \"c\"\nkey = \"k\"\n[[route]]\nhost = \"a.test\"\nupstream = \"http://127.0.0.1:1\"\naccess = \"session\"\n";
    let written = |text: &str| -> Vec<String> {
        let (config, _) = parse(&format!("{text}{routes}")).expect("loads");
        config.written_paths().map(|path| path.display().to_string()).collect()
    };
    let moved = "[server]\nstate_dir = \"/var/lib/doorward\"\n";
    assert_eq!(
        written(&format!("{moved}[login.password]\n")),
        ["", "/users.toml", "/admin.sock", "/keys.toml"].map(|it| format!("/var/lib/doorward{it}"))
    );
    let relative = "[server]\nstate_dir = \"data\"\n[login.password]\n";
    assert_eq!(
        written(relative),
        ["", "/users.toml", "/admin.sock", "/keys.toml"].map(|it| format!("/srv/data{it}"))
    );
    let explicit = "[keys]\nfile = \"state/keys.toml\"\n[store]\nurl = \"embedded:state\"\n[admin]\nsocket = \"run/admin.sock\"\n[audit]\nfile = \"state/audit.jsonl\"\n[login.password]\nusers = \"state/users.toml\"\n";
    assert_eq!(
        written(&format!("{moved}{explicit}")),
        ["state", "state/users.toml", "state/audit.jsonl", "run/admin.sock", "state/keys.toml"]
            .map(|it| format!("/srv/{it}"))
    );
}

#[test]
fn values_are_parsed() {
    let (config, _) =
        parse(&read(&repository().join("tests/config/valid/server.toml"))).expect("loads");
    assert_eq!((config.server.https.len(), config.server.workers), (2, 16));
    assert_eq!((config.limits.connections, config.limits.memory), (50_000, Memory::Bytes(2 << 30)));
    assert_eq!((config.limits.bodies.max_bytes, config.limits.header_bytes), (100 << 20, 16 << 10));
    let route = config.routes.iter().next().expect("a route");
    let minutes = std::time::Duration::from_secs(60);
    let other = BodyLimits {
        timeout: 10 * minutes,
        min_rate: 1 << 10,
        max_bytes: 0,
        upstream_idle: 60 * minutes,
        request_timeout: 20 * minutes,
        tunnel_idle: 5 * minutes,
        response_headers: 1000,
        response_header_bytes: 128 << 10,
    };
    assert_eq!(route.limits, other);
    let single = "192.0.2.7/32".parse().expect("a network");
    assert!(config.server.trusted_proxies.contains(&single));
    assert!(config.admin.listen.is_none() && config.admin.socket.is_none());

    let (config, _) =
        parse(&read(&repository().join("tests/config/valid/inline_tables.toml"))).expect("loads");
    assert_eq!((config.log.level, config.log.format), (LogLevel::Debug, LogFormat::Json));
    assert_eq!(config.portal.name, "Beispiel & Söhne");

    let (config, _) =
        parse(&read(&repository().join("tests/config/valid/redis_tls.toml"))).expect("loads");
    let StoreLocation::Redis(redis) = &config.store.location else { panic!("{config:?}") };
    assert_eq!(redis.url, "rediss://db.internal:6380/2");
    assert_eq!(redis.password_file.as_deref(), Some(Path::new("/srv/secrets/redis")));
}

#[test]
fn identity_headers_keep_their_file_order() {
    let text = read(&repository().join("tests/config/valid/identity.toml"));
    let (config, _) = parse(&text).expect("loads");
    let names: Vec<String> = config
        .routes
        .iter()
        .flat_map(|route| route.identity.headers.iter().map(|field| field.name.to_string()))
        .collect();
    assert_eq!(names, ["remote-user", "remote-name", "x-all"]);
}

/// A key of the reference file.
#[derive(Debug, PartialEq, Eq)]
struct KeyLine {
    value: String,
    /// `None` in a section that is not set, where every key is a comment.
    is_set: Option<bool>,
}

/// Returns the keys of the reference file by path. `#key = value` is not set.
fn keys_of(text: &str) -> BTreeMap<String, KeyLine> {
    let (mut section, mut is_comment) = (String::new(), false);
    let mut keys = BTreeMap::new();
    for line in text.lines() {
        // `#[section]` is a section that is not set.
        if let Some(header) = line.trim_start_matches('#').strip_prefix('[') {
            let header = header.trim_start_matches('[');
            section = header.split(']').next().expect("a header").to_owned();
            is_comment = line.starts_with('#');
        } else if let Some((key, value)) = line.split_once(" = ") {
            let bare = key.trim_start_matches('#');
            let value = value.split(" #").next().expect("a value").trim().to_owned();
            if bare.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                let is_set = (!is_comment).then_some(bare == key);
                assert!(!is_comment || bare != key, "{key} is set in the section above");
                let line = KeyLine { value, is_set };
                assert_eq!(keys.insert(format!("{section}.{bare}"), line), None, "{bare} twice");
            }
        }
    }
    keys
}

#[test]
fn the_reference_file_has_every_key_with_its_default() {
    let text = read(&repository().join("config/doorward.toml"));
    let mut written = keys_of(&text);
    let known = known_keys(&text);
    assert!(known.len() >= 45, "only {} keys are known", known.len());
    for key in known {
        let line = written.remove(&key.path);
        let line = line.unwrap_or_else(|| panic!("{} is missing", key.path));
        let is_set = !matches!(key.default, KeyDefault::Optional(_));
        assert_eq!(line.value, key.default.literal(), "{}", key.path);
        assert_eq!(line.is_set.unwrap_or(is_set), is_set, "{}", key.path);
    }
    assert!(written.is_empty(), "these are not known: {written:?}");
}

#[test]
fn the_reference_file_shows_every_key_of_an_access_table() {
    let text = read(&repository().join("config/doorward.toml"));
    let with_table = text.replace(
        "access = \"session\"",
        "access = { users = [\"alice\"], groups = [\"staff\"], max_auth_age = \"5m\", auth_age_methods = [\"POST\"], logins = [\"corp\"], acr = [\"phr\"], factors = 2 }",
    );
    let known = known_keys(&with_table);
    let keys: Vec<&str> =
        known.iter().filter_map(|key| key.path.strip_prefix("route.access.")).collect();
    assert_eq!(
        keys,
        ["users", "groups", "max_auth_age", "auth_age_methods", "logins", "acr", "factors"]
    );
    let example = text.split("{ users = ").nth(1).and_then(|rest| rest.split('}').next());
    let shown = format!("users = {}", example.expect("an example"));
    for key in keys {
        assert!(shown.contains(&format!("{key} = ")), "{key}: {shown}");
    }
}

#[test]
fn the_reference_file_equals_the_minimal_file() {
    let complete = parse(&read(&repository().join("config/doorward.toml"))).expect("loads");
    let smallest = parse(&read(&repository().join("config/minimal.toml"))).expect("loads");
    let settings = |(config, warnings): (Config, Vec<String>)| {
        format!("{:?} {warnings:?}", Config { source: String::new(), ..config })
    };
    assert_eq!(settings(complete), settings(smallest));
}

#[test]
fn the_reference_file_loads_with_every_optional_key_set() {
    let mut is_comment = false;
    let text: Vec<String> = read(&repository().join("config/doorward.toml"))
        .lines()
        .map(|line| {
            if line.trim_start_matches('#').starts_with('[') {
                is_comment = line.starts_with('#');
            }
            match line.strip_prefix('#').filter(|_| !is_comment) {
                Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key.to_owned(),
                Some(_) | None => line.to_owned(),
            }
        })
        .collect();
    let text = text
        .join("\n")
        .replace("embedded:state", "rediss+sentinel://db.example.com/gate")
        .replace("http://127.0.0.1:3000", "https://127.0.0.1:3000");
    let (config, _) = parse(&text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.session.cookie.domain.as_deref(), Some("example.com"));
    let route = config.routes.iter().next().expect("a route");
    assert!(route.upstream_options.tls.ca.is_some() && route.policy.idle.is_some());
}

#[test]
fn documented_providers_load() {
    let page = read(&repository().join("docs/oidc.md"));
    let blocks = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let sections: Vec<&str> = blocks.filter(|block| block.contains("issuer = ")).collect();
    assert_eq!(sections.len(), 8);
    let others = "[[tls.certificate]]\ncert = \"c\"\nkey = \"k\"\n[[route]]\nhost = \"a.test\"\nupstream = \"http://127.0.0.1:1\"\naccess = \"session\"\n";
    for section in sections {
        let (_, warnings) = parse(&format!("{others}{section}"))
            .unwrap_or_else(|problems| panic!("{section}{problems}"));
        assert!(warnings.is_empty(), "{section}{warnings:?}");
    }
}

#[test]
fn print_config_prints_the_reference_file() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_doorward"))
        .arg("print-config")
        .output()
        .expect("it runs");
    let printed = String::from_utf8(output.stdout).expect("text");
    let file = read(&repository().join("config/doorward.toml"));
    let debug = |text: &str| format!("{:?}", parse(text).expect("loads"));
    assert!(output.status.success());
    assert_eq!(debug(&printed), debug(&file));
}

/// Runs `doorward check` on an invalid file in an empty directory.
fn check(file: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let empty = tempfile::tempdir().expect("a directory");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_doorward"))
        .args(["check", "--config"])
        .arg(repository().join("tests/config/invalid").join(file))
        .args(arguments)
        .current_dir(empty.path())
        .output()
        .expect("it runs");
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn check_lists_all_errors_and_missing_files() {
    let (code, output) = check("six_errors.toml", &[]);
    assert_eq!((code, output.lines().count()), (Some(1), 8), "{output}");
    assert!(output.contains("invalid/certs/doorward.pem: "), "{output}");
}

#[test]
fn check_prints_json() {
    let (code, output) = check("access_missing.toml", &["--json"]);
    let output: serde_json::Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!(code, Some(1));
    let problems = output["problems"].as_array().expect("a list");
    let lines: Vec<_> = problems.iter().map(|problem| &problem["line"]).collect();
    assert_eq!(lines, [2, 3, 6, 8]);
    assert_eq!(problems[3]["message"], "a route without `access` does not load");
}

/// Valid and invalid fragments of a file.
fn fragment() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "[server]\n",
        "[session]\n",
        "[store]\n",
        "[[route]]\n",
        "[route]\n",
        "[route.session]\n",
        "[[tls.certificate]]\n",
        "[login.password]\n",
        "[login]\n",
        "[tls]\n",
        "https = ",
        "url = ",
        "idle_timeout = ",
        "access = ",
        "identity = ",
        "host = ",
        "upstream = ",
        "domain = ",
        "workers = ",
        "cert = ",
        "\"",
        "\n",
        "{ ",
        " }",
        "[",
        "]",
        "= ",
        "30",
        "\"30m\"",
        "\"redis://",
        "@",
        ":",
        "/",
        "\"session\"",
        "{}",
        "[]",
        "[\"\"]",
        "é",
        "\u{0}",
        "'''",
        "\\",
        "#",
        "0x",
        "-1",
        "\"http://127.0.0.1\"",
        "*",
        ".",
        "\r\n",
        "\t",
        "1e9",
        "true",
        "1979-05-27",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => "\\PC{0,6}"]
}

/// Parses the text and renders all messages.
fn parse_and_render(text: &str) {
    match Config::parse(text, "any.toml", Path::new("")) {
        Ok((_, warnings)) => {
            for warning in warnings {
                warning.render(RenderStyle::Terminal, text);
            }
        }
        Err(problems) => {
            assert!(!problems.diagnostics.is_empty(), "rejected without an error");
            problems.render(RenderStyle::Terminal);
            assert_eq!(problems.to_string().lines().count(), problems.diagnostics.len());
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_text_does_not_panic(text in any::<String>()) {
        parse_and_render(&text);
    }

    #[test]
    fn plausible_files_do_not_panic(
        fragments in prop::collection::vec(fragment(), 0..40),
    ) {
        parse_and_render(&fragments.concat());
    }

    #[test]
    fn a_damaged_reference_file_does_not_panic(
        from in 0usize..6000,
        length in 0usize..40,
        replacement in fragment(),
    ) {
        let chars: Vec<char> = read(&repository().join("config/doorward.toml")).chars().collect();
        let from = from.min(chars.len());
        let to = (from + length).min(chars.len());
        let text = |part: &[char]| part.iter().collect::<String>();
        parse_and_render(&format!("{}{replacement}{}", text(&chars[..from]), text(&chars[to..])));
    }
}
