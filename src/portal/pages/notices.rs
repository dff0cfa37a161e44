//! What a user has to be told, in words.

use super::Moment;
use crate::clock::UnixMillis;
use crate::session::notice::Kind;

/// One notice.
pub struct NoticeRow {
    /// Comes back in the field `notice`.
    pub id: String,
    pub kind: Kind,
    pub at: UnixMillis,
    pub shown: SpotRow,
    /// Where the session is used otherwise.
    pub owner: Option<SpotRow>,
    /// Whether it is about the session that asks.
    pub this: bool,
}

/// A program in a network, in words.
pub struct SpotRow {
    pub browser: String,
    pub network: String,
}

pub(super) struct NoticeView<'a> {
    pub(super) id: &'a str,
    kind: Kind,
    pub(super) at: Moment,
    pub(super) ago: Moment,
    pub(super) shown: &'a SpotRow,
    pub(super) owner: Option<&'a SpotRow>,
    pub(super) this: bool,
}

impl<'a> NoticeView<'a> {
    pub(super) fn new(row: &'a NoticeRow, now: UnixMillis) -> NoticeView<'a> {
        NoticeView {
            id: &row.id,
            kind: row.kind,
            at: Moment::absolute(row.at),
            ago: Moment::relative(row.at, now),
            shown: &row.shown,
            owner: row.owner.as_ref(),
            this: row.this,
        }
    }

    /// Whether something was stopped, or there is only something to know.
    pub(super) fn is_error(&self) -> bool {
        self.kind != Kind::NewPlace
    }

    pub(super) fn title(&self) -> &'static str {
        match self.kind {
            Kind::Theft | Kind::TheftOfAll | Kind::TheftHeld => {
                "An old copy of your session was used"
            }
            Kind::MovedEnded | Kind::MovedHeld => "Your session was used from somewhere else",
            Kind::NewPlace => "A login from a new place",
        }
    }

    pub(super) fn what(&self) -> &'static str {
        match self.kind {
            Kind::Theft => {
                "Two browsers held the same session, and nobody can tell from here which one was \
                 yours. So it was ended for both."
            }
            Kind::TheftOfAll => {
                "Two browsers held the same session, and nobody can tell from here which one was \
                 yours. So all of your sessions were ended."
            }
            Kind::TheftHeld => {
                "Two browsers held the same session, and nobody can tell from here which one was \
                 yours. So it was stopped until a fresh login."
            }
            Kind::MovedEnded => {
                "It was used by a program or from a network that did not fit. So it was ended."
            }
            Kind::MovedHeld => {
                "It was used by a program or from a network that did not fit. So it was stopped \
                 until a fresh login."
            }
            Kind::NewPlace => {
                "Somebody logged in with your password from where you had not been seen lately."
            }
        }
    }

    /// What happened there.
    pub(super) fn shown_label(&self) -> &'static str {
        match self.kind {
            Kind::Theft | Kind::TheftOfAll | Kind::TheftHeld => "Old copy",
            Kind::MovedEnded | Kind::MovedHeld => "Used by",
            Kind::NewPlace => "Login",
        }
    }

    pub(super) fn todo(&self) -> &'static str {
        match self.kind {
            Kind::NewPlace => {
                "If that was you, there is nothing to do. If not, change your password now and end \
                 all other sessions."
            }
            Kind::Theft
            | Kind::TheftOfAll
            | Kind::TheftHeld
            | Kind::MovedEnded
            | Kind::MovedHeld => {
                "If you know both, there is nothing to do. If not, somebody had your session: change \
                 your password, end the sessions below that you do not know, and tell the people who \
                 run this site."
            }
        }
    }
}
