//! `doorward explain`: how the proxy would handle a request.

mod rules;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Uri};

use crate::app::read_geoip_databases;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::explain::{Explanation, Hypothesis, HypotheticalSession, RiskExplanation, explain};
use crate::identity::Directory;
use crate::risk::{Country, GeoIp};
use crate::session::{ClientContext, Identity};

use super::{check, terminal};

/// Default client address, of a documentation network (RFC 5737).
const PLACEHOLDER_ADDR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Default previous address if only countries are given.
const OTHER_PLACEHOLDER_ADDR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

#[derive(Args)]
pub struct ExplainArgs {
    /// URL of the request, as in https://wiki.example.com/admin
    #[allow(rustdoc::bare_urls, reason = "it is the text of --help")]
    #[arg(value_parser = url)]
    url: Uri,
    /// Configuration file
    #[arg(long, default_value = "config/doorward.toml", env = "DOORWARD_CONFIG")]
    config: PathBuf,
    #[arg(long, default_value = "GET")]
    method: Method,
    /// Send a session of this user; without it the request has no cookie
    #[arg(long)]
    user: Option<String>,
    /// Groups of the user, separated by commas; default: those in the users file
    #[arg(long, value_delimiter = ',', requires = "user")]
    groups: Option<Vec<String>>,
    /// Age of the session, as in 3h; default: just created
    #[arg(long, requires = "user", value_parser = config::duration)]
    session_age: Option<Duration>,
    /// Time since the last activity, as in 20m
    #[arg(long, visible_alias = "away", requires = "user", value_parser = config::duration)]
    idle: Option<Duration>,
    /// Time since the last authentication; default: the session's age
    #[arg(long, requires = "user", value_parser = config::duration)]
    auth_age: Option<Duration>,
    /// Client address
    #[arg(long, visible_alias = "client", default_value_t = PLACEHOLDER_ADDR)]
    from: IpAddr,
    #[command(flatten)]
    location: LocationArgs,
    /// Write JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// A session used from a new location. Values that are not given stay the same.
#[derive(Args)]
struct LocationArgs {
    /// Client address of the session until now
    #[arg(long, value_name = "ADDRESS", requires = "user")]
    last_from: Option<IpAddr>,
    /// Country of the client, as in DE; default: from the GeoIP databases
    #[arg(long, value_name = "CC", requires = "user", value_parser = country)]
    country: Option<Country>,
    /// Country of the session until now
    #[arg(long, value_name = "CC", requires = "user", value_parser = country)]
    last_country: Option<Country>,
    /// User-Agent of the client
    #[arg(long, value_name = "TEXT")]
    agent: Option<String>,
    /// User-Agent of the session until now
    #[arg(long, value_name = "TEXT", requires = "user")]
    last_agent: Option<String>,
    /// Accept-Language of the client
    #[arg(long, value_name = "TEXT")]
    language: Option<String>,
    /// Accept-Language at the login
    #[arg(long, value_name = "TEXT", requires = "user")]
    last_language: Option<String>,
}

impl LocationArgs {
    /// A different country implies a different network, even without an address.
    fn last_from(&self, from: IpAddr) -> IpAddr {
        let abroad = self.country.is_some() || self.last_country.is_some();
        self.last_from.unwrap_or(if abroad { OTHER_PLACEHOLDER_ADDR } else { from })
    }

    /// `User-Agent` and `Accept-Language` of the request.
    fn headers(&self) -> anyhow::Result<HeaderMap> {
        let values = [(header::USER_AGENT, &self.agent), (header::ACCEPT_LANGUAGE, &self.language)];
        let given = values.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
        given.map(|(name, text)| Ok((name, HeaderValue::from_str(text)?))).collect()
    }

    /// The client of the session until now.
    fn last(&self, from: IpAddr) -> ClientContext {
        let agent = self.last_agent.as_ref().or(self.agent.as_ref());
        let language = self.last_language.as_ref().or(self.language.as_ref());
        ClientContext::new(self.last_from(from), bytes(agent)).with_language(bytes(language))
    }

