use std::time::Duration;

use http::StatusCode;

use super::*;
use crate::clock::UnixMillis;
use crate::oidc::EndSession;
use crate::session::notice::NoticeKind;

const NOW: UnixMillis = UnixMillis(1_795_442_700_000); // 2026-11-23T14:05:00Z

const NOTICES: [LoginNotice; 15] = [
    LoginNotice::SessionEnded,
    LoginNotice::Idle,
    LoginNotice::Absolute,
    LoginNotice::Theft,
    LoginNotice::TheftElsewhere,
    LoginNotice::Reauthenticate,
    LoginNotice::LoggedOut,
    LoginNotice::WrongPassword,
    LoginNotice::Throttled { seconds: 30 },
    LoginNotice::Busy,
    LoginNotice::Stale,
    LoginNotice::NoCookies,
    LoginNotice::PasswordChanged,
    LoginNotice::SeveralCookies,
    LoginNotice::ForeignCookie,
];

const KINDS: [NoticeKind; 7] = [
    NoticeKind::Theft,
    NoticeKind::TheftAllSessions,
    NoticeKind::TheftReauth,
    NoticeKind::LocationChangeEnded,
    NoticeKind::LocationChangeReauth,
    NoticeKind::NewLocation,
    NoticeKind::SecondFactorChanged,
];

const HOSTILE: [&str; 9] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onfocus='alert(1)",
    "\" autofocus onfocus=\"alert(1)",
    "</title></main><form action=//evil.test>",
    "<!-- ",
    "line\r\nbreak\n\nand\ttab\0",
    "{{ csrf }}{% include \"x\" %}&lt;b&gt;&amp;",
    "\u{202e}\u{2028}name\u{feff}",
];

fn errors(user: &str) -> Vec<(StatusCode, ErrorKind)> {
    vec![
        (StatusCode::BAD_REQUEST, ErrorKind::BadRequest),
        (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, ErrorKind::TooManyHeaders),
        (StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::BodyTooLarge),
        (StatusCode::FORBIDDEN, ErrorKind::CrossSite),
        (StatusCode::NOT_FOUND, ErrorKind::NotFound),
        (StatusCode::MISDIRECTED_REQUEST, ErrorKind::NoSuchSite),
        (StatusCode::METHOD_NOT_ALLOWED, ErrorKind::MethodNotAllowed),
        (StatusCode::TOO_MANY_REQUESTS, ErrorKind::TooManyAttempts { seconds: 90 }),
        (StatusCode::GATEWAY_TIMEOUT, ErrorKind::UpstreamSlow),
        (StatusCode::BAD_GATEWAY, ErrorKind::UpstreamDown),
        (StatusCode::SERVICE_UNAVAILABLE, ErrorKind::StoreUnavailable),
        (StatusCode::FORBIDDEN, ErrorKind::Forbidden { user: user.to_owned() }),
    ]
}

fn error(site: &str, status: StatusCode, kind: &ErrorKind) -> String {
    render(&ErrorPage { site, style: STYLE, status, kind, request: "", help: None })
}

fn login_page(notice: Option<LoginNotice>, text: &str) -> String {
    render(&LoginPage {
        site: text,
        host: text,
        notice,
        user: None,
        continue_at: "/",
        is_unsaved: false,
        is_too_long: false,
        csrf: text,
        target: text,
        username: text,
        providers: Vec::new(),
        has_password: true,
        help: None,
    })
}

/// The login page of a user who has a session, with every message.
fn continue_page(text: &str) -> String {
    let (help, path) = (Help::new(text.to_owned()), format!("/{text}"));
    render(&LoginPage {
        site: text,
        host: text,
        notice: None,
        user: Some(text),
        continue_at: &path,
        is_unsaved: true,
        is_too_long: true,
        csrf: text,
        target: text,
        username: text,
        providers: vec![button(text, false), button(text, true)],
        has_password: true,
        help: Some(&help),
    })
}

