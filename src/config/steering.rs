//! `[route.session]`, beyond times: what counts as activity, and what ends or renews the session.

use http::Method;

use super::findings::Usual::{Is, Required};
use super::reader::{Reader, Setting};
use super::route::prefix;
use crate::route::{Action, Activity, Command, Frames, Methods, Steering};

pub(super) fn activity(section: &mut Reader<'_>) -> Option<Activity> {
    let mut section = section.section("activity", "route.session.activity")?;
    let except = section.list("except", Is("[]"), prefix);
    let methods = methods(&mut section, "methods");
    let navigations_only = section.flag("navigations_only", Is("false"));
    let websocket = section.text("websocket", Is(r#""none""#), frames);
    Some(Activity {
        except: values(except?),
        methods: methods?.value,
        navigations_only: navigations_only?.value,
        websocket: websocket?.value,
    })
}

pub(super) fn steering(section: &mut Reader<'_>) -> Option<Steering> {
    let logout = section.list("logout_paths", Is("[]"), prefix);
    let rotate = section.sections("rotate_on", "route.session.rotate_on");
    let obeyed = section.list("obey_upstream", Is("[]"), command);
    let rotate: Vec<_> = rotate?.into_iter().map(action).collect();
    let rotate: Option<_> = rotate.into_iter().collect();
    Some(Steering { logout: values(logout?), rotate: rotate?, obeyed: values(obeyed?) })
}

fn action(mut section: Reader<'_>) -> Option<Action> {
    let method = section.text("method", Is(r#""POST""#), method);
    let path = section.text("path", Required(r#""/account/password""#), prefix);
    Some(Action { method: method?.value, path: path?.value })
}

fn method(text: &str) -> Result<Method, String> {
    let known = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::GET];
    known
        .into_iter()
        .find(|method| method.as_str() == text)
        .ok_or_else(|| super::not_one_of(text, &["POST", "PUT", "PATCH", "DELETE", "GET"]))
}

/// The methods of a rule; an empty list means all.
pub(super) fn methods(section: &mut Reader<'_>, key: &'static str) -> Option<Setting<Methods>> {
    let words = Methods::NAMED.map(|method| method.to_string());
    let list = section.list(key, Is("[]"), |text| {
        let known = Methods::NAMED.into_iter().find(|method| method.as_str() == text);
        known.ok_or_else(|| match text {
            "HEAD" => "HEAD goes with GET; write \"GET\"".to_owned(),
            other => super::not_one_of(other, &words.each_ref().map(String::as_str)),
        })
    })?;
    let Setting { place, written, .. } = list.clone();
    let named = values(list);
    let value = if named.is_empty() { Methods::All } else { Methods::These(named) };
    Some(Setting { value, place, written })
}

fn frames(text: &str) -> Result<Frames, String> {
    let all = [Frames::None, Frames::Client, Frames::Any];
    let known = all.into_iter().find(|frames| frames.word() == text);
    known.ok_or_else(|| super::not_one_of(text, &all.map(Frames::word)))
}

fn command(text: &str) -> Result<Command, String> {
    Command::of(text).ok_or_else(|| super::not_one_of(text, &Command::ALL.map(Command::word)))
}

fn values<T>(list: Setting<Vec<Setting<T>>>) -> Vec<T> {
    list.value.into_iter().map(|item| item.value).collect()
}
