//! A request that is decided at once and one whose decision waits for the store have the same effects.

use std::time::Duration;

use serde_json::Value;
use test_support::browser::{Browser, SESSION};
use test_support::gateway::{Gateway, Setup, manual_clock, session_route};
use test_support::seeded_rng::SeededRng;
use test_support::upstream::{Upstream, header_values};

const CASES: u64 = 60;

/// Longer than the time after which activity is written, and than the cached cutoff is valid.
const PAUSE: Duration = Duration::from_mins(5);

/// Headers of a client, some of which the gateway removes, joins or replaces.
const HEADERS: [(&str, &str); 16] = [
    ("accept", "text/html, */*"),
    ("accept-encoding", "gzip, br"),
    ("authorization", "Basic YTpi"),
    ("cookie", "a=1; __Host-doorward-login=x; b=2"),
    ("cookie", "c=3"),
    ("forwarded", "for=192.0.2.1"),
    ("if-none-match", "\"1\""),
    ("origin", "https://app.test"),
    ("range", "bytes=0-1"),
    ("via", "1.1 squid"),
    ("x-custom", "1"),
    ("x-custom", "2"),
    ("x-forwarded-user", "root"),
    ("x-request-id", "of-the-client"),
    ("x_custom", "1"),
    ("max-forwards", "3"),
];

/// Headers that belong to a connection of HTTP/1.1.
const CONNECTION_HEADERS: [(&str, &str); 3] =
    [("connection", "x-hop"), ("x-hop", "1"), ("te", "trailers")];

/// A generated request.
struct Case {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    h2: bool,
}

impl Case {
    fn new(number: u64) -> Case {
        let mut rng = SeededRng::new(number, 0);
        let h2 = rng.percent(40);
        let all: &[&[_]] = if h2 { &[&HEADERS] } else { &[&HEADERS, &CONNECTION_HEADERS] };
        let headers = all.concat().into_iter().filter(|_| rng.percent(40)).collect();
        let methods = ["GET", "GET", "HEAD", "OPTIONS", "DELETE", "POST"];
        let method = methods[usize::try_from(rng.below(6)).expect("small")];
        let route = if rng.percent(20) { "guests" } else { "app" };
        Case { method, path: format!("/{route}/{number}?q=%2F"), headers, h2 }
    }

    /// Returns the response: every byte over HTTP/1.1, status, headers and body over HTTP/2.
    async fn send(&self, browser: &Browser) -> String {
        let Case { method, path, headers, h2 } = self;
        if *h2 {
            let mut browser = browser.clone().over_h2();
            let response = browser.send(method, path, headers, "").await;
            let lines = response.headers.iter().map(|(name, value)| format!("{name}: {value:?}\n"));
            return format!(
                "{}\n{}\n{}",
                response.status,
                lines.collect::<String>(),
                response.text()
            );
        }
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: app.test\r\ncookie: {SESSION}={}\r\n\
             connection: close\r\n{lines}\r\n",
            browser.token()
        );
        browser.send_raw(head.as_bytes()).await
    }
}

/// Returns a text with headers without the time and the request ID, which a page repeats.
fn without_ids(text: &str) -> String {
    let id = header_values(text, "x-request-id").pop().unwrap_or_default();
    let id = id.trim_matches('"');
    let text = if id.is_empty() { text.to_owned() } else { text.replace(id, "ID") };
    let is_kept = |line: &&str| !line.to_ascii_lowercase().starts_with("date:");
    text.lines().filter(is_kept).collect::<Vec<_>>().join("\n")
}

/// The entries of the access log of one case, without times and IDs.
async fn log_entries(gateway: &Gateway, case: &Case) -> Vec<Value> {
    let path = case.path.split('?').next().expect("a path");
    loop {
        let log = std::fs::read_to_string(gateway.path("access.log")).expect("a log");
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut entries: Vec<Value> = entries.filter(|entry| entry["path"] == path).collect();
        if entries.len() == 2 {
            for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
                entry.retain(|key, _| {
                    !key.ends_with("_us") && !["time", "timestamp", "request_id"].contains(&&**key)
                });
            }
            return entries;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The counters of requests.
async fn counters(gateway: &Gateway) -> Vec<(String, u64)> {
    let metrics = gateway.metrics().await;
    let counters = metrics.lines().filter(|line| line.starts_with("doorward_requests_total{"));
    let parse = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    counters.map(parse).collect()
}

fn increase(before: &[(String, u64)], after: &[(String, u64)]) -> Vec<(String, u64)> {
    let count = |name: &String| before.iter().find(|(other, _)| other == name).map_or(0, |it| it.1);
    let increase = after.iter().map(|(name, value)| (name.clone(), value - count(name)));
    increase.filter(|(_, value)| *value > 0).collect()
}

/// Sends all cases in order. Returns what the clients received and what the upstream received.
async fn send_all(
    cases: &[Case],
    browser: &Browser,
    upstream: &Upstream,
    before_each: impl Fn(),
) -> Vec<(String, Vec<String>)> {
    let mut sent = Vec::new();
    for case in cases {
        before_each();
        let heads = upstream.heads().len();
        let response = without_ids(&case.send(browser).await);
        let forwarded = upstream.heads()[heads..].iter().map(|head| without_ids(head)).collect();
        sent.push((response, forwarded));
    }
    sent
}

#[tokio::test]
async fn a_decision_that_waits_has_no_other_effect() {
    let upstream = Upstream::with_response(
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: app/1\r\nSet-Cookie: a=1\r\n\r\nhello",
    )
    .await;
    let app = session_route(upstream.address) + "rotation = false\n";
    let guests = app
        .replace("path = \"/\"", "path = \"/guests/\"")
        .replace("\"session\"", "{ groups = [\"guests\"] }");
    let gateway = Gateway::start(Setup {
        routes: app + &guests,
        clock: manual_clock(),
        access_log: true,
        ..Setup::default()
    });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let cases: Vec<Case> = (0..CASES).map(Case::new).collect();
    let start = counters(&gateway).await;
    let waited = send_all(&cases, &alice, &upstream, || gateway.advance(PAUSE)).await;
    let between = counters(&gateway).await;
    let at_once = send_all(&cases, &alice, &upstream, || {}).await;
    let end = counters(&gateway).await;
    for ((case, waited), at_once) in cases.iter().zip(&waited).zip(&at_once) {
        assert_eq!(waited, at_once, "{} {} {:?}", case.method, case.path, case.headers);
        let entries = log_entries(&gateway, case).await;
        assert_eq!(entries[0], entries[1]);
    }
    let counted = increase(&start, &between);
    assert_eq!(counted, increase(&between, &end));
    assert!(counted.len() > 1, "several verdicts: {counted:?}");
    let forwarded = waited.iter().filter(|(_, heads)| !heads.is_empty()).count();
    assert!(forwarded > cases.len() / 2, "{forwarded} of {} are forwarded", cases.len());
}
