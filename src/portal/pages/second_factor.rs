//! The question for a code at the login, and the page with the second factors of a user.

use askama::Template;

use super::Help;

/// The second step of a login.
#[derive(Template)]
#[template(path = "login_code.html")]
pub struct LoginCodePage<'a> {
    pub site: &'a str,
    /// Host that the login is for.
    pub host: &'a str,
    pub user: &'a str,
    /// Why the last code was not accepted; empty before the first.
    pub error: &'a str,
    /// Value of the hidden field `login`: the sealed first step.
    pub pending: &'a str,
    /// Value of the hidden field `to`: the sealed return URL.
    pub target: &'a str,
    pub help: Option<&'a Help>,
}

/// The second factors of a user.
#[derive(Template)]
#[template(path = "second_factors.html")]
pub struct SecondFactorsPage<'a> {
    pub site: &'a str,
    pub user: &'a str,
    pub csrf: &'a str,
    /// Value of the hidden field `to`: the sealed return URL.
    pub target: &'a str,
    /// Page that the user can continue at; empty for none.
    pub continue_at: &'a str,
    /// Why the last form had no effect; empty otherwise.
    pub error: &'a str,
    /// Whether an app must be set up before the user can open a page.
    pub is_required: bool,
    /// New recovery codes, which are shown only once.
    pub new_codes: Vec<&'a str>,
    /// Number of recovery codes left.
    pub codes_left: usize,
    pub apps: Vec<AppRow>,
    /// The form for a new app.
    pub setup: Option<AppSetup<'a>>,
}

/// One authenticator app in the list.
pub struct AppRow {
    /// Value of the hidden field `app`.
    pub handle: String,
    pub name: String,
    pub added: String,
}

/// The secret of a new authenticator app.
pub struct AppSetup<'a> {
    pub qr: &'a QrCode,
    /// The secret as users type it.
    pub secret: &'a str,
    /// Value of the hidden field `setup`: the sealed secret.
    pub sealed: &'a str,
    /// Name of the last attempt.
    pub name: &'a str,
}

/// A QR code as the path of an SVG image with one unit per module.
pub struct QrCode {
    pub path: String,
    /// Width and height, with the quiet zone of four modules.
    pub size: i32,
}

const QUIET_ZONE: i32 = 4;

impl QrCode {
    /// Encodes a text; `None` if it is too long.
    pub fn encode(text: &str) -> Option<QrCode> {
        let code = qrcodegen::QrCode::encode_text(text, qrcodegen::QrCodeEcc::Medium).ok()?;
        let size = code.size();
        let modules = (0..size).flat_map(|y| (0..size).map(move |x| (x, y)));
        let dark = modules.filter(|(x, y)| code.get_module(*x, *y));
        let path = dark.map(|(x, y)| format!("M{},{}h1v1h-1z", x + QUIET_ZONE, y + QUIET_ZONE));
        Some(QrCode { path: path.collect(), size: size + 2 * QUIET_ZONE })
    }
}