fn button(label: &str, is_down: bool) -> ProviderButton<'_> {
    let href = format!("/.doorward/oidc/corp/login?to={label}");
    ProviderButton { label, href, is_down }
}

/// The login page of a site whose users log in at a provider only.
fn chooser_page(text: &str) -> String {
    render(&LoginPage {
        site: text,
        host: text,
        notice: None,
        user: None,
        continue_at: "/",
        is_unsaved: false,
        is_too_long: false,
        csrf: text,
        target: text,
        username: "",
        providers: vec![button(text, false)],
        has_password: false,
        help: None,
    })
}

fn login_failed_page(text: &str) -> String {
    render(&LoginFailedPage {
        site: text,
        provider: text,
        text,
        login: &format!("/.doorward/login?to={text}"),
        code: text,
        request: text,
        help: None,
    })
}

fn provider_logouts(text: &str) -> [String; 2] {
    let form = EndSession::Form {
        action: format!("https://id.test/{text}"),
        fields: vec![("id_token_hint", text.to_owned())],
    };
    let redirect = EndSession::Redirect(format!("https://id.test/{text}"));
    [form, redirect].map(|action| {
        let logout = ProviderLogout { label: text, action: &action };
        render(&LoggedOutPage { site: text, provider: Some(&logout) })
    })
}

fn password_page(text: &str) -> String {
    let help = Help::Link("/help".to_owned());
    let (site, user, csrf, error) = (text, text, text, text);
    render(&PasswordPage { site, user, csrf, error, min_length: 15, help: Some(&help) })
}

fn passkey_form(text: &str) -> PasskeyForm {
    let [challenge, sealed, domain, known, algorithms] = [text; 5].map(str::to_owned);
    PasskeyForm { challenge, sealed, domain, known, algorithms }
}

fn login_code_page(text: &str) -> String {
    let help = Help::Link("/help".to_owned());
    render(&LoginCodePage {
        site: text,
        host: text,
        user: text,
        error: text,
        pending: text,
        target: text,
        passkey: Some(passkey_form(text)),
        help: Some(&help),
    })
}

fn second_factors_page(text: &str) -> String {
    let [handle, name, added] = [text; 3].map(str::to_owned);
    let row = FactorRow { handle, kind: "Passkey", name, added };
    let qr = QrCode::encode("otpauth://totp/a").expect("short");
    render(&SecondFactorsPage {
        site: text,
        user: text,
        csrf: text,
        target: text,
        continue_at: "/wiki",
        error: text,
        is_required: true,
        new_codes: vec![text],
        codes_left: 3,
        rows: vec![row],
        passkey: Some(passkey_form(text)),
        user_id: text,
        setup: Some(AppSetup { qr: &qr, secret: text, sealed: text, name: text }),
    })
}

fn start_page(text: &str) -> String {
    render(&StartPage { site: text, host: text, user: text, apps: vec!["/wiki", "/files"] })
}

fn row(text: &str, minutes_ago: u64, is_current: bool) -> SessionRow {
    SessionRow {
        handle: text.to_owned(),
        created: NOW.minus(Duration::from_secs(minutes_ago * 120)),
        last_used: NOW.minus(Duration::from_secs(minutes_ago * 60)),
        browser: text.to_owned(),
        network: text.to_owned(),
        is_current,
    }
}

fn sessions_page(text: &str, rows: Vec<SessionRow>) -> String {
    notices_page(text, vec![], false, rows)
}

fn notices_page(
    text: &str,
    notices: Vec<NoticeRow>,
    with_return_link: bool,
    rows: Vec<SessionRow>,
) -> String {
    let return_link =
        with_return_link.then(|| ReturnLink { sealed: text, href: format!("/{text}") });
    let (site, user, csrf, now) = (text, text, text, NOW);
    let (done, changes_password) = (Some(text), true);
    render(&SessionsPage {
        site,
        user,
        done,
        changes_password,
        has_tokens: true,
        has_second_factor: true,
        csrf,
        now,
        notices,
        return_link,
        sessions: rows,
    })
}

