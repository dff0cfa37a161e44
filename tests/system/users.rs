//! Password login, changes of the users file, and the user and keys commands.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Command, FromArgMatches};
use doorward::cli::{keys, user};
use doorward::identity::users_file_editor::UsersFileEditor;
use doorward::identity::{
    ChangeKind, Cost, Credential, Directory, LoginOutcome, PasswordLogin, PasswordSettings,
    QueuePlace, UsersError,
};
use doorward::secret::{KeyRing, sha256};
use doorward::session::Identity;
use tempfile::TempDir;
use zeroize::Zeroizing;

const CHEAP: Cost = Cost::Argon2id { m: 8, t: 1, p: 1 };
/// At least half a second on any machine.
const SLOW: Cost = Cost::Argon2id { m: 131_072, t: 6, p: 1 };

struct Users {
    home: TempDir,
}

impl Users {
    /// alice may log in, dora is disabled; both with the password "right".
    fn with_cost(cost: Cost) -> Users {
        let users = Users { home: tempfile::tempdir().expect("a directory") };
        users.add("alice", "right", cost);
        users.add("dora", "right", cost);
        users.edit(|edit| edit.set_disabled("dora", true).map(|_| ()));
        users
    }

    fn path(&self) -> std::path::PathBuf {
        self.home.path().join("users.toml")
    }

    fn add(&self, name: &str, password: &str, cost: Cost) {
        let password = Credential::hash(password, cost).expect("hashes");
        self.edit(|edit| edit.add(&identity(name), &password));
    }

    fn edit<E: std::fmt::Debug>(&self, change: impl FnOnce(&mut UsersFileEditor) -> Result<(), E>) {
        let mut edit = UsersFileEditor::open_or_new(&self.path()).expect("a good file");
        change(&mut edit).expect("a good change");
        edit.save().expect("writes");
    }

    fn directory(&self) -> Arc<Directory> {
        Arc::new(Directory::open(&self.path()).expect("a good file"))
    }

    fn login(&self, settings: PasswordSettings) -> Arc<PasswordLogin> {
        login_over(self.directory(), settings)
    }
}

fn identity(name: &str) -> Identity {
    Identity { user: name.to_owned(), ..Identity::default() }
}

fn login_over(directory: Arc<Directory>, settings: PasswordSettings) -> Arc<PasswordLogin> {
    let keys = KeyRing::generate("now");
    let login = PasswordLogin::new(directory, settings, keys.login().clone());
    Arc::new(login.expect("good settings"))
}

/// A queue for every attempt.
fn open_settings(concurrent_hashes: usize) -> PasswordSettings {
    PasswordSettings {
        concurrent_hashes: NonZeroUsize::new(concurrent_hashes).expect("one or more"),
        queue_length: 1_000,
        queue_wait: Duration::from_secs(120),
        decoy_cost: CHEAP,
        ..PasswordSettings::default()
    }
}

fn here() -> QueuePlace {
    QueuePlace { network: IpAddr::from([192, 0, 2, 0]), is_known: false }
}

