//! LDAP directories: built from `[login.ldap.NAME]`.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::LdapSection;
use crate::identity::LdapLogins;
use crate::ldap::{LdapDirectory, ServiceAccount};
use crate::tls;

use super::secrets;
use super::start_error::StartError;

/// Builds the directories. Sends nothing, so a directory that is down does not delay a start.
///
/// # Errors
/// The password of a service account or a CA file cannot be used.
pub(super) fn directories(
    sections: &[LdapSection],
    clock: &Clock,
) -> Result<LdapLogins, StartError> {
    let directories = sections.iter().map(|section| {
        let tls = tls::client_config(section.ca.as_deref())?;
        let service = service_account(section)?;
        Ok(Arc::new(LdapDirectory::new(section.clone(), service, tls, clock.clone())))
    });
    Ok(LdapLogins::new(directories.collect::<Result<_, StartError>>()?))
}

fn service_account(section: &LdapSection) -> Result<Option<ServiceAccount>, StartError> {
    let Some(dn) = section.bind_dn.clone() else { return Ok(None) };
    let variable = section.password_variable();
    let password = secrets::read_file_or_variable(section.bind_password_file.as_ref(), &variable)?;
    // With an empty password, the directory would take the service account for an anonymous user.
    let password = password.filter(|password| !password.is_empty()).ok_or_else(|| {
        let directory = section.name.clone();
        let problem = format!(
            "has no password for bind_dn: write bind_password_file = \"…\", or set the environment variable {variable}"
        );
        StartError::Ldap { directory, problem }
    })?;
    Ok(Some(ServiceAccount { dn, password }))
}