fn notice(text: &str, kind: NoticeKind, is_current: bool) -> NoticeRow {
    let spot = || ClientRow { browser: text.to_owned(), network: text.to_owned() };
    let owner = (kind != NoticeKind::NewLocation).then(spot);
    let at = NOW.minus(Duration::from_secs(7_200));
    NoticeRow { id: text.to_owned(), kind, at, suspect: spot(), owner, is_current }
}

fn all_notices(text: &str) -> Vec<NoticeRow> {
    KINDS.map(|kind| notice(text, kind, kind == NoticeKind::NewLocation)).into()
}

/// Every page in every state, with `text` in every field that takes one.
fn all_pages(text: &str) -> Vec<String> {
    let mut pages = vec![
        login_page(None, text),
        sessions_page(text, vec![]),
        sessions_page(text, vec![row(text, 0, true)]),
        sessions_page(text, vec![row(text, 0, true), row(text, 3, false)]),
        notices_page(text, all_notices(text), true, vec![row(text, 0, true)]),
        render(&ConfirmLogoutPage { site: text, user: text, csrf: text }),
        render(&LoggedOutPage { site: text, provider: None }),
        render(&EverywherePage { site: text, csrf: text }),
        render(&FramedPage { site: text, style: STYLE, login: "/.doorward/login" }),
        continue_page(text),
        password_page(text),
        login_code_page(text),
        second_factors_page(text),
        start_page(text),
        chooser_page(text),
        login_failed_page(text),
        render(&ContinuePage { site: text, url: &format!("/{text}") }),
    ];
    pages.extend(provider_logouts(text));
    pages.extend(NOTICES.map(|notice| login_page(Some(notice), text)));
    pages.extend(errors(text).iter().map(|(status, kind)| {
        let (style, help) = (STYLE, Help::Text(text.to_owned()));
        let (site, status) = (text, *status);
        render(&ErrorPage { site, style, status, kind, request: text, help: Some(&help) })
    }));
    assert_eq!(pages.len(), 46, "a new page belongs into this list");
    pages
}

/// A start tag as a browser reads it.
#[derive(Debug, PartialEq, Eq)]
struct Tag {
    name: String,
    attributes: Vec<(String, String)>,
}

impl Tag {
    fn value(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(attribute, _)| attribute == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// All start tags. Splits where a browser would: at `<` in text, and at quotes inside a tag.
fn tags(html: &str) -> Vec<Tag> {
    let mut tags = vec![];
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let (tag, after) = one_tag(&rest[at + 1..]);
        rest = after;
        tags.extend(tag.filter(|tag| !tag.name.starts_with(['/', '!'])));
    }
    tags
}

fn one_tag(text: &str) -> (Option<Tag>, &str) {
    let end = text.find(|c: char| c.is_whitespace() || c == '>').expect("a tag ends");
    let (name, mut rest) = text.split_at(end);
    let mut attributes = vec![];
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('>') {
            return (Some(Tag { name: name.to_owned(), attributes }), after);
        }
        let end = rest.find(['=', ' ', '>', '\n']).expect("an attribute ends");
        let (attribute, after) = rest.split_at(end);
        rest = after;
        let mut value = "";
        if let Some(quoted) = rest.strip_prefix("=\"") {
            let (inside, after) = quoted.split_once('"').expect("a value ends");
            (value, rest) = (inside, after);
        }
        assert!(!rest.starts_with('='), "an unquoted value in {name}");
        attributes.push((attribute.to_owned(), value.to_owned()));
    }
}

/// What a browser builds of a page, without the values.
fn skeleton(html: &str) -> Vec<(String, Vec<String>)> {
    let names =
        |tag: Tag| (tag.name, tag.attributes.into_iter().map(|(name, _)| name).collect::<Vec<_>>());
    tags(html).into_iter().map(names).collect()
}