async fn attempt(login: &PasswordLogin, name: &str, password: &str) -> LoginOutcome {
    let password = Zeroizing::new(password.to_owned());
    login.verify(name, password, here(), async { Ok(()) }).await
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn every_failed_login_has_the_same_outcome() {
    let users = Users::with_cost(CHEAP);
    let login = users.login(open_settings(2));
    for name in ["alice", "ALICE", "Alice", "alice ", " alice\u{a0}"] {
        let LoginOutcome::Accept(account) = attempt(&login, name, "right").await else {
            panic!("{name} is refused");
        };
        assert_eq!(account.identity.user, "alice");
    }
    for (name, password) in [
        ("alice", "wrong"),
        ("alice", ""),
        ("alice", "right "),
        ("ali ce", "right"),
        ("dora", "right"),
        ("dora", "wrong"),
        ("nobody", "right"),
        ("", ""),
        ("a\0:,\n", "right"),
    ] {
        let response = attempt(&login, name, password).await;
        assert_eq!(response, LoginOutcome::Refuse, "{name:?} {password:?}");
    }
}

#[tokio::test]
async fn a_refusal_costs_one_hash_and_an_overlong_password_none() {
    let users = Users::with_cost(CHEAP);
    let login = users.login(open_settings(2));
    for (index, name) in ["alice", "dora", "nobody"].into_iter().enumerate() {
        attempt(&login, name, "wrong").await;
        assert_eq!(login.total_hashes(), index + 1, "{name}");
    }
    let long = "x".repeat(1_025);
    for name in ["alice", "dora", "nobody"] {
        assert_eq!(attempt(&login, name, &long).await, LoginOutcome::Refuse);
    }
    assert_eq!(login.total_hashes(), 3);
    assert_eq!(attempt(&login, "alice", &long[..1_024]).await, LoginOutcome::Refuse);
    assert_eq!(login.total_hashes(), 4);
}

/// Returns the median difference relative to the median time. Half of the pairs run in each order.
async fn paired_difference(login: &PasswordLogin, one: &str, other: &str) -> f64 {
    let (mut differences, mut times) = (Vec::new(), Vec::new());
    for pair in 0..1_000 {
        let (first, second) = if pair % 2 == 0 { (one, other) } else { (other, one) };
        let a = time_of(login, first).await;
        let b = time_of(login, second).await;
        differences.push(if pair % 2 == 0 { a - b } else { b - a });
        times.push(a);
    }
    median(differences).abs() / median(times)
}

async fn time_of(login: &PasswordLogin, name: &str) -> f64 {
    let begin = Instant::now();
    assert_eq!(attempt(login, name, "wrong").await, LoginOutcome::Refuse);
    begin.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::test]
async fn unknown_and_disabled_names_take_the_same_time() {
    // One hash takes most of a millisecond, far more than the rest of the attempt.
    let cost = Cost::Argon2id { m: 512, t: 2, p: 1 };
    let users = Users::with_cost(cost);
    let login = users.login(open_settings(1));
    for other in ["nobody", "dora"] {
        let share = paired_difference(&login, "alice", other).await;
        assert!(share < 0.2, "{other}: the medians differ by {share:.3}");
    }
}

#[tokio::test]
async fn unknown_names_cost_as_much_as_imported_bcrypt_accounts() {
    let users = Users::with_cost(Cost::Bcrypt { cost: 5 });
    let login = users.login(open_settings(1));
    let share = paired_difference(&login, "alice", "nobody").await;
    assert!(share < 0.2, "the medians differ by {share:.3}");
    assert!(matches!(attempt(&login, "alice", "right").await, LoginOutcome::Accept(_)));
}

#[tokio::test]
async fn a_throttled_attempt_is_not_hashed() {
    let users = Users::with_cost(CHEAP);
    let login = users.login(open_settings(2));
    let retry_after = Duration::from_secs(6);
    for (name, password) in [("alice", "right"), ("alice", "wrong"), ("nobody", "wrong")] {
        let password = Zeroizing::new(password.to_owned());
        let response = login.verify(name, password, here(), async { Err(retry_after) }).await;
        assert_eq!(response, LoginOutcome::Throttle { retry_after }, "{name}");
    }
    assert_eq!(login.total_hashes(), 0);
}

#[test]
fn concurrent_hashes_never_exceed_the_limit() {
    let users = Users::with_cost(Cost::Argon2id { m: 1_024, t: 1, p: 1 });
    let login = users.login(open_settings(2));
    let runtimes: Vec<_> = (0..2)
        .map(|_| {
            let login = Arc::clone(&login);
            std::thread::spawn(move || run_attempts(login, 100))
        })
        .collect();
    for runtime in runtimes {
        let responses = runtime.join().expect("no panic");
        assert!(responses.iter().all(|response| *response == LoginOutcome::Refuse));
    }
    assert_eq!(login.total_hashes(), 200);
    assert_eq!(login.peak_hashes(), 2);
}

/// Runs the next test in a process of its own, because it counts all threads of the process.
#[test]
fn hashes_run_at_low_priority_and_never_on_all_cores() {
    let program = std::env::current_exe().expect("the test binary");
    let name = concat!(module_path!(), "::low_priority_in_this_process");
    let name = name.split_once("::").expect("a module").1;
    let output = std::process::Command::new(program).args(["--exact", name, "--ignored"]).output();
    let output = output.expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Clients without a session decide how many hashes run, and must not delay requests with one.
#[tokio::test]
#[ignore = "counts the threads of the process; started by the test before it"]
async fn low_priority_in_this_process() {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let permits = PasswordSettings::default().concurrent_hashes.get();
    assert_eq!(permits, cores.saturating_sub(1).max(1));
    let login = Users::with_cost(SLOW).login(open_settings(1));
    let normal = own_nice_value();
    assert!(normal < 10, "run the test at normal priority");
    let attempt = spawn_attempt(&login, "wrong");
    until("the hash runs at low priority", || nice_values().contains(&10)).await;
    assert_eq!(attempt.await.expect("no panic"), LoginOutcome::Refuse);
    assert_eq!(own_nice_value(), normal, "the thread of the runtime keeps its priority");
}

/// Returns the nice values of all threads (proc(5), `stat`, field 19).
fn nice_values() -> Vec<i32> {
    let threads = std::fs::read_dir("/proc/self/task").expect("threads");
    threads.filter_map(|thread| nice_value(&thread.ok()?.path())).collect()
}

fn own_nice_value() -> i32 {
    nice_value(Path::new("/proc/thread-self")).expect("a thread")
}

fn nice_value(thread: &Path) -> Option<i32> {
    let stat = std::fs::read_to_string(thread.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok()
}

fn run_attempts(login: Arc<PasswordLogin>, count: usize) -> Vec<LoginOutcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async move {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..count {
            let login = Arc::clone(&login);
            tasks.spawn(async move { attempt(&login, "alice", "wrong").await });
        }
        tasks.join_all().await
    })
}

#[tokio::test]
async fn a_full_queue_is_busy_at_once_and_a_queued_attempt_later() {
    let users = Users::with_cost(SLOW);
    let settings = PasswordSettings {
        queue_length: 1,
        queue_wait: Duration::from_millis(100),
        ..open_settings(1)
    };
    let login = users.login(settings);
    let first = spawn_attempt(&login, "right");
    until("the first hash runs", || login.running_hashes() == 1).await;
    let queued = spawn_attempt(&login, "right");
    until("the second waits", || login.queued_attempts() == 1).await;
    let beyond = attempt(&login, "alice", "right").await;
    let retry_after = Duration::from_secs(1);
    assert_eq!(beyond, LoginOutcome::Busy { retry_after });
    assert_eq!(login.queued_attempts(), 1, "the rejected attempt did not wait");
    assert_eq!(queued.await.expect("no panic"), LoginOutcome::Busy { retry_after });
    assert!(matches!(first.await.expect("no panic"), LoginOutcome::Accept(_)));
    assert_eq!(login.total_hashes(), 1);
}

fn spawn_attempt(
    login: &Arc<PasswordLogin>,
    password: &'static str,
) -> tokio::task::JoinHandle<LoginOutcome> {
    let login = Arc::clone(login);
    tokio::spawn(async move { attempt(&login, "alice", password).await })
}

#[tokio::test]
async fn a_cancelled_attempt_keeps_its_permit_until_its_hash_ends() {
    let users = Users::with_cost(SLOW);
    let login = users.login(open_settings(1));
    let first = spawn_attempt(&login, "wrong");
    until("the first hash runs", || login.running_hashes() == 1).await;
    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    assert_eq!(login.running_hashes(), 1, "the hash ends with the request");
    assert_eq!(attempt(&login, "alice", "wrong").await, LoginOutcome::Refuse);
    assert_eq!((login.total_hashes(), login.peak_hashes()), (2, 1));
}

#[tokio::test]
async fn an_account_disabled_while_its_hash_runs_does_not_log_in() {
    let users = Users::with_cost(SLOW);
    let directory = users.directory();
    let login = login_over(Arc::clone(&directory), open_settings(1));
    let running = spawn_attempt(&login, "right");
    until("the hash runs", || login.running_hashes() == 1).await;
    users.edit(|edit| edit.set_disabled("alice", true).map(|_| ()));
    directory.reload_if_changed().expect("a good file");
    assert_eq!(login.running_hashes(), 1, "the hash was too fast for this test");
    assert_eq!(running.await.expect("no panic"), LoginOutcome::Refuse);
}

#[test]
fn each_account_change_is_reported_once() {
    let users = Users::with_cost(CHEAP);
    for name in ["bob", "carol", "erin"] {
        users.add(name, "right", CHEAP);
    }
    let directory = users.directory();
    assert_eq!(directory.reload_if_changed().expect("unchanged"), []);
    let new = Credential::hash("new", CHEAP).expect("hashes");
    users.edit(|edit| edit.set_disabled("alice", true).map(|_| ()));
    users.edit(|edit| edit.remove("bob"));
    users.edit(|edit| edit.set_password("carol", &new));
    users.edit(|edit| edit.set_disabled("dora", false).map(|_| ()));
    users.add("fred", "right", CHEAP);
    let changes = directory.reload_if_changed().expect("a good file");
    let reported: Vec<_> = changes.iter().map(|c| (c.user.as_str(), c.kind)).collect();
    assert_eq!(
        reported,
        [
            ("alice", ChangeKind::Disabled),
            ("bob", ChangeKind::Removed),
            ("carol", ChangeKind::PasswordChanged),
            ("dora", ChangeKind::Enabled),
            ("fred", ChangeKind::Added),
        ]
    );
    assert_eq!(directory.reload_if_changed().expect("unchanged"), []);
    assert!(directory.find("FRED").is_some() && directory.find("bob").is_none());
}

#[test]
fn the_credential_is_the_digest_of_the_stored_password() {
    let users = Users::with_cost(CHEAP);
    let alice = users.directory().find("alice").expect("alice exists");
    assert_eq!(alice.credential_digest, sha256(alice.password.stored().as_bytes())[..8]);
}

#[test]
fn a_broken_file_keeps_the_accounts_and_is_reported_once() {
    let users = Users::with_cost(CHEAP);
    let directory = users.directory();
    let good = std::fs::read_to_string(users.path()).expect("reads");
    std::fs::write(users.path(), format!("{good}\n[[user]]\nname = 'x'\n")).expect("writes");
    assert!(matches!(directory.reload_if_changed(), Err(UsersError::Invalid { .. })));
    assert_eq!(directory.reload_if_changed().expect("reported already"), []);
    std::fs::remove_file(users.path()).expect("removes");
    assert!(matches!(directory.reload_if_changed(), Err(UsersError::Missing { .. })));
    assert_eq!(directory.reload_if_changed().expect("reported already"), []);
    assert!(directory.find("alice").is_some());
    std::fs::write(users.path(), &good).expect("writes");
    assert_eq!(directory.reload_if_changed().expect("good again"), []);
    std::fs::write(users.path(), "").expect("writes");
    let changes = directory.reload_if_changed().expect("valid without users");
    assert_eq!(changes.len(), 2);
    assert!(directory.is_empty());
}

#[test]
fn a_directory_needs_a_valid_file() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("users.toml");
    let error = Directory::open(&path).expect_err("missing").to_string();
    assert!(error.contains("doorward user add"), "{error}");
    std::fs::write(&path, "[[user]]\nname = 'a'\npassword = 'clear'\n").expect("writes");
    let error = Directory::open(&path).expect_err("a clear password").to_string();
    assert!(error.contains("users.toml:3: password: "), "{error}");
    assert!(!error.contains("'clear'"), "{error}");
}

