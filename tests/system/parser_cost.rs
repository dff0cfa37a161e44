//! The cost of parsing input without a session: no input costs more than a fixed multiple of a plain request.
//!
//! For each parser, a random search looks for the most expensive input. It mutates the most expensive one so far with
//! the tokens of that parser. Examples alone would not find the next quadratic parser.

use std::fmt::Write;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use doorward::auth::Permit;
use doorward::clock::UnixMillis;
use doorward::config::Config;
use doorward::message::{
    CookieNames, InboundHead, RequestContext, RequestId, SanitizedHead, cookies,
};
use doorward::portal::forms::{self, FormFields};
use doorward::proxy::{ClientSource, TrustedProxies, UpstreamHead};
use doorward::route::RouteTable;
use doorward::secret::KeyRing;
use http::header::{HeaderName, HeaderValue};
use http::{Request, request};

use test_support::seeded_rng::SeededRng;

/// The most expensive input may cost this many plain requests.
const MAX_COST: u32 = 100;

/// Inputs tried for each parser.
const STEPS: usize = 250;

/// Largest head. HPACK sends one of this size in a few bytes, if its fields repeat earlier ones.
const HEAD: usize = 32 * 1024;

/// Largest target in a few bytes: the dynamic table of HPACK has 4 KiB.
const TARGET: usize = 4 * 1024;

/// Largest form.
const FORM: usize = 8 * 1024;

/// One parser that clients without a session reach.
struct Parser {
    name: &'static str,
    most_bytes: usize,
    tokens: &'static [&'static str],
    run: fn(&Parsers, &str),
}

const PATH: &[&str] = &[
    "/",
    "//",
    "%25",
    "%2525",
    "25",
    "%2F",
    "%5C",
    "\\",
    ";",
    "%3b",
    ";a=1",
    "%3F",
    "%23",
    ".",
    "..",
    "%2e",
    "a",
    "aaaaaaaaaaaaaaaa",
    "%C3%A9",
    "%E9",
    "%83%5C",
    "%EF%BD%81",
    "%E2%80%8B",
    "%EF%BC%8E",
    "admin",
    "%00",
    ":",
    " ",
    "%20",
    "~",
    "/a",
    "/;",
    "/%2F",
];

const PARSERS: [Parser; 13] = [
    Parser {
        name: "path where ambiguity is refused",
        most_bytes: TARGET,
        tokens: PATH,
        run: |parsers, text| parsers.request("a.test", text, &[]),
    },
    Parser {
        name: "path where ambiguity needs a session",
        most_bytes: TARGET,
        tokens: PATH,
        run: |parsers, text| parsers.request("b.test", text, &[]),
    },
    Parser {
        name: "path where ambiguity is public",
        most_bytes: TARGET,
        tokens: PATH,
        run: |parsers, text| parsers.request("c.test", text, &[]),
    },
    Parser {
        name: "query",
        most_bytes: TARGET,
        tokens: &["?", "&", "=", "+", "%", "%41", "_method=", "why=", "to=", "a", "aaaaaaaa", ";"],
        run: |parsers, text| {
            parsers.request("a.test", &format!("/?{text}"), &[]);
            black_box(FormFields::parse(Bytes::copy_from_slice(text.as_bytes())).text("to"));
        },
    },
    Parser {
        name: "Cookie",
        most_bytes: HEAD,
        tokens: &[
            "a",
            "=",
            ";",
            "; ",
            "\t",
            "\"",
            "__Host-doorward=",
            "__Host-doorward=dw1_",
            "dw1_",
            ",",
            "a=b; ",
        ],
        run: |parsers, text| parsers.request("a.test", "/", &[("cookie", text)]),
    },
    Parser {
        name: "Forwarded",
        most_bytes: HEAD,
        tokens: &[
            "for=",
            "\"",
            "[",
            "]",
            ":",
            "1",
            "2001:db8::1",
            "192.0.2.1",
            ",",
            ";",
            "\\",
            "proto=https",
            " ",
            "a",
            "unknown",
        ],
        run: |parsers, text| parsers.request("a.test", "/", &[("forwarded", text)]),
    },
    Parser {
        name: "X-Forwarded-For",
        most_bytes: HEAD,
        tokens: &["192.0.2.1", "10.0.0.1", ",", ", ", "::1", "[", "]", ":", "1", " ", "a"],
        run: |parsers, text| parsers.request("a.test", "/", &[("x-forwarded-for", text)]),
    },
    Parser {
        name: "Accept",
        most_bytes: HEAD,
        tokens: &["text/html", ",", ";", "q=0.9", " ", "*/*", "a"],
        run: |parsers, text| {
            parsers.request("a.test", "/", &[("accept", text), ("accept-language", text)])
        },
    },
    Parser {
        name: "Connection",
        most_bytes: HEAD,
        tokens: &["a", ",", "close", "keep-alive", "x-forwarded-user", "upgrade", " ", ", ", "-"],
        run: |parsers, text| parsers.request("a.test", "/", &[("connection", text)]),
    },
    Parser {
        name: "Via",
        most_bytes: HEAD,
        tokens: &["1.1 doorward", ",", " ", "a", "doorward"],
        run: |parsers, text| parsers.request("a.test", "/", &[("via", text)]),
    },
    Parser {
        name: "User-Agent",
        most_bytes: HEAD,
        tokens: &["Mozilla/5.0 ", "(", ")", "Chrome/1", "Firefox/", "Safari/", ";", " ", "a", "1"],
        run: |parsers, text| {
            parsers.request("a.test", "/", &[("user-agent", text)]);
        },
    },
    Parser {
        name: "Referer",
        most_bytes: HEAD,
        tokens: PATH,
        run: |parsers, text| parsers.referer(text),
    },
    Parser {
        name: "form",
        most_bytes: FORM,
        tokens: &[
            "csrf=",
            "to=",
            "username=",
            "&",
            "=",
            "+",
            "%",
            "%41",
            "%ff",
            "a",
            "AAAAAAAA",
            "-",
            "_",
        ],
        run: |parsers, text| parsers.form(text),
    },
];

