//! `doorward explain`: what the gateway would do with a request, before anybody makes it.

mod rules;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use http::{Method, Uri};

use crate::app::read_atlas;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::identity::Directory;
use crate::proxy::{Explanation, Hypothesis, HypotheticalSession, SignalsExplained, explain};
use crate::risk::{Atlas, Country};
use crate::session::{ClientContext, Identity};

use super::check;

/// Documentation network (RFC 5737): nobody in particular.
const SOMEBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Another one, where the session was when only countries are said.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

#[derive(Args)]
pub struct ExplainArgs {
    /// Where the request goes, as in https://wiki.example.com/admin
    #[allow(rustdoc::bare_urls, reason = "it is the text of --help")]
    #[arg(value_parser = url)]
    url: Uri,
    /// The configuration
    #[arg(long, default_value = "config/doorward.toml", env = "DOORWARD_CONFIG")]
    config: PathBuf,
    #[arg(long, default_value = "GET")]
    method: Method,
    /// With a session of this user; without it the request has no cookie
    #[arg(long)]
    user: Option<String>,
    /// His groups, with commas between them; the users file's when not given
    #[arg(long, value_delimiter = ',', requires = "user")]
    groups: Option<Vec<String>>,
    /// Since the session began, as in 3h; it began now when not given
    #[arg(long, requires = "user", value_parser = config::duration)]
    session_age: Option<Duration>,
    /// Since its last activity, as in 20m
    #[arg(long, visible_alias = "away", requires = "user", value_parser = config::duration)]
    idle: Option<Duration>,
    /// Since the user last proved who he is; the session's age when not given
    #[arg(long, requires = "user", value_parser = config::duration)]
    auth_age: Option<Duration>,
    /// The client's address
    #[arg(long, visible_alias = "client", default_value_t = SOMEBODY)]
    from: IpAddr,
    #[command(flatten)]
    moved: MovedArgs,
    /// Write JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// A session that is used from a new place. What is not said stays as it was.
#[derive(Args)]
struct MovedArgs {
    /// Where the session was used until now
    #[arg(long, value_name = "ADDRESS", requires = "user")]
    last_from: Option<IpAddr>,
    /// The client's country, as in DE; what the databases say where it is not given
    #[arg(long, value_name = "CC", requires = "user", value_parser = country)]
    country: Option<Country>,
    /// The country where the session was until now
    #[arg(long, value_name = "CC", requires = "user", value_parser = country)]
    last_country: Option<Country>,
    /// The client's User-Agent
    #[arg(long, value_name = "TEXT")]
    agent: Option<String>,
    /// The one that the session was used with until now
    #[arg(long, value_name = "TEXT", requires = "user")]
    last_agent: Option<String>,
    /// The client's Accept-Language
    #[arg(long, value_name = "TEXT")]
    language: Option<String>,
    /// The one at the login
    #[arg(long, value_name = "TEXT", requires = "user")]
    last_language: Option<String>,
}

impl MovedArgs {
    /// Another country is another network, whether an address is said or not.
    fn last_from(&self, from: IpAddr) -> IpAddr {
        let abroad = self.country.is_some() || self.last_country.is_some();
        self.last_from.unwrap_or(if abroad { ELSEWHERE } else { from })
    }

    /// Where the session was.
    fn last(&self, from: IpAddr) -> ClientContext {
        let agent = self.last_agent.as_ref().or(self.agent.as_ref());
        let language = self.last_language.as_ref().or(self.language.as_ref());
        ClientContext::new(self.last_from(from), bytes(agent)).speaking(bytes(language))
    }