#[test]
fn concurrent_writers_lose_no_user() {
    let users = Users::with_cost(CHEAP);
    let path = users.path();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let users = &users;
            scope.spawn(move || {
                for number in 0..5 {
                    users.add(&format!("user-{writer}-{number}"), "right", CHEAP);
                }
            });
        }
        // A concurrent reader always gets a complete file.
        for _ in 0..200 {
            Directory::open(&path).expect("a complete file");
        }
    });
    assert_eq!(users.directory().len(), 42);
    assert_eq!(std::fs::read_dir(users.home.path()).expect("lists").count(), 1);
}

#[derive(Debug)]
struct Output {
    code: u8,
    out: String,
    err: String,
}

struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().expect("a directory"))
    }

    fn users(&self) -> String {
        self.0.path().join("config/users.toml").display().to_string()
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).expect("writes");
        path.display().to_string()
    }

    /// `doorward user ARGS --users FILE`, with `input` on standard input.
    fn user(&self, args: &[&str], input: &str) -> Output {
        let mut prompt = |_: &str| -> std::io::Result<String> { panic!("unexpected prompt") };
        self.user_on(args, input.as_bytes(), &mut prompt)
    }

    fn user_on(
        &self,
        args: &[&str],
        mut input: &[u8],
        prompt: &mut dyn FnMut(&str) -> std::io::Result<String>,
    ) -> Output {
        let users = self.users();
        let args = parse::<user::UserArgs>(args, &["--users", &users]).expect("good usage");
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = user::Console { input: &mut input, out: &mut out, err: &mut err, prompt };
        let code = user::run_on(&mut console, args).expect("memory takes every write");
        output(code, out, err)
    }

    fn add(&self, name: &str, more: &[&str]) -> Output {
        let args = [&["add", name, "--password-stdin"], more].concat();
        self.user(&args, "a long enough password\n")
    }

    fn account(&self, name: &str) -> Option<Arc<doorward::identity::Account>> {
        Directory::open(Path::new(&self.users())).expect("a good file").find(name)
    }

    fn keys(&self, args: &[&str]) -> Output {
        let path = self.keys_path();
        let args = parse::<keys::KeysArgs>(args, &["--keys", &path]).expect("good usage");
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = keys::run_on(&mut out, &mut err, args).expect("memory");
        output(code, out, err)
    }

    fn keys_path(&self) -> String {
        self.0.path().join("state/keys.toml").display().to_string()
    }
}