/// A gateway's parsers, without its sockets.
struct Parsers {
    routes: RouteTable,
    proxies: TrustedProxies,
    keys: KeyRing,
}

const CONFIG: &str = r#"
[[tls.certificate]]
cert = "c.pem"
key = "c.key"
[store]
url = "memory:"
[login.password]
users = "users.toml"
"#;

const ROUTES: [(&str, &str, &str, &str); 7] = [
    ("a.test", "/", "public", "refuse"),
    ("a.test", "/admin", "session", "refuse"),
    ("b.test", "/", "session", "require-session"),
    ("b.test", "/admin", "session", "refuse"),
    ("c.test", "/", "public", "allow"),
    ("c.test", "/admin", "session", "refuse"),
    ("c.test", "/admin/users", "session", "refuse"),
];

impl Parsers {
    fn new() -> Parsers {
        let mut text = CONFIG.to_owned();
        for (host, path, access, ambiguous) in ROUTES {
            write!(text, "[[route]]\nhost = \"{host}\"\npath = \"{path}\"\nupstream = \"http://127.0.0.1:1\"\naccess = \"{access}\"\nambiguous_paths = \"{ambiguous}\"\n").expect("a string");
        }
        let (config, _) =
            Config::parse(&text, "doorward.toml", std::path::Path::new("")).expect("it loads");
        let proxies = TrustedProxies::new(
            vec!["10.0.0.0/8".parse().expect("a network")],
            ClientSource::Headers,
        );
        Parsers { routes: config.routes, proxies, keys: KeyRing::generate("now") }
    }

    /// Handles a request head as the gateway does for a client without a session.
    fn request(&self, host: &str, target: &str, headers: &[(&str, &str)]) {
        let Some(parts) = parts(host, target, headers) else { return };
        let Some(head) = self.parse(parts) else { return };
        black_box(cookies::find(&head.headers, "__Host-doorward"));
        black_box(head.client_context());
        let Some(route) = self.routes.find(&head.host, head.target.path()) else { return };
        if self.routes.shadows_stricter_route(route, head.target.path()) {
            return;
        }
        let Some(permit) = Permit::public(route) else { return };
        let clean = SanitizedHead::new(head, route.headers.reserved(), &CookieNames::default());
        black_box(UpstreamHead::new(clean, &permit));
    }

    fn parse(&self, mut parts: request::Parts) -> Option<InboundHead> {
        let client = self.proxies.client(IpAddr::from([10, 0, 0, 1]), &parts.headers).ok()?;
        let context = RequestContext { client, fingerprint: None, request: RequestId::from(1) };
        InboundHead::parse_with(&mut parts, context, |host, path| {
            self.routes.allows_ambiguous(host, path, |path| path.starts_with("/.doorward"))
        })
        .ok()
    }

