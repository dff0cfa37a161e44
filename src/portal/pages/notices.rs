//! Texts of the security notices.

use crate::clock::UnixMillis;
use crate::session::notice::NoticeKind;

/// One security notice.
pub struct NoticeRow {
    /// Value of the hidden field `notice`.
    pub id: String,
    pub kind: NoticeKind,
    pub at: UnixMillis,
    pub suspect: ClientRow,
    /// Client that the session belongs to; `None` for logins.
    pub owner: Option<ClientRow>,
    /// Whether it concerns the session of this request, which may not dismiss it.
    pub is_current: bool,
}

/// A client: program and network.
pub struct ClientRow {
    pub browser: String,
    pub network: String,
}

impl NoticeRow {
    /// Returns whether a session was ended or restricted.
    pub(super) fn is_error(&self) -> bool {
        !matches!(self.kind, NoticeKind::NewLocation | NoticeKind::SecondFactorChanged)
    }

    pub(super) fn title(&self) -> &'static str {
        match self.kind {
            NoticeKind::Theft | NoticeKind::TheftAllSessions | NoticeKind::TheftReauth => {
                "An old copy of your session was used"
            }
            NoticeKind::LocationChangeEnded | NoticeKind::LocationChangeReauth => {
                "Your session was used from somewhere else"
            }
            NoticeKind::NewLocation => "A login from a new place",
            NoticeKind::SecondFactorChanged => "Your second factor was changed",
        }
    }

    pub(super) fn explanation(&self) -> &'static str {
        match self.kind {
            NoticeKind::Theft => {
                "Two browsers used the same session, and we cannot tell which one was yours. So it was \
                 ended for both."
            }
            NoticeKind::TheftAllSessions => {
                "Two browsers used the same session, and we cannot tell which one was yours. So all of \
                 your sessions were ended."
            }
            NoticeKind::TheftReauth => {
                "Two browsers used the same session, and we cannot tell which one was yours. So it \
                 requires a new login."
            }
            NoticeKind::LocationChangeEnded => {
                "It was used by an unexpected program or from an unexpected network. So it was ended."
            }
            NoticeKind::LocationChangeReauth => {
                "It was used by an unexpected program or from an unexpected network. So it requires a \
                 new login."
            }
            NoticeKind::NewLocation => {
                "Your password was used to log in from a place that you have not used lately."
            }
            NoticeKind::SecondFactorChanged => {
                "An authenticator app was added or removed, or your recovery codes were replaced."
            }
        }
    }

    /// Returns the label of the suspect client.
    pub(super) fn suspect_label(&self) -> &'static str {
        match self.kind {
            NoticeKind::Theft | NoticeKind::TheftAllSessions | NoticeKind::TheftReauth => {
                "Old copy"
            }
            NoticeKind::LocationChangeEnded | NoticeKind::LocationChangeReauth => "Used by",
            NoticeKind::NewLocation => "Login",
            NoticeKind::SecondFactorChanged => "Changed by",
        }
    }

    pub(super) fn advice(&self) -> &'static str {
        match self.kind {
            NoticeKind::NewLocation | NoticeKind::SecondFactorChanged => {
                "If that was you, there is nothing to do. If not, change your password now and end \
                 all other sessions."
            }
            NoticeKind::Theft
            | NoticeKind::TheftAllSessions
            | NoticeKind::TheftReauth
            | NoticeKind::LocationChangeEnded
            | NoticeKind::LocationChangeReauth => {
                "If you recognise both, there is nothing to do. If not, change your password, end the \
                 sessions below that you do not recognise, and contact the people who run this site."
            }
        }
    }
}
