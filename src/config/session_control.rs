//! `[route.session]` except its times: activity, logout paths, rotation and upstream control.

use http::Method;

use super::diagnostics::KeyDefault::{Required, Value};
use super::reader::{Field, Reader};
use super::values::path_prefix;
use crate::route::{
    Activity, ActivityFrames, LogoutPage, Methods, SensitiveAction, SessionCommand,
    SessionControlRules,
};

pub(super) fn activity(section: &mut Reader<'_>) -> Option<Activity> {
    let mut section = section.section("activity", "route.session.activity")?;
    let except = section.list("except", Value("[]"), path_prefix);
    let methods = methods(&mut section, "methods");
    let navigations_only = section.flag("navigations_only", Value("false"));
    let transfers = section.flag("transfers", Value("true"));
    let websocket = section.text("websocket", Value(r#""irregular""#), frames);
    Some(Activity {
        except: values(except?),
        methods: methods?.value,
        navigations_only: navigations_only?.value,
        transfers: transfers?.value,
        websocket: websocket?.value,
    })
}

pub(super) fn session_control(section: &mut Reader<'_>) -> Option<SessionControlRules> {
    let logout = section.list("logout_paths", Value("[]"), logout_page);
    let rotate = section.sections("rotate_on", "route.session.rotate_on");
    let commands = section.list("upstream_control", Value("[]"), command);
    let rotate: Vec<_> = rotate?.into_iter().map(action).collect();
    let rotate: Option<_> = rotate.into_iter().collect();
    Some(SessionControlRules {
        logout: values(logout?),
        rotate: rotate?,
        upstream_commands: values(commands?),
    })
}

/// A path, and after `?` the query parameters that a logout has.
fn logout_page(text: &str) -> Result<LogoutPage, String> {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let parameters = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    Ok(LogoutPage { path: path_prefix(path)?, parameters })
}

fn action(mut section: Reader<'_>) -> Option<SensitiveAction> {
    let method = section.text("method", Value(r#""POST""#), method);
    let path = section.text("path", Required(r#""/account/password""#), path_prefix);
    Some(SensitiveAction { method: method?.value, path: path?.value })
}

fn method(text: &str) -> Result<Method, String> {
    let known = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::GET];
    known.into_iter().find(|method| method.as_str() == text).ok_or_else(|| {
        super::unknown::unknown_value(text, &["POST", "PUT", "PATCH", "DELETE", "GET"])
    })
}

/// Reads the methods of a rule; an empty list means all.
pub(super) fn methods(section: &mut Reader<'_>, key: &'static str) -> Option<Field<Methods>> {
    let names = Methods::CONFIGURABLE.map(|method| method.to_string());
    let list = section.list(key, Value("[]"), |text| {
        let known = Methods::CONFIGURABLE.into_iter().find(|method| method.as_str() == text);
        known.ok_or_else(|| match text {
            "HEAD" => "HEAD is included in GET; write \"GET\"".to_owned(),
            other => super::unknown::unknown_value(other, &names.each_ref().map(String::as_str)),
        })
    })?;
    let Field { span, is_set, .. } = list.clone();
    let methods = values(list);
    let value = if methods.is_empty() { Methods::All } else { Methods::Only(methods) };
    Some(Field { value, span, is_set })
}

fn frames(text: &str) -> Result<ActivityFrames, String> {
    let all = [
        ActivityFrames::None,
        ActivityFrames::Irregular,
        ActivityFrames::Client,
        ActivityFrames::Any,
    ];
    let known = all.into_iter().find(|frames| frames.as_str() == text);
    known.ok_or_else(|| super::unknown::unknown_value(text, &all.map(ActivityFrames::as_str)))
}

fn command(text: &str) -> Result<SessionCommand, String> {
    SessionCommand::from_name(text).ok_or_else(|| {
        super::unknown::unknown_value(text, &SessionCommand::ALL.map(SessionCommand::as_str))
    })
}

fn values<T>(list: Field<Vec<Field<T>>>) -> Vec<T> {
    list.value.into_iter().map(|item| item.value).collect()
}