    fn referer(&self, path: &str) {
        let referer = format!("https://a.test/{path}");
        let headers = [("referer", referer.as_str()), ("sec-fetch-mode", "cors")];
        let Some(head) = parts("a.test", "/", &headers).and_then(|parts| self.parse(parts)) else {
            return;
        };
        black_box(forms::return_url(&head));
    }

    fn form(&self, text: &str) {
        let now = UnixMillis(1_800_000_000_000);
        let fields = FormFields::parse(Bytes::copy_from_slice(text.as_bytes()));
        black_box(forms::verify_csrf_token(
            &self.keys,
            "login form",
            b"nonce",
            fields.text("csrf"),
            now,
        ));
        black_box(forms::open_return_url(&self.keys, "a.test", fields.text("to"), now));
    }

    /// Shortest of several runs: everything else on the machine only adds time.
    fn cost(&self, parser: &Parser, input: &str, runs: usize) -> Duration {
        let timed = (0..runs).map(|_| {
            let start = Instant::now();
            (parser.run)(self, black_box(input));
            start.elapsed()
        });
        timed.min().unwrap_or_default()
    }
}

fn parts(host: &str, target: &str, headers: &[(&str, &str)]) -> Option<request::Parts> {
    let mut request = Request::get(target).header("host", host);
    for (name, value) in
        PLAIN.iter().filter(|(name, _)| !headers.iter().any(|(own, _)| own == name))
    {
        request = request.header(*name, *value);
    }
    let (mut parts, ()) = request.body(()).ok()?.into_parts();
    for (name, value) in headers {
        parts.headers.append(
            HeaderName::from_bytes(name.as_bytes()).ok()?,
            HeaderValue::from_bytes(value.as_bytes()).ok()?,
        );
    }
    Some(parts)
}

/// Headers of a browser.
const PLAIN: [(&str, &str); 8] = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("cookie", "theme=dark; lang=en"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-site", "none"),
];

/// Searches for the most expensive input by mutation of the most expensive one so far.
fn most_expensive(parsers: &Parsers, parser: &Parser, rng: &mut SeededRng) -> (String, Duration) {
    let mut best = (String::new(), Duration::ZERO);
    let seeds = parser.tokens.iter().flat_map(|token| {
        [1, 4, 70, usize::MAX].map(|count| token.repeat(count.min(parser.most_bytes / token.len())))
    });
    let mut tries: Vec<String> = seeds.collect();
    for _ in 0..STEPS {
        let input = tries.pop().unwrap_or_else(|| mutated(&best.0, parser, rng));
        let cost = parsers.cost(parser, &input, 2);
        if cost > best.1 {
            best = (input, cost);
        }
    }
    let cost = parsers.cost(parser, &best.0, 15);
    (best.0, cost)
}

fn mutated(input: &str, parser: &Parser, rng: &mut SeededRng) -> String {
    let mut out = input.to_owned();
    for _ in 0..=rng.below(3) {
        let at = below(rng, out.len() + 1);
        let token = *rng.choose(parser.tokens);
        match rng.below(4) {
            0 => out.insert_str(at, &token.repeat(*rng.choose(&[1, 2, 8, 64, 512]))),
            1 => out.truncate(at),
            2 => out = out.replacen(*rng.choose(parser.tokens), token, 64),
            _ => {
                let start = below(rng, at + 1);
                let part = out[start..at].to_owned();
                out.insert_str(at, &part);
            }
        }
    }
    out.truncate(parser.most_bytes);
    out
}

fn below(rng: &mut SeededRng, limit: usize) -> usize {
    usize::try_from(rng.below(limit as u64)).unwrap_or(0)
}

#[test]
fn no_input_costs_more_than_a_hundred_plain_requests() {
    let parsers = Parsers::new();
    let plain = Parser {
        name: "plain",
        most_bytes: 0,
        tokens: &[],
        run: |parsers, _| parsers.request("a.test", "/wiki/page", &[]),
    };
    let unit = parsers.cost(&plain, "", 200);
    let mut rng = SeededRng::new(14, 0);
    let mut report = format!("a plain request: {unit:?}\n");
    let mut is_over = false;
    for parser in &PARSERS {
        let (input, cost) = most_expensive(&parsers, parser, &mut rng);
        let shown: String = input.chars().take(120).collect();
        let times = cost.as_secs_f64() / unit.as_secs_f64();
        is_over |= cost > MAX_COST * unit;
        writeln!(report, "{times:6.1} × for {}: {} bytes, {shown:?}", parser.name, input.len())
            .expect("a string");
    }
    println!("{report}");
    assert!(!is_over, "{report}");
}