#[test]
fn hostile_values_do_not_change_the_page_structure() {
    let honest = all_pages("alice");
    for text in HOSTILE {
        for (page, like) in all_pages(text).iter().zip(&honest) {
            assert_eq!(skeleton(page), skeleton(like), "{text:?}\n{page}");
        }
    }
}

#[test]
fn the_tag_scanner_finds_injected_tags_and_attributes() {
    let honest = "<p class=\"a\">x</p>";
    assert_ne!(skeleton("<p class=\"a\"><b>x</p>"), skeleton(honest));
    assert_ne!(skeleton("<p class=\"a\" onclick=\"b\">x</p>"), skeleton(honest));
}

#[test]
fn no_page_has_inline_scripts_or_external_resources() {
    for page in all_pages("alice") {
        // Pages that an unknown host can show contain the whole stylesheet, and nothing else.
        let styled = page.matches(&format!("<style>{STYLE}</style>")).count();
        assert_eq!(page.matches("<style").count(), styled);
        for tag in tags(&page) {
            let banned = ["img", "iframe", "svg", "object", "base"];
            // An inline QR code needs no resource.
            let is_qr_code = tag.name == "svg" && tag.value("class") == Some("qr");
            assert!(is_qr_code || !banned.contains(&tag.name.as_str()), "{tag:?}");
            let scripts = ["times", "session", "submit", "passkey"]
                .map(|name| format!("/.doorward/{name}.js"));
            let source = tag.value("src").unwrap_or_default();
            assert!(
                tag.name != "script" || scripts.iter().any(|known| known == source),
                "{source}"
            );
            for (name, value) in &tag.attributes {
                assert!(name != "style" && !name.starts_with("on"), "{tag:?}");
                // The only link to another site leads to the logout at the provider.
                let is_logout = tag.name == "a" && value.starts_with("https://id.test/");
                let link = matches!(name.as_str(), "href" | "src") && !is_logout;
                assert!(!link || value.starts_with('/') && !value.starts_with("//"), "{tag:?}");
            }
        }
    }
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
}

#[test]
fn every_form_posts_a_csrf_token() {
    let mut forms = 0;
    for page in all_pages("alice") {
        let tags = tags(&page);
        let is_own = |tag: &Tag| tag.name == "form" && tag.value("data-submit").is_none();
        for (at, form) in tags.iter().enumerate().filter(|(_, tag)| is_own(tag)) {
            forms += 1;
            assert_eq!(form.value("method"), Some("post"));
            let inside = &tags[at + 1..];
            let next = inside.iter().position(|tag| tag.name == "form").unwrap_or(inside.len());
            let csrf = inside[..next].iter().find(|tag| tag.value("name") == Some("csrf"));
            assert_eq!(csrf.and_then(|tag| tag.value("value")), Some("alice"), "{page}");
        }
    }
    assert_eq!(forms, 40, "17 logins, 2, 4 and 8 on the lists, 2 logouts, 1 password, 6 factors");
}

#[test]
fn every_label_and_description_refers_to_an_element() {
    let mut references = 0;
    for page in all_pages("alice") {
        let tags = tags(&page);
        let mut ids: Vec<&str> = tags.iter().filter_map(|tag| tag.value("id")).collect();
        for reference in tags.iter().flat_map(|tag| {
            ["for", "aria-describedby", "aria-labelledby"].map(|name| tag.value(name))
        }) {
            let Some(reference) = reference else { continue };
            references += 1;
            assert!(ids.contains(&reference), "{reference} names nothing in\n{page}");
        }
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "an id stands twice");
    }
    assert!(references >= 40);
}

#[test]
fn every_page_has_a_language_a_title_and_one_heading() {
    for page in all_pages("Wiki") {
        assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">"), "{page}");
        assert!(page.contains(" · Wiki</title>"), "{page}");
        assert_eq!(page.matches("<h1>").count(), 1, "{page}");
        assert_eq!(page.matches("<main>").count(), 1, "{page}");
    }
}

