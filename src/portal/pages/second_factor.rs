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
    /// Value of the hidden field `csrf`: the sealed first step, which belongs to this browser.
    pub pending: &'a str,
    /// Value of the hidden field `to`: the sealed return URL.
    pub target: &'a str,
    /// The form of a passkey, if the user has one for this domain.
    pub passkey: Option<PasskeyForm>,
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
    pub rows: Vec<FactorRow>,
    /// The form for a new passkey.
    pub passkey: Option<PasskeyForm>,
    /// ID of the user for authenticators, in Base64url.
    pub user_id: &'a str,
    /// The form for a new app.
    pub setup: Option<AppSetup<'a>>,
}

/// What the script needs to create or use a passkey.
pub struct PasskeyForm {
    /// Base64url.
    pub challenge: String,
    /// Value of the hidden field `challenge`.
    pub sealed: String,
    pub domain: String,
    /// IDs of known passkeys in Base64url, separated by spaces.
    pub known: String,
    /// COSE algorithms, separated by spaces.
    pub algorithms: String,
}

/// One factor in the list.
pub struct FactorRow {
    /// Value of the hidden field `factor`.
    pub handle: String,
    /// What it is.
    pub kind: &'static str,
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