fn output(code: u8, out: Vec<u8>, err: Vec<u8>) -> Output {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Output { code, out: text(out), err: text(err) }
}

fn parse<A: Args + FromArgMatches>(args: &[&str], more: &[&str]) -> Result<A, clap::Error> {
    let command = A::augment_args(Command::new("test").no_binary_name(true));
    command.clone().debug_assert();
    let matches = command.try_get_matches_from(args.iter().chain(more))?;
    A::from_arg_matches(&matches)
}

fn mode(path: &str) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn user_add_creates_the_file_with_all_fields() {
    let home = Home::new();
    let more = ["--groups", "staff,ops", "--email", "a@example.com", "--name", "Alice Smith"];
    let output = home.add("alice", &more);
    assert_eq!((output.code, output.err.as_str()), (0, ""));
    assert!(output.out.starts_with("added alice in "), "{output:?}");
    assert_eq!(mode(&home.users()), 0o600);
    let alice = home.account("alice").expect("alice exists");
    assert_eq!(alice.identity.groups, ["staff", "ops"]);
    assert_eq!(alice.identity.email.as_deref(), Some("a@example.com"));
    assert_eq!(alice.identity.name.as_deref(), Some("Alice Smith"));
    assert_eq!(alice.password.cost(), Cost::DEFAULT);
    assert!(alice.password.verify("a long enough password"));
}

