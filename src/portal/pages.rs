use crate::clock::UnixMillis;
use http::StatusCode;
pub const STYLE: &str = "";
pub enum LoginNotice {
    SessionEnded,
    Idle,
    Absolute,
    Theft,
    FreshLogin,
    LoggedOut,
    WrongPassword,
    Throttled { seconds: u64 },
    Busy,
    Stale,
}
pub struct LoginPage<'a> {
    pub site: &'a str,
    pub host: &'a str,
    pub notice: Option<LoginNotice>,
    pub action: &'a str,
    pub csrf: &'a str,
    pub target: &'a str,
    pub username: &'a str,
}
pub struct SessionRow {
    pub handle: String,
    pub begun: UnixMillis,
    pub last_used: UnixMillis,
    pub browser: String,
    pub network: String,
    pub this: bool,
}
pub struct SessionsPage<'a> {
    pub site: &'a str,
    pub user: &'a str,
    pub csrf: &'a str,
    pub now: UnixMillis,
    pub sessions: Vec<SessionRow>,
}
pub enum ErrorKind {
    BadRequest,
    TooLong,
    CrossSite,
    NotFound,
    MethodNotAllowed,
    UpstreamSlow,
    UpstreamDown,
    StoreAway,
    Forbidden { user: String },
}
pub fn login(p: &LoginPage<'_>) -> String {
    format!(
        "<form method=post action='{}'><input name=\"username\" value=\"{}\"><input type=password name=password><input type=hidden name=\"csrf\" value=\"{}\"><input type=hidden name=\"to\" value=\"{}\"><button>Log in</button></form>",
        p.action, p.username, p.csrf, p.target
    )
}
pub fn sessions(p: &SessionsPage<'_>) -> String {
    format!("{} {}", p.user, p.sessions.len())
}
pub fn error(_: &str, s: StatusCode, _: &ErrorKind) -> String {
    s.to_string()
}
pub fn logout(_: &str, _: &str, _: &str) -> String {
    String::new()
}
pub fn logged_out(_: &str) -> String {
    String::new()
}
