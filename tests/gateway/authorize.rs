//! The request handler and `doorward explain` make the same decisions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use doorward::clock::Clock;
use doorward::config::Config;
use doorward::explain::{Explanation, Hypothesis, HypotheticalSession, explain};
use doorward::risk::GeoIp;
use doorward::session::{ClientContext, Identity};
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};

use test_support::browser::{Browser, SESSION};
use test_support::gateway::{Gateway, Setup, configuration, manual_clock, prepare_directory};
use test_support::seeded_rng::SeededRng;
use test_support::upstream::Upstream;

const REQUESTS: usize = 300;

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE"];
const HOSTS: [&str; 2] = ["app.test", "other.test"];
const PATHS: [&str; 10] = [
    "/",
    "/page?x=1",
    "/staff",
    "/staff/logout",
    "/STAFF/x",
    "/public",
    "/public/%2e%2e/staff",
    "/a%2fb",
    "/a//b",
    "/.doorward/session",
];
/// Further headers of a request, none or one of these.
const HEADERS: [(&str, &str); 6] = [
    ("origin", "https://app.test"),
    ("origin", "https://attacker.test"),
    ("sec-fetch-site", "cross-site"),
    ("sec-fetch-mode", "navigate"),
    ("max-forwards", "0"),
    ("max-forwards", "1"),
];

#[derive(Clone, Copy, Debug)]
enum Cookie {
    None,
    Alice,
    Bob,
    Forged,
    Duplicate,
}

#[derive(Debug)]
struct Case {
    method: &'static str,
    host: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    cookie: Cookie,
}

impl Case {
    fn generate(rng: &mut SeededRng) -> Case {
        let mut headers: BTreeMap<_, _> = BTreeMap::new();
        for _ in 0..rng.below(4) {
            let (name, value) = *rng.choose(&HEADERS);
            headers.insert(name, value);
        }
        Case {
            method: rng.choose::<&str>(&METHODS),
            host: if rng.percent(90) { HOSTS[0] } else { HOSTS[1] },
            path: rng.choose::<&str>(&PATHS),
            headers: headers.into_iter().collect(),
            cookie: *rng.choose(&[
                Cookie::None,
                Cookie::Alice,
                Cookie::Bob,
                Cookie::Forged,
                Cookie::Duplicate,
            ]),
        }
    }

    fn hypothesis(&self) -> Hypothesis {
        let mut headers: HeaderMap = self
            .headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let (user, group, forged) = match self.cookie {
            Cookie::None => (None, "", false),
            Cookie::Forged => (None, "", true),
            Cookie::Alice => (Some("alice"), "staff", false),
            Cookie::Duplicate => (Some("alice"), "staff", true),
            Cookie::Bob => (Some("bob"), "guests", false),
        };
        if forged {
            let cookie = HeaderValue::try_from(format!("{SESSION}=forged"));
            headers.insert(COOKIE, cookie.expect("a value"));
        }
        Hypothesis {
            method: self.method.parse().expect("a method"),
            url: format!("https://{}{}", self.host, self.path).parse().expect("a URL"),
            client: [127, 0, 0, 1].into(),
            headers,
            session: user.map(|user| HypotheticalSession {
                identity: Identity {
                    user: user.to_owned(),
                    groups: vec![group.to_owned()],
                    ..Identity::default()
                },
                age: Duration::ZERO,
                idle: Duration::ZERO,
                auth_age: Duration::ZERO,
                from: ClientContext::new([127, 0, 0, 1].into(), b""),
            }),
            now: Clock::System.now(),
        }
    }

    /// Sends the request and returns the response status.
    async fn send(&self, gateway: &Gateway, alice: &Browser, bob: &Browser) -> u16 {
        let mut browser = match self.cookie {
            Cookie::None | Cookie::Forged => Browser::new(gateway),
            Cookie::Alice | Cookie::Duplicate => alice.clone(),
            Cookie::Bob => bob.clone(),
        };
        self.host.clone_into(&mut browser.host);
        let forged = format!("{SESSION}=forged");
        let mut headers: Vec<(&str, &str)> = self.headers.clone();
        if matches!(self.cookie, Cookie::Forged | Cookie::Duplicate) {
            headers.push(("cookie", &forged));
        }
        browser.send(self.method, self.path, &headers, "").await.status.as_u16()
    }
}

fn routes(upstream: &Upstream) -> String {
    let route = |path: &str, access: &str| {
        format!(
            "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{}\"\naccess = {access}\n",
            upstream.address
        )
    };
    let staff = route("/staff", "{ groups = [\"staff\"] }");
    let control = "[route.session]\nlogout_paths = [\"/staff/logout\"]\n";
    [route("/", "\"session\""), staff, control.to_owned(), route("/public", "\"public\"")].concat()
}

