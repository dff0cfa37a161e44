//! `preset`: settings for a well-known app, as defaults of its route. A key that the route sets replaces the
//! one of the preset.
//!
//! A preset is a TOML file with keys of `[[route]]`. [docs/apps.md] states what to set in each app.
//!
//! [docs/apps.md]: ../../../docs/apps.md

use std::str::FromStr;

use toml::Table;

use super::unknown;

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("presets/", $name, ".toml")))),*]
    };
}

/// Name and text of every preset.
pub(super) const PRESETS: [(&str, &str); 20] = presets![
    "calibre-web",
    "freshrss",
    "gitea",
    "grafana",
    "home-assistant",
    "jenkins",
    "jupyter",
    "linkding",
    "mediawiki",
    "miniflux",
    "navidrome",
    "netbox",
    "node-red",
    "octoprint",
    "open-webui",
    "paperless-ngx",
    "pgadmin",
    "radicale",
    "superset",
    "wsgidav",
];

/// Returns the keys of a preset.
pub(super) fn parse(name: &str) -> Result<Table, String> {
    let text = PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    let text = text.ok_or_else(|| unknown_name(name))?;
    Table::from_str(text).map_err(|error| error.to_string())
}

fn unknown_name(name: &str) -> String {
    let names = PRESETS.map(|(known, _)| known);
    match unknown::closest(name, &names) {
        Some(suggestion) => format!("`{name}` is unknown; did you mean \"{suggestion}\"?"),
        None => format!("`{name}` is unknown; known are {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    /// Loads a configuration whose only route ends with `keys`.
    fn routes(keys: &str) -> String {
        let text = format!(
            "[server]\nhttps = [\"127.0.0.1:0\"]\n[login.password]\nusers = \"users.toml\"\n\
             [[tls.certificate]]\ncert = \"a.pem\"\nkey = \"a.key\"\n[[route]]\n\
             host = \"app.example.com\"\nupstream = \"http://127.0.0.1:3000\"\n\
             access = \"session\"\n{keys}"
        );
        let loaded = Config::parse(&text, "test.toml", Path::new(""));
        let (config, warnings) = loaded.unwrap_or_else(|error| panic!("{keys}\n{error}"));
        assert!(warnings.is_empty(), "{keys}: {warnings:?}");
        format!("{:?}", config.routes)
    }

    #[test]
    fn a_preset_is_the_same_as_its_keys_in_the_route() {
        for (name, text) in PRESETS {
            let written = routes(&text.replace("[session]", "[route.session]"));
            assert_eq!(routes(&format!("preset = \"{name}\"")), written, "{name}");
            assert_ne!(written, routes(""), "{name}");
        }
    }

    #[test]
    fn a_key_of_the_route_replaces_that_of_the_preset() {
        let identity = "identity = { \"X-Remote-User\" = \"{email}\" }";
        let times = "[route.session]\nidle_timeout = \"5m\"";
        let both = routes(&format!("preset = \"node-red\"\n{identity}\n{times}"));
        let activity = "logout_paths = [\"/auth/revoke\"]\nactivity = { except = [\"/comms\"] }";
        assert_eq!(both, routes(&format!("{identity}\n{times}\n{activity}")));
    }

    #[test]
    fn the_documentation_describes_every_preset() {
        let page = include_str!("../../docs/apps.md");
        for (name, _) in PRESETS {
            assert!(page.contains(&format!("`{name}`")), "{name} is missing in docs/apps.md");
        }
    }
}