#[test]
fn user_add_rejects_an_existing_name_before_the_prompt() {
    let home = Home::new();
    home.add("alice", &[]);
    let output = home.user(&["add", "ALICE"], "");
    assert_eq!(output.code, 1);
    assert!(output.err.contains("doorward user passwd alice"), "{output:?}");
}

#[test]
fn invalid_names_groups_and_addresses_are_usage_errors() {
    for args in [
        &["add", "a:b"][..],
        &["add", " a"],
        &["add", "a", "--groups", "x,,y"],
        &["add", "a", "--email", "nobody"],
        &["add", "a", "--name", "x\ny"],
        &["add", "a", "--password", "secret"],
        &["add"],
        &[],
    ] {
        let error = parse::<user::UserArgs>(args, &[]).expect_err("wrong");
        assert_eq!(error.exit_code(), 2, "{args:?}");
    }
}

#[test]
fn the_users_file_is_an_option() {
    let args = parse::<user::UserArgs>(&["list"], &[]).expect("good usage");
    let user::UserCommand::List(list) = args.command else { panic!("{args:?}") };
    assert_eq!(list.file.users, None);
}

#[test]
fn weak_and_short_passwords_are_rejected() {
    let home = Home::new();
    for (password, reason) in [
        ("short", "15 characters"),
        ("", "15 characters"),
        ("fourteen chars", "15 characters"),
        ("Password", "most common"),
        ("alicealicealice", "user name"),
        ("eight\0characters", "NUL"),
        (&"x".repeat(1_025), "1024"),
    ] {
        let output = home.user(&["add", "alicealicealice", "--password-stdin"], password);
        assert_eq!(output.code, 1, "{password:?}");
        assert!(output.err.contains(reason), "{output:?}");
    }
    assert!(!Path::new(&home.users()).exists());
    let ten = ["add", "bob", "--password-stdin", "--min-length", "10"];
    let output = home.user(&ten, "ten_chars!\r\n");
    assert_eq!((output.code, output.err.as_str()), (0, ""));
    assert!(home.account("bob").expect("bob exists").password.verify("ten_chars!"));
}