    /// GeoIP data with the given countries.
    fn geoip(&self, from: IpAddr, config: &Config) -> GeoIp {
        let parts = [(from, self.country), (self.last_from(from), self.last_country)];
        let parts = parts.into_iter().filter_map(|(address, country)| Some((address, country?)));
        parts.fold(load_geoip(config), |geoip, (address, country)| {
            geoip.with_override(address.to_canonical(), country)
        })
    }
}

/// Loads the GeoIP databases. Warns of unusable ones, because their signals are missing in the result.
fn load_geoip(config: &Config) -> GeoIp {
    let (geoip, wrong) = read_geoip_databases(&config.signals);
    for file in wrong {
        eprintln!("warning: {file}; its signals are missing");
    }
    geoip
}

fn bytes(text: Option<&String>) -> &[u8] {
    text.map_or(b"", String::as_bytes)
}

fn country(text: &str) -> Result<Country, String> {
    Country::parse(text).ok_or_else(|| "a country has two letters, as in DE".to_owned())
}

/// Exit code 0 for any verdict.
pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&args.config) {
        Ok((config, _)) => config,
        Err(error) => return Ok(check::print_config_error(&error)),
    };
    let hypothesis = hypothesis(args, &config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let geoip = args.location.geoip(args.from, &config);
    let explanation = runtime.block_on(explain(&config, geoip, &hypothesis))?;
    let text = match args.json {
        true => format!("{:#}\n", serde_json::to_value(&explanation)?),
        false => render(&explanation),
    };
    terminal::out().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn url(text: &str) -> Result<Uri, String> {
    let help = "write an absolute URL, as in https://wiki.example.com/admin";
    let url: Uri = text.parse().map_err(|error| format!("{error}; {help}"))?;
    match (url.scheme_str(), url.host()) {
        (Some("https"), Some(_)) => Ok(url),
        (Some("http"), Some(_)) => Err("plain http is only redirected; write https://".to_owned()),
        _ => Err(format!("no address; {help}")),
    }
}

fn hypothesis(args: &ExplainArgs, config: &Config) -> anyhow::Result<Hypothesis> {
    Ok(Hypothesis {
        method: args.method.clone(),
        url: args.url.clone(),
        client: args.from,
        headers: args.location.headers()?,
        session: session(args, config)?,
        now: Clock::System.now(),
    })
}

fn session(args: &ExplainArgs, config: &Config) -> anyhow::Result<Option<HypotheticalSession>> {
    let Some(user) = &args.user else { return Ok(None) };
    let idle = args.idle.unwrap_or_default();
    let least = idle.max(args.auth_age.unwrap_or_default());
    let age = args.session_age.unwrap_or(least);
    if age < least {
        bail!("--idle and --auth-age cannot be longer than --session-age");
    }
    let identity = identity(user, args.groups.as_deref(), config)?;
    let auth_age = args.auth_age.unwrap_or(age);
    let from = args.location.last(args.from);
    Ok(Some(HypotheticalSession { identity, age, idle, auth_age, from }))
}

/// The identity of the users file, with `groups` if given.
fn identity(user: &str, groups: Option<&[String]>, config: &Config) -> anyhow::Result<Identity> {
    let users = config.login.password.as_ref().map(|login| login.users.as_path());
    let known = users.and_then(|users| account(users, user));
    match (known, groups) {
        (Some(known), None) => Ok(known),
        (Some(known), Some(groups)) => Ok(Identity { groups: groups.to_vec(), ..known }),
        (None, Some(groups)) => {
            Ok(Identity { user: user.to_owned(), groups: groups.to_vec(), ..Identity::default() })
        }
        (None, None) => bail!("{user} is not in the users file; set groups with --groups"),
    }
}

fn account(users: &Path, user: &str) -> Option<Identity> {
    let account = Directory::open(users).ok()?.find(user)?;
    Some(Identity::clone(&account.identity))
}

fn render(explanation: &Explanation) -> String {
    let mut lines =
        vec![format!("{} https://{}{}", explanation.method, explanation.host, explanation.path)];
    let mut row = |name: &str, text: &str| lines.push(format!("  {name:<10}{text}"));
    if let Some(route) = &explanation.route {
        row("route", &format!("{} → {}", route.label, route.upstreams.join(", ")));
        row("access", &route.access);
        let limits: Vec<String> =
            route.limits.iter().map(|(name, value)| format!("{name} {value}")).collect();
        if !limits.is_empty() {
            row("limits", &limits.join(", "));
        }
        if let Some(session) = &route.session {
            rules::render_route(session, &mut row);
        }
    }
    row("verdict", explanation.verdict);
    row("why", &explanation.why);
    if explanation.rotates {
        row("token", "the response sets a new one");
    }
    if let Some(effects) = explanation.effects {
        rules::render_request(effects, &mut row);
    }
    if let Some(risk) = &explanation.risk {
        render_risk(risk, &mut row);
    }
    for response in &explanation.responses {
        let mut text = format!("{} to {}", response.status, response.to);
        if let Some(location) = &response.location {
            let _ = write!(text, ", Location: {location}");
        }
        row("response", &text);
    }
    for (name, value) in &explanation.upstream_headers {
        row("upstream", &format!("{name}: {value}"));
    }
    lines.join("\n") + "\n"
}

/// Renders the risk assessment.
fn render_risk(explanation: &RiskExplanation, row: &mut impl FnMut(&str, &str)) {
    if explanation.signals.is_empty() {
        return row("signals", &format!("none, nothing is new (this route: {})", explanation.mode));
    }
    let weighed: Vec<String> =
        explanation.signals.iter().map(|(name, weight)| format!("{name} {weight}")).collect();
    let thresholds: Vec<String> = explanation
        .thresholds
        .iter()
        .map(|(name, score)| {
            format!("{name} {}", score.map_or("never".to_owned(), |at| at.to_string()))
        })
        .collect();
    row("from", &explanation.from);
    row("last from", &explanation.last_from);
    row("signals", &weighed.join(", "));
    row(
        "score",
        &format!("{} of {}: {}", explanation.score, thresholds.join(", "), explanation.action),
    );
    row("monitor", explanation.in_monitor);
    row("enforce", explanation.in_enforce);
    row("setting", &format!("signals = \"{}\" on this route", explanation.mode));
}
