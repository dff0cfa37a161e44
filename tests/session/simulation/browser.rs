//! A browser: one cookie jar for all its tabs, a copy of it on disk, and crashes.

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use doorward::session::ClientContext;

/// A session cookie in a jar, with the session and generation for the simulation.
#[derive(Clone, PartialEq, Eq)]
pub struct Cookie {
    pub text: Rc<str>,
    pub session: usize,
    pub generation: u32,
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} of session {}", self.generation, self.session)
    }
}

pub struct Browser {
    pub jar: Option<Cookie>,
    /// The cookie that a crash restores; written every 30 s.
    pub disk: Option<Cookie>,
    /// Number of crashes. Responses to an earlier process are lost.
    pub life: u32,
    pub running: bool,
    pub logging_in: bool,
    pub context: ClientContext,
}

impl Browser {
    pub fn new(number: usize) -> Browser {
        Browser {
            jar: None,
            disk: None,
            life: 0,
            running: true,
            logging_in: false,
            context: location(number as u8, 0),
        }
    }

    /// Restores the jar from disk, and returns the lost cookie.
    pub fn crash(&mut self) -> Option<Cookie> {
        self.life += 1;
        self.running = false;
        self.logging_in = false;
        let lost = self.jar.take();
        self.jar = self.disk.clone();
        lost.filter(|lost| self.jar.as_ref() != Some(lost))
    }
}

/// Returns a separate network for each browser and each move, with the same user agent.
pub fn location(number: u8, moved: u8) -> ClientContext {
    ClientContext::new(IpAddr::from([10, number, moved, 7]), b"Firefox")
}

pub fn attacker_location() -> ClientContext {
    ClientContext::new(IpAddr::from([198, 51, 100, 66]), b"curl")
}