/// A phone keyboard adds a space, and keyboards type accents in two ways.
#[tokio::test]
async fn spellings_of_one_name_and_password_log_in() {
    let home = Home::new();
    let typed = "pa\u{df}wort e\u{301}l\u{e9}phant";
    let add = ["add", "zoe\u{308}", "--password-stdin"];
    assert_eq!(home.user(&add, typed).code, 0);
    assert_eq!(home.account("zo\u{eb}").expect("an account").identity.user, "zo\u{eb}");
    let duplicate = home.user(&["add", "zo\u{eb}", "--password-stdin"], typed);
    assert_eq!(duplicate.code, 1, "a name of the same normal form");
    let directory = Directory::open(Path::new(&home.users())).expect("a good file");
    let login = login_over(Arc::new(directory), open_settings(1));
    for name in ["zo\u{eb}", "zoe\u{308}", " ZOe\u{308} "] {
        for password in [typed, "pa\u{df}wort \u{e9}le\u{301}phant"] {
            let response = attempt(&login, name, password).await;
            assert!(matches!(response, LoginOutcome::Accept(_)), "{name:?} {password:?}");
        }
    }
    assert_eq!(attempt(&login, "zoe", typed).await, LoginOutcome::Refuse);
}

/// A hash of another program is of the bytes as typed.
#[tokio::test]
async fn a_hash_of_a_decomposed_password_still_matches() {
    let users = Users::with_cost(CHEAP);
    users.add("bob", "e\u{301}clair e\u{301}clair", CHEAP);
    let login = users.login(open_settings(1));
    let response = attempt(&login, "bob", "e\u{301}clair e\u{301}clair").await;
    assert!(matches!(response, LoginOutcome::Accept(_)), "{response:?}");
    assert_eq!(attempt(&login, "bob", "eclair eclair").await, LoginOutcome::Refuse);
}

#[test]
fn a_terminal_prompts_for_the_password_twice() {
    let home = Home::new();
    let mut responses = vec!["a long enough password", "a different password"];
    let mut prompt =
        |_: &str| responses.pop().map(str::to_owned).ok_or(std::io::ErrorKind::NotFound.into());
    let output = home.user_on(&["add", "alice"], b"", &mut prompt);
    assert_eq!(output.code, 1);
    assert!(output.err.contains("differ"), "{output:?}");
    let mut prompts = Vec::new();
    let mut prompt = |text: &str| {
        prompts.push(text.to_owned());
        Ok("a long enough password".to_owned())
    };
    let output = home.user_on(&["add", "alice"], b"", &mut prompt);
    assert_eq!(output.code, 0);
    assert!(output.out.starts_with("added alice in "), "{output:?}");
    assert_eq!(prompts.len(), 2);
    let mut prompt = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let output = home.user_on(&["passwd", "alice"], b"", &mut prompt);
    assert!(output.err.contains("--password-stdin"), "{output:?}");
}

#[test]
fn user_passwd_changes_the_password_of_an_existing_user_only() {
    let home = Home::new();
    home.add("alice", &[]);
    let before = home.account("alice").expect("alice exists").credential_digest;
    let output = home.user(&["passwd", "Alice", "--password-stdin"], "an even longer password\n");
    assert_eq!(output.code, 0, "{output:?}");
    let alice = home.account("alice").expect("alice exists");
    assert!(alice.password.verify("an even longer password"));
    assert_ne!(alice.credential_digest, before);
    let output = home.user(&["passwd", "nobody"], "");
    assert_eq!(output.code, 1);
    assert!(output.err.contains("no user \"nobody\""), "{output:?}");
}

#[test]
fn user_disable_enable_and_remove_change_the_account() {
    let home = Home::new();
    home.add("alice", &[]);
    let disabled = || home.account("alice").map(|account| account.disabled);
    for (command, after) in [("disable", true), ("disable", true), ("enable", false)] {
        assert_eq!(home.user(&[command, "alice"], "").code, 0);
        assert_eq!(disabled(), Some(after), "{command}");
    }
    assert_eq!(home.user(&["remove", "alice"], "").code, 0);
    assert_eq!(disabled(), None);
    for command in ["disable", "enable", "remove"] {
        let output = home.user(&[command, "alice"], "");
        assert_eq!(output.code, 1, "{command}");
        assert!(output.err.contains("no user"), "{output:?}");
    }
}

