//! Logins at one directory.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ldap3_proto::proto::{LdapDerefAliases, LdapFilter, LdapSearchRequest, LdapSearchScope};
use rustls::ClientConfig;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::{LdapSection, LdapUrl};

use super::account::{self, LdapAccount, STATE_ATTRIBUTES};
use super::connection::{BindAnswer, LdapConnection, NoAnswer};
use super::entry::Entry;
use super::failure::{LdapFailure, LdapRefusal};
use super::password;

/// Maximum length of a name in bytes.
const NAME_MAX: usize = 256;

/// Maximum number of groups that a search returns; an account may have fewer.
const MAX_GROUPS: i32 = 1000;

/// The account that searches for users.
pub struct ServiceAccount {
    pub dn: String,
    pub password: Zeroizing<String>,
}

/// A directory. Shared by all workers behind an [`Arc`].
pub struct LdapDirectory {
    settings: LdapSection,
    service: Option<ServiceAccount>,
    tls: Arc<ClientConfig>,
    clock: Clock,
    /// Index of the server that answered last.
    preferred: AtomicUsize,
}

/// Without the password of the service account.
impl fmt::Debug for LdapDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LdapDirectory({})", self.settings.name)
    }
}

/// The one entry of a user, with their groups.
struct Found {
    dn: String,
    entry: Entry,
    groups: Result<Vec<String>, LdapRefusal>,
}

impl LdapDirectory {
    /// Sends nothing, so a directory that is down does not delay a start.
    pub fn new(
        settings: LdapSection,
        service: Option<ServiceAccount>,
        tls: Arc<ClientConfig>,
        clock: Clock,
    ) -> LdapDirectory {
        LdapDirectory { settings, service, tls, clock, preferred: AtomicUsize::new(0) }
    }

    pub fn settings(&self) -> &LdapSection {
        &self.settings
    }

    /// Verifies a password. The account is checked after it, so that only its user learns the reason.
    ///
    /// # Errors
    /// No login; see [`LdapFailure`].
    pub async fn log_in(&self, name: &str, password: &str) -> Result<LdapAccount, LdapFailure> {
        if !is_name(name) {
            return Err(LdapRefusal::Unknown.into());
        }
        if !password::is_sendable(password) {
            return Err(LdapRefusal::Password("it is empty or too long".to_owned()).into());
        }
        let found = self.find(name).await?;
        match self.bind(&found.dn, password).await? {
            BindAnswer::Accepted => Ok(self.accept(found)?),
            BindAnswer::Refused(text) => Err(LdapRefusal::Password(text).into()),
        }
    }

    /// Returns the current account of a name that logged in before.
    ///
    /// # Errors
    /// The directory does not answer, or no longer admits the account.
    pub async fn confirm(&self, name: &str) -> Result<LdapAccount, LdapFailure> {
        let found = self.find(name).await?;
        Ok(self.accept(found)?)
    }

    fn accept(&self, found: Found) -> Result<LdapAccount, LdapRefusal> {
        account::check_state(&found.entry, self.clock.now())?;
        let account = account::account(&found.entry, &self.settings.attributes, found.groups?)?;
        let allowed = &self.settings.allow_groups;
        match allowed.is_empty() || allowed.iter().any(|group| account.groups.contains(group)) {
            true => Ok(account),
            false => Err(LdapRefusal::NotAllowed),
        }
    }

    async fn find(&self, name: &str) -> Result<Found, LdapFailure> {
        let mut problems = Vec::new();
        for server in self.servers() {
            match self.answer_of(server, self.find_at(server.1, name)).await {
                Ok(found) => return Ok(found?),
                Err(problem) => problems.push(problem),
            }
        }
        Err(LdapFailure::Unavailable(problems.join("; ")))
    }

    /// Verifies a password on a connection of its own.
    async fn bind(&self, dn: &str, password: &str) -> Result<BindAnswer, LdapFailure> {
        let mut problems = Vec::new();
        for server in self.servers() {
            let answer = async { self.connect(server.1).await?.bind(dn, password).await };
            match self.answer_of(server, answer).await {
                Ok(answer) => return Ok(answer),
                Err(problem) => problems.push(problem),
            }
        }
        Err(LdapFailure::Unavailable(problems.join("; ")))
    }