#[test]
fn an_empty_site_name_leaves_no_empty_element() {
    for page in all_pages("") {
        assert!(!page.contains("class=\"site\"") && !page.contains(" · </title>"), "{page}");
    }
}

#[test]
fn password_managers_recognise_the_login_form() {
    let page = login_page(None, "alice");
    let tags = tags(&page);
    let field = |name| tags.iter().find(|tag| tag.value("name") == Some(name)).expect("the field");
    assert_eq!(field("username").value("autocomplete"), Some("username"));
    assert_eq!(field("username").value("value"), Some("alice"));
    assert_eq!(field("password").value("autocomplete"), Some("current-password"));
    assert_eq!(field("password").value("type"), Some("password"));
    assert_eq!(field("password").value("value"), None);
}

#[test]
fn the_first_empty_field_has_the_focus() {
    for (username, field) in [("", "username"), ("alice", "password")] {
        let tags = tags(&login_page(None, username));
        let focused: Vec<_> = tags.iter().filter(|tag| tag.value("autofocus").is_some()).collect();
        assert_eq!(focused.len(), 1);
        assert_eq!(focused[0].value("name"), Some(field));
    }
}

#[test]
fn each_login_notice_has_its_own_text() {
    let mut texts: Vec<String> = NOTICES.map(LoginNotice::text).to_vec();
    for (notice, text) in NOTICES.iter().zip(&texts) {
        assert!(login_page(Some(*notice), "").contains(text.as_str()), "{text}");
    }
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), NOTICES.len());
    assert!(!login_page(None, "").contains("id=\"notice\""));
}

#[test]
fn each_error_page_has_a_text_advice_and_its_status() {
    for (status, kind) in errors("alice") {
        let page = error("Wiki", status, &kind);
        assert!(page.contains(kind.title()) && page.contains(&kind.advice()), "{page}");
        assert!(page.contains(&format!("Error {}", status.as_u16())), "{page}");
        assert!(!page.contains("request <code>"), "{page}");
    }
}

#[test]
fn a_forbidden_page_names_the_logged_in_user() {
    let kind = ErrorKind::Forbidden { user: "bob".into() };
    let page = error("Wiki", StatusCode::FORBIDDEN, &kind);
    assert_eq!(page.matches("<bdi>bob</bdi>").count(), 2);
}

#[test]
fn the_store_outage_page_offers_no_login() {
    let page = error("", StatusCode::SERVICE_UNAVAILABLE, &ErrorKind::StoreUnavailable);
    assert!(page.contains("you still are") && !page.contains("/.doorward/login"));
}

#[test]
fn each_session_has_its_times_and_an_end_button() {
    let rows = vec![row("far", 200, false), row("here", 0, true), row("near", 3, false)];
    let page = sessions_page("Wiki", rows);
    let created = "<time datetime=\"2026-11-23T13:59:00Z\" data-absolute>23 Nov 2026, 13:59 UTC";
    assert!(page.contains(created), "{page}");
    assert!(page.contains("End session<span class=\"hidden\"> of near, network near, last used 3"));
    assert!(page.contains("<time datetime=\"2026-11-23T14:02:00Z\">3 minutes ago</time>"));
    assert!(page.contains("name=\"session\" value=\"near\""));
    assert!(!page.contains("name=\"session\" value=\"here\""), "this one logs out instead");
    assert_eq!(page.matches("action=\"/.doorward/logout\"").count(), 1);
    let place = |text| page.find(text).expect("shown");
    assert!(place(">here ") < place(">near<") && place(">near<") < place(">far<"));
}