#[test]
fn user_list_omits_the_hash() {
    let home = Home::new();
    home.add("alice", &["--groups", "staff,ops", "--email", "a@b"]);
    home.add("bob", &[]);
    home.user(&["disable", "bob"], "");
    let table = home.user(&["list"], "").out;
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..3], ["NAME", "STATE", "GROUPS"], "{table}");
    assert_eq!(rows[1], ["alice", "enabled", "staff,ops", "a@b", "argon2id"], "{table}");
    assert_eq!(rows[2], ["bob", "disabled", "argon2id"], "{table}");
    let json = home.user(&["list", "--json"], "").out;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json[0]["groups"], serde_json::json!(["staff", "ops"]));
    assert_eq!(json[1]["disabled"], true);
    assert!(!format!("{table}{json}").contains("$argon2id$"));
}

#[test]
fn commands_on_a_missing_or_broken_file_state_what_to_do() {
    let home = Home::new();
    for args in [&["list"][..], &["disable", "a"], &["passwd", "a"]] {
        let output = home.user(args, "");
        assert_eq!(output.code, 1);
        assert!(output.err.contains("doorward user add"), "{output:?}");
    }
    home.add("alice", &[]);
    std::fs::write(home.users(), "[[user]]\nnam = 'a'\n").expect("writes");
    for args in [&["list"][..], &["add", "b", "--password-stdin"], &["remove", "alice"]] {
        let output = home.user(args, "a long enough password\n");
        assert_eq!(output.code, 1);
        assert!(output.err.contains("users.toml:"), "{output:?}");
    }
    assert_eq!(std::fs::read(home.users()).expect("reads"), b"[[user]]\nnam = 'a'\n");
}

fn bcrypt(password: &str) -> String {
    let hash = Credential::hash(password, Cost::Bcrypt { cost: 4 }).expect("hashes");
    hash.stored().replacen("$2b$", "$2y$", 1)
}

#[tokio::test]
async fn an_imported_bcrypt_user_can_log_in() {
    let home = Home::new();
    let lines = format!("alice:{}\nbob:{}\n", bcrypt("pass-a"), bcrypt("pass-b"));
    let source = home.file("htpasswd", &lines);
    let output = home.user(&["import", &source, "--groups", "staff"], "");
    assert_eq!((output.code, output.err.as_str()), (0, ""));
    let directory = Directory::open(Path::new(&home.users())).expect("a good file");
    let login = login_over(Arc::new(directory), open_settings(1));
    let LoginOutcome::Accept(bob) = attempt(&login, "bob", "pass-b").await else {
        panic!("bob is refused")
    };
    assert_eq!(bob.identity.groups, ["staff"]);
    assert_eq!(attempt(&login, "bob", "pass-a").await, LoginOutcome::Refuse);
}

#[test]
fn user_import_writes_nothing_after_an_unsupported_line() {
    let home = Home::new();
    home.add("bob", &[]);
    let lines = format!("alice:{0}\nbob:{0}\ncarol:$apr1$x$y\nALICE:{0}\n", bcrypt("x"));
    let source = home.file("htpasswd", &lines);
    let output = home.user(&["import", &source], "");
    assert_eq!(output.code, 1);
    for part in ["htpasswd:2: ", "htpasswd:3: ", "htpasswd:4: ", "nothing was imported"] {
        assert!(output.err.contains(part), "{part}: {output:?}");
    }
    assert!(home.account("alice").is_none());
    let output = home.user(&["import", &source, "--skip-unsupported"], "");
    assert_eq!(output.code, 0);
    assert!(output.err.contains("htpasswd:3: "), "{output:?}");
    assert!(home.account("alice").is_some() && home.account("carol").is_none());
    let bob = home.account("bob").expect("bob exists");
    assert!(bob.password.verify("a long enough password"), "import replaced a password");
}