/// Requests per verdict and status since the start.
async fn counters(gateway: &Gateway) -> BTreeMap<String, u64> {
    let metrics = gateway.metrics().await;
    let lines = metrics.lines().filter_map(|line| line.strip_prefix("doorward_requests_total{"));
    let counter = |line: &str| {
        let (labels, count) = line.rsplit_once(' ')?;
        Some((labels.to_owned(), count.parse().ok()?))
    };
    lines.filter_map(counter).collect()
}

fn verdict(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> String {
    let changed: Vec<_> = after.iter().filter(|(label, n)| before.get(*label) != Some(n)).collect();
    assert_eq!(changed.len(), 1, "one request is one verdict: {changed:?}");
    let label = changed[0].0.strip_prefix("verdict=\"").expect("a verdict");
    label.split('"').next().expect("a verdict").to_owned()
}

#[tokio::test]
async fn explain_and_the_handler_agree_on_generated_requests() {
    let upstream = Upstream::start().await;
    let setup = || Setup { routes: routes(&upstream), clock: manual_clock(), ..Setup::default() };
    let directory = prepare_directory();
    let text = configuration(&setup(), &directory);
    let (config, _) = Config::parse(&text, "test.toml", directory.path()).expect("a configuration");
    let gateway =
        Gateway::start(Setup { shared_directory: Some(Arc::clone(&directory)), ..setup() });
    let (mut alice, mut bob) = (Browser::new(&gateway), Browser::new(&gateway));
    alice.log_in("alice").await;
    bob.log_in("bob").await;
    let mut rng = SeededRng::new(13, 0);
    let mut seen = BTreeMap::new();
    for _ in 0..REQUESTS {
        let case = Case::generate(&mut rng);
        let explained: Explanation =
            explain(&config, GeoIp::default(), &case.hypothesis()).await.expect("an explanation");
        let before = counters(&gateway).await;
        let status = case.send(&gateway, &alice, &bob).await;
        let handled = verdict(&before, &counters(&gateway).await);
        assert_eq!(explained.verdict, handled, "{case:?}");
        if let [.., response] = &explained.responses[..]
            && !case.headers.contains(&("sec-fetch-mode", "navigate"))
        {
            assert_eq!(response.status, status, "{case:?}");
        }
        *seen.entry(handled).or_insert(0) += 1;
        // A logout path ends the session of the browser.
        if case.path == "/staff/logout" {
            // The login rate limit permits one login every six seconds.
            gateway.advance(Duration::from_secs(6));
            alice = Browser::new(&gateway);
            alice.log_in("alice").await;
        }
    }
    let verdicts: Vec<&str> = seen.keys().map(String::as_str).collect();
    let expected = [
        "admit",
        "cross-site",
        "forbidden",
        "invalid-token",
        "malformed",
        "no-route",
        "no-session",
        "portal",
        "public",
    ];
    assert_eq!(verdicts, expected, "{seen:?}");
}

/// Programs such as git authenticate to the app itself.
#[tokio::test]
async fn app_credentials_pass_without_a_session_where_allowed() {
    let upstream = Upstream::start().await;
    let route = |path: &str, access: &str| {
        format!(
            "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{}\"\naccess = \"{access}\"\n",
            upstream.address
        )
    };
    let routes = route("/", "session") + &route("/git", "session-or-public");
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let mut program = Browser::new(&gateway);
    let credentials = ("authorization", "Basic YWxpY2U6eA==");
    for h2 in [false, true] {
        program.h2 = h2;
        for method in ["GET", "POST", "PROPFIND"] {
            let claims = [credentials, ("x-forwarded-user", "evil")];
            assert_eq!(program.send(method, "/git/a", &claims, "").await.status.as_u16(), 200);
            assert_eq!(upstream.last_values("authorization"), [credentials.1]);
            assert!(upstream.last_values("x-forwarded-user").is_empty());
        }
        let heads = upstream.heads().len();
        let challenge = program.fetch("/git/a").await;
        assert_eq!(challenge.status.as_u16(), 401);
        let challenges = challenge.headers.get_all("www-authenticate").iter();
        assert!(challenges.into_iter().any(|value| value == "Basic realm=\"app\""));
        for headers in [&[credentials][..], &[]] {
            let response = program.send("GET", "/a", headers, "").await;
            assert_eq!(response.status.as_u16(), 401, "another route");
            assert!(!response.header("www-authenticate").contains("Basic"));
        }
        // A browser would show a dialog of its own.
        let script = program.send("GET", "/git/a", &[("sec-fetch-mode", "cors")], "").await;
        assert!(!script.header("www-authenticate").contains("Basic"));
        assert_eq!(program.navigate("/git/a").await.status.as_u16(), 303);
        assert_eq!(upstream.heads().len(), heads, "the app received the request");
    }
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    assert_eq!(alice.send("GET", "/git/a", &[credentials], "").await.status.as_u16(), 200);
    assert_eq!(upstream.last_values("x-forwarded-user"), ["alice"]);
    let mut forged = Browser::new(&gateway).with_token("dw1_forged");
    assert_eq!(forged.send("GET", "/git/a", &[credentials], "").await.status.as_u16(), 401);
}