    /// What is known of both addresses.
    fn atlas(&self, from: IpAddr, config: &Config) -> Atlas {
        let said = [(from, self.country), (self.last_from(from), self.last_country)];
        let said = said.into_iter().filter_map(|(address, country)| Some((address, country?)));
        said.fold(databases(config), |atlas, (address, country)| {
            atlas.saying(address.to_canonical(), country)
        })
    }
}

/// Without those that cannot be used, which somebody has to know who reads what would happen.
fn databases(config: &Config) -> Atlas {
    let (atlas, wrong) = read_atlas(&config.signals);
    for file in wrong {
        eprintln!("warning: {file}; it cannot be used, and its signals are missing");
    }
    atlas
}

fn bytes(text: Option<&String>) -> &[u8] {
    text.map_or(b"", String::as_bytes)
}

fn country(text: &str) -> Result<Country, String> {
    Country::read(text).ok_or_else(|| "a country has two letters, as in DE".to_owned())
}

/// Exit code 0 whatever the verdict is: it was explained.
pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&args.config) {
        Ok((config, _)) => config,
        Err(problems) => return Ok(check::refuse(&problems)),
    };
    let hypothesis = hypothesis(args, &config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let atlas = args.moved.atlas(args.from, &config);
    let explanation = runtime.block_on(explain(&config, atlas, &hypothesis))?;
    let text = match args.json {
        true => format!("{:#}\n", serde_json::to_value(&explanation)?),
        false => drawn(&explanation),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn url(text: &str) -> Result<Uri, String> {
    let help = "write it whole, as in https://wiki.example.com/admin";
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
        agent: args.moved.agent.clone().unwrap_or_default(),
        language: args.moved.language.clone().unwrap_or_default(),
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
    let from = args.moved.last(args.from);
    Ok(Some(HypotheticalSession { identity, age, idle, auth_age, from }))
}

/// As the users file has him; with other groups when they are given.
fn identity(user: &str, groups: Option<&[String]>, config: &Config) -> anyhow::Result<Identity> {
    let users = config.login.password.as_ref().map(|login| login.users.as_path());
    let known = users.and_then(|users| account(users, user));
    match (known, groups) {
        (Some(known), None) => Ok(known),
        (Some(known), Some(groups)) => Ok(Identity { groups: groups.to_vec(), ..known }),
        (None, Some(groups)) => {
            Ok(Identity { user: user.to_owned(), groups: groups.to_vec(), ..Identity::default() })
        }
        (None, None) => bail!("{user} is not in the users file; say his groups with --groups"),
    }
}

fn account(users: &Path, user: &str) -> Option<Identity> {
    let account = Directory::open(users).ok()?.find(user)?;
    Some(Identity::clone(&account.identity))
}

fn drawn(told: &Explanation) -> String {
    let mut lines = vec![format!("{} https://{}{}", told.method, told.host, told.path)];
    let mut say = |name: &str, text: &str| lines.push(format!("  {name:<10}{text}"));
    if let Some(route) = &told.route {
        say("route", &format!("{} → {}", route.label, route.upstreams.join(", ")));
        say("access", &route.access);
        let limits: Vec<String> =
            route.limits.iter().map(|(name, value)| format!("{name} {value}")).collect();
        if !limits.is_empty() {
            say("limits", &limits.join(", "));
        }
        if let Some(session) = &route.session {
            rules::of_route(session, &mut say);
        }
    }
    say("verdict", told.verdict);
    say("why", &told.why);
    if told.renews {
        say("token", "a new one goes with the answer");
    }
    if let Some(effects) = told.effects {
        rules::of_request(effects, &mut say);
    }
    if let Some(signals) = &told.signals {
        moved(signals, &mut say);
    }
    for answer in &told.answers {
        let mut text = format!("{} to {}", answer.status, answer.to);
        if let Some(location) = &answer.location {
            let _ = write!(text, ", Location: {location}");
        }
        say("answer", &text);
    }
    for (name, value) in &told.upstream_headers {
        say("upstream", &format!("{name}: {value}"));
    }
    lines.join("\n") + "\n"
}

/// What speaks against the place, where something does.
fn moved(told: &SignalsExplained, say: &mut impl FnMut(&str, &str)) {
    if told.signals.is_empty() {
        return say("signals", &format!("none, nothing is new (this route: {})", told.route));
    }
    let weighed: Vec<String> =
        told.signals.iter().map(|(name, weight)| format!("{name} {weight}")).collect();
    let thresholds: Vec<String> = told
        .thresholds
        .iter()
        .map(|(name, score)| {
            format!("{name} {}", score.map_or("never".to_owned(), |at| at.to_string()))
        })
        .collect();
    say("here", &told.here);
    say("last", &told.last);
    say("signals", &weighed.join(", "));
    say("score", &format!("{} of {}: {}", told.score, thresholds.join(", "), told.answer));
    say("monitor", told.in_monitor);
    say("enforce", told.in_enforce);
    say("setting", &format!("signals = \"{}\" on this route", told.route));
}
