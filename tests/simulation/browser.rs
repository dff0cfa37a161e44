//! A browser: one cookie jar for all its tabs, a copy of it on disk, and crashes.

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use doorward::session::ClientContext;

/// What a jar holds: the text that was set, and what the simulation knows about it.
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
    /// What a crash brings back; written every 30 s.
    pub disk: Option<Cookie>,
    /// Answers to a process that is gone reach nobody.
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
            context: place(number as u8, 0),
        }
    }

    /// The process dies; the jar is what the disk had. Returns what was lost.
    pub fn crash(&mut self) -> Option<Cookie> {
        self.life += 1;
        self.running = false;
        self.logging_in = false;
        let lost = self.jar.take();
        self.jar = self.disk.clone();
        lost.filter(|lost| self.jar.as_ref() != Some(lost))
    }
}

/// A network of its own for each browser and each move; the software stays the same.
pub fn place(number: u8, moved: u8) -> ClientContext {
    ClientContext::new(IpAddr::from([10, number, moved, 7]), b"Firefox")
}

pub fn thiefs_place() -> ClientContext {
    ClientContext::new(IpAddr::from([198, 51, 100, 66]), b"curl")
}