#[test]
fn keys_commands_print_no_key() {
    let home = Home::new();
    let missing = home.keys(&["rotate"]);
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("doorward keys init"), "{missing:?}");
    let mut all = home.keys(&["init"]).out;
    assert_eq!(mode(&home.keys_path()), 0o600);
    let first = KeyRing::parse(&read(&home.keys_path())).expect("a good file");
    assert_eq!(home.keys(&["init"]).code, 1);
    let output = home.keys(&["rotate"]);
    assert_eq!(output.code, 0, "{output:?}");
    let second = KeyRing::parse(&read(&home.keys_path())).expect("a good file");
    assert_eq!(second.signing_key().0, 2);
    assert!(second.key(1).is_some(), "the old key is gone");
    assert_eq!(first.user_tag("alice"), second.user_tag("alice"));
    assert_eq!(mode(&home.keys_path()), 0o600);
    all += &output.out;
    let plain = home.keys(&["list"]).out;
    let rows: Vec<Vec<&str>> =
        plain.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["KEY", "CREATED", "USE"], "{plain}");
    // The new key signs one minute after its creation, and the old one until then.
    assert_eq!(rows[1][2..], ["signs"], "{plain}");
    assert_eq!([rows[2][0], rows[2][2], rows[2][3]], ["2", "signs", "from"], "{plain}");
    assert!(rows[2][4] > rows[2][1], "{plain}");
    let json = home.keys(&["list", "--json"]).out;
    let rows: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&rows[1]["id"], &rows[1]["signs"]), (&2.into(), &false.into()));
    assert!(rows[1]["signs_from"].is_string() && rows[0]["signs"] == true, "{rows}");
    all += &(plain + &json);
    for line in read(&home.keys_path()).lines() {
        if let Some((_, secret)) = line.split_once(" = \"").filter(|(key, _)| *key != "created") {
            assert!(!all.contains(secret.trim_end_matches('"')), "{line} is shown");
        }
    }
}

#[test]
fn keys_retire_removes_only_an_old_key_that_does_not_sign() {
    let home = Home::new();
    home.keys(&["init"]);
    for (arguments, why) in [(&["retire", "1"][..], "newest"), (&["retire", "9"], "newest")] {
        let refused = home.keys(arguments);
        assert!(refused.code == 1 && refused.err.contains(why), "{refused:?}");
    }
    home.keys(&["rotate"]);
    let recent = home.keys(&["retire", "1"]);
    assert!(recent.code == 1 && recent.err.contains("--force"), "{recent:?}");
    assert!(home.keys(&["retire", "2", "--force"]).code == 1, "it signs");
    let done = home.keys(&["retire", "1", "--force"]);
    assert!(done.code == 0 && done.out.contains("removed key 1"), "{done:?}");
    let ring = KeyRing::parse(&read(&home.keys_path())).expect("a good file");
    assert!(ring.key(1).is_none() && ring.key(2).is_some());
    home.keys(&["rotate"]);
    let old = read(&home.keys_path());
    let created = old.lines().rfind(|line| line.starts_with("created")).expect("a time");
    let old = old.replace(created, "created = \"2020-01-01T00:00:00Z\"");
    std::fs::write(home.keys_path(), old).expect("written");
    assert_eq!(home.keys(&["retire", "2"]).code, 0, "replaced long ago");
}

#[test]
fn user_commands_state_what_they_did() {
    let home = Home::new();
    for (arguments, input, text) in [
        (&["add", "alice", "--password-stdin"][..], "a long enough password\n", "added alice"),
        (
            &["passwd", "alice", "--password-stdin"],
            "another long password\n",
            "changed the password of alice",
        ),
        (&["disable", "alice"], "", "alice is disabled in"),
        (&["disable", "alice"], "", "alice is disabled already"),
        (&["enable", "alice"], "", "alice is enabled in"),
        (&["remove", "alice"], "", "removed alice"),
    ] {
        let output = home.user(arguments, input);
        assert!(output.code == 0 && output.out.starts_with(text), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_broken_keys_file_is_never_replaced() {
    let home = Home::new();
    home.keys(&["init"]);
    std::fs::write(home.keys_path(), "tag = 'broken'").expect("writes");
    for command in ["init", "rotate", "list"] {
        let output = home.keys(&[command]);
        assert_eq!(output.code, 1, "{command}");
        assert!(output.err.contains("keys.toml"), "{output:?}");
    }
    assert_eq!(read(&home.keys_path()), "tag = 'broken'");
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).expect("reads")
}