#[test]
fn each_notice_has_its_text_clients_and_a_dismiss_button() {
    for kind in KINDS {
        let page = notices_page("", vec![notice("Curl", kind, false)], false, vec![]);
        assert_eq!(
            page.matches("Curl, network Curl").count(),
            1 + usize::from(kind != NoticeKind::NewLocation)
        );
        assert!(page.contains("23 Nov 2026, 12:05 UTC</time>, 2 hours ago"), "{page}");
        assert!(page.contains("change your password") && page.contains("value=\"dismiss\""));
        assert!(page.contains("name=\"notice\" value=\"Curl\""));
        assert!(!page.contains("Continue"), "no return link");
    }
    let texts = |text: fn(&NoticeRow) -> &'static str| {
        let mut texts: Vec<_> = all_notices("").iter().map(text).collect();
        texts.sort_unstable();
        texts.dedup();
        texts.len()
    };
    assert_eq!((texts(NoticeRow::title), texts(NoticeRow::explanation)), (4, KINDS.len()));
}

#[test]
fn the_suspect_session_cannot_dismiss_its_notice() {
    let page = notices_page("", vec![notice("Curl", NoticeKind::NewLocation, true)], false, vec![]);
    assert!(page.contains("A login from a new place") && !page.contains("value=\"dismiss\""));
}

#[test]
fn the_return_link_survives_a_dismissal() {
    let page = notices_page("sealed", vec![notice("Curl", NoticeKind::Theft, false)], true, vec![]);
    assert!(page.contains("href=\"/sealed\">Continue</a>"), "{page}");
    assert!(page.contains("name=\"to\" value=\"sealed\""), "{page}");
}

#[test]
fn ending_other_sessions_is_offered_only_if_there_are_any() {
    let alone = sessions_page("", vec![row("here", 0, true)]);
    assert!(!alone.contains("end-others") && alone.contains("confirm-all"));
    let two = sessions_page("", vec![row("here", 0, true), row("there", 1, false)]);
    assert!(two.contains("end-others") && two.contains("confirm-all"));
    assert!(!two.contains("value=\"end-all\""), "a question comes first");
    assert!(render(&EverywherePage { site: "", csrf: "" }).contains("value=\"end-all\""));
    let none = sessions_page("", vec![]);
    assert!(none.contains("no live sessions") && !none.contains("<form"));
}

/// WCAG 2.2, 1.4.3 and 1.4.11, in both colour schemes.
mod contrast {
    use super::STYLE;

    const TEXT: f64 = 4.5;
    const EDGE: f64 = 3.0;

    /// Foreground, background, least ratio.
    const PAIRS: [(&str, &str, f64); 16] = [
        ("text", "card", TEXT),
        ("text", "field", TEXT),
        ("muted", "card", TEXT),
        ("accent", "card", TEXT),
        ("accent-strong", "card", TEXT),
        ("on-accent", "accent", TEXT),
        ("on-accent", "accent-strong", TEXT),
        ("on-danger", "danger", TEXT),
        ("on-danger", "danger-strong", TEXT),
        ("on-news", "news", TEXT),
        ("on-error", "error", TEXT),
        ("text", "page", TEXT),
        ("field-line", "card", EDGE),
        ("field-line", "field", EDGE),
        ("danger", "field", EDGE),
        ("accent", "field", EDGE),
    ];

    #[test]
    fn contrast_suffices_in_both_colour_schemes() {
        let (light, dark) = STYLE.split_once("@media (prefers-color-scheme: dark)").expect("both");
        for (scheme, name) in [(light, "light"), (dark, "dark")] {
            for (front, back, least) in PAIRS {
                let ratio = ratio(colour(scheme, front), colour(scheme, back));
                assert!(ratio >= least, "{name}: {front} on {back} is {ratio:.2}, not {least}");
            }
        }
    }

    fn colour(scheme: &str, name: &str) -> [u8; 3] {
        let (_, rest) = scheme.split_once(&format!("--{name}: #")).expect("the property");
        [0, 2, 4].map(|at| u8::from_str_radix(&rest[at..at + 2], 16).expect("hex"))
    }

    fn ratio(one: [u8; 3], other: [u8; 3]) -> f64 {
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    fn luminance(colour: [u8; 3]) -> f64 {
        let [red, green, blue] = colour.map(|part| linear(f64::from(part) / 255.0));
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }

    fn linear(part: f64) -> f64 {
        if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    }
}