    async fn find_at(
        &self,
        url: &LdapUrl,
        name: &str,
    ) -> Result<Result<Found, LdapRefusal>, NoAnswer> {
        let mut connection = self.connect(url).await?;
        if let Some(service) = &self.service {
            match connection.bind(&service.dn, &service.password).await? {
                BindAnswer::Accepted => {}
                BindAnswer::Refused(text) => {
                    return Err(NoAnswer(format!("the service account is refused: {text}")));
                }
            }
        }
        let (entries, has_more) = connection.search(self.user_search(name)).await?;
        let entry = match <[Entry; 1]>::try_from(entries) {
            Ok([entry]) if !has_more => entry,
            Err(none) if none.is_empty() && !has_more => return Ok(Err(LdapRefusal::Unknown)),
            Ok(_) | Err(_) => return Ok(Err(LdapRefusal::Several)),
        };
        // A bind without a name is anonymous.
        if entry.dn().trim().is_empty() {
            return Ok(Err(LdapRefusal::Entry("it has no name".to_owned())));
        }
        let groups = self.groups(&mut connection, name, &entry).await?;
        Ok(Ok(Found { dn: entry.dn().to_owned(), entry, groups }))
    }

    async fn groups(
        &self,
        connection: &mut LdapConnection,
        name: &str,
        user: &Entry,
    ) -> Result<Result<Vec<String>, LdapRefusal>, NoAnswer> {
        let names = &self.settings.attributes;
        let base = self.settings.groups_base.as_ref().unwrap_or(&self.settings.base);
        let Some(filter) = &self.settings.group_filter else {
            return Ok(account::groups_of_entry(user, names, base));
        };
        let attributes = vec![names.group_name.clone()];
        let filter = filter.fill(name, user.dn());
        let (entries, has_more) =
            connection.search(self.search(base, filter, attributes, MAX_GROUPS)).await?;
        Ok(match has_more {
            true => Err(LdapRefusal::Entry("it has too many groups".to_owned())),
            false => account::groups_of_search(&entries, names),
        })
    }

    fn user_search(&self, name: &str) -> LdapSearchRequest {
        let names = &self.settings.attributes;
        let mut attributes = vec![&names.id, &names.user, &names.name, &names.email];
        if self.settings.group_filter.is_none() {
            attributes.push(&names.groups);
        }
        let attributes = attributes.into_iter().map(String::as_str).chain(STATE_ATTRIBUTES);
        let attributes = attributes.map(str::to_owned).collect();
        // One more than allowed, to notice that there are several.
        self.search(&self.settings.base, self.settings.user_filter.fill(name, ""), attributes, 2)
    }

    fn search(
        &self,
        base: &str,
        filter: LdapFilter,
        attrs: Vec<String>,
        sizelimit: i32,
    ) -> LdapSearchRequest {
        LdapSearchRequest {
            base: base.to_owned(),
            scope: LdapSearchScope::Subtree,
            aliases: LdapDerefAliases::Never,
            sizelimit,
            timelimit: i32::try_from(self.settings.timeout.as_secs().max(1)).unwrap_or(1),
            typesonly: false,
            filter,
            attrs,
        }
    }

    async fn connect(&self, url: &LdapUrl) -> Result<LdapConnection, NoAnswer> {
        LdapConnection::open(url, self.settings.starttls, &self.tls).await
    }

    /// Returns the servers, beginning with the one that answered last.
    fn servers(&self) -> impl Iterator<Item = (usize, &LdapUrl)> {
        let (urls, first) = (&self.settings.urls, self.preferred.load(Ordering::Relaxed));
        urls.iter().enumerate().cycle().skip(first).take(urls.len())
    }

    /// Waits for an answer for a limited time.
    async fn answer_of<T>(
        &self,
        (index, url): (usize, &LdapUrl),
        answer: impl Future<Output = Result<T, NoAnswer>>,
    ) -> Result<T, String> {
        let timeout = self.settings.timeout;
        let problem = match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => {
                self.preferred.store(index, Ordering::Relaxed);
                return Ok(answer);
            }
            Ok(Err(NoAnswer(problem))) => problem,
            Err(_) => format!("no answer within {timeout:?}"),
        };
        Err(format!("{}:{}: {problem}", url.host, url.port))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX && !name.chars().any(char::is_control)
}
