//! Simulates the days of one user, request by request, with or without an attacker.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use doorward::session::{ClientContext, RotationTiming};

use super::attacker::Attacker;
use super::auth_under_test::{AuthUnderTest, Cookie};
use super::device::Device;
use super::networks::{Egress, KABEL};
use super::person::DAY;
use super::rates;
use super::schedule::{Action, ActionKind};
use super::seeded_rng::SeededRng;
use super::software::{Kind, Software};
use super::tally::UserTally;

/// Time to type a password, in milliseconds.
const LOGIN: u64 = 20_000;

pub struct UserSimulation<'a> {
    auth: &'a AuthUnderTest,
    rng: SeededRng,
    devices: [Device; 2],
    queue: BinaryHeap<Reverse<Due>>,
    queued: u64,
    now: u64,
    /// Signals of the last location change of each device.
    last_signals: [Option<String>; 2],
    pub tally: UserTally,
    pub attacker: Option<Attacker>,
}

/// A queued event. Events at the same time run in the order of queuing.
struct Due {
    at: u64,
    number: u64,
    event: Event,
}

enum Event {
    UserAction(Action),
    /// A page loads its subresources.
    Subresources {
        device: usize,
        process: u32,
    },
    RequestArrives(Request),
    ResponseArrives {
        device: usize,
        process: u32,
        cookie: Cookie,
    },
    LoginCompletes {
        device: usize,
        process: u32,
    },
    AttackerCopiesCookie,
    AttackerRequests,
}

struct Request {
    device: usize,
    process: u32,
    cookie: Option<Cookie>,
    from: ClientContext,
    /// Whether it is a page view; its denial leads to the login page.
    page: bool,
}

impl<'a> UserSimulation<'a> {
    pub fn new(
        auth: &'a AuthUnderTest,
        rng: SeededRng,
        actions: Vec<Action>,
    ) -> UserSimulation<'a> {
        let days = actions.last().map_or(0, |action| action.at / DAY + 1);
        let mut simulation = UserSimulation {
            auth,
            rng,
            // The first action of each device sets its network.
            devices: [(); 2].map(|()| Device::at(Egress::wired(KABEL, 0, 1))),
            queue: BinaryHeap::new(),
            queued: 0,
            now: 0,
            last_signals: [None, None],
            tally: UserTally { days, ..UserTally::default() },
            attacker: None,
        };
        for action in actions {
            simulation.queue(action.at, Event::UserAction(action));
        }
        simulation
    }

    pub fn with_attacker(mut self, attacker: Attacker) -> UserSimulation<'a> {
        self.queue(attacker.plan.copies_at, Event::AttackerCopiesCookie);
        self.attacker = Some(attacker);
        self
    }

    /// Runs until the event queue is empty.
    pub async fn run(&mut self) {
        while let Some(Reverse(due)) = self.queue.pop() {
            self.now = due.at;
            self.auth.set_time(due.at);
            match due.event {
                Event::UserAction(action) => self.perform(&action),
                Event::Subresources { device, process } => self.load_subresources(device, process),
                Event::RequestArrives(request) => self.request_arrives(request).await,
                Event::ResponseArrives { device, process, cookie } => {
                    self.response_arrives(device, process, cookie)
                }
                Event::LoginCompletes { device, process } => {
                    self.complete_login(device, process).await
                }
                Event::AttackerCopiesCookie => self.attacker_copies(),
                Event::AttackerRequests => self.attacker_requests().await,
            }
        }
    }

    fn perform(&mut self, action: &Action) {
        let device = action.device;
        match action.kind {
            ActionKind::ChangeNetwork(at) => self.devices[device].at = at,
            ActionKind::ChangeSoftware(software) => self.devices[device].software = software,
            ActionKind::LoadPages(tabs) => self.load_pages(device, tabs),
            ActionKind::Poll => self.send_request(device, false),
            ActionKind::PlayMedia => {
                let media = Software { kind: Kind::PhoneMedia, ..self.devices[device].software };
                self.send_request_as(device, false, &media);
            }
            ActionKind::Crash => {
                let now = self.now;
                self.devices[device].crash(now, &mut self.rng);
                self.tally.crashes += 1;
                let back = Action { at: now + 15_000, device, kind: ActionKind::LoadPages(3) };
                self.queue(back.at, Event::UserAction(back));
            }
            ActionKind::CloseLid => {
                self.load_pages(device, 1);
                self.devices[device].kill_process();
            }
        }
    }

    /// Loads pages in all tabs at once and two subresources of each page shortly after.
    fn load_pages(&mut self, device: usize, tabs: u8) {
        let process = self.devices[device].process;
        for _ in 0..tabs {
            self.send_request(device, true);
            let later = self.now + self.rng.between(200, 1_500);
            self.queue(later, Event::Subresources { device, process });
        }
    }

    fn load_subresources(&mut self, device: usize, process: u32) {
        if self.devices[device].process == process {
            self.send_request(device, false);
            self.send_request(device, false);
        }
    }

    fn send_request(&mut self, device: usize, page: bool) {
        let software = self.devices[device].software;
        self.send_request_as(device, page, &software);
    }

    fn send_request_as(&mut self, device: usize, page: bool, software: &Software) {
        let it = &self.devices[device];
        if it.logging_in {
            return;
        }
        let (cookie, process) = (it.jar.clone(), it.process);
        let from = it.context(software, &mut self.rng);
        let mut at = self.now + it.latency(&mut self.rng);
        if it.at.mobile && self.rng.happens(rates::STUCK.value) {
            at += self.rng.between(5_000, 60_000);
        }
        self.queue(at, Event::RequestArrives(Request { device, process, cookie, from, page }));
    }

    async fn request_arrives(&mut self, request: Request) {
        let Request { device, process, cookie, from, page } = request;
        let response = self.auth.request(cookie.as_ref(), &from, RotationTiming::WhenDue).await;
        self.tally.requests += 1;
        if let Some(change) = response.location_change {
            self.tally.record_location_change(&change.action);
            self.last_signals[device] = Some(change.signals);
        }
        if let Some(attacker) = &mut self.attacker {
            attacker.owner_requested(cookie.as_ref(), response.denied, self.now);
        }
        if let Some(cookie) = response.token
            && !self.devices[device].loses_response(&mut self.rng)
        {
            let at = self.now + self.devices[device].latency(&mut self.rng);
            self.queue(at, Event::ResponseArrives { device, process, cookie });
        }
        if let Some(refused) = response.denied
            && page
            && self.devices[device].process == process
        {
            self.handle_denial(device, cookie.as_ref(), refused);
        }
    }

    /// Opens the login page, unless another tab has it open or the jar has a newer cookie.
    fn handle_denial(&mut self, device: usize, shown: Option<&Cookie>, refused: &'static str) {
        let it = &mut self.devices[device];
        if it.logging_in {
            return;
        }
        if it.jar.as_ref() != shown {
            return self.send_request(device, true);
        }
        it.logging_in = true;
        let process = it.process;
        self.tally.record_login(refused, self.last_signals[device].as_deref());
        self.queue(self.now + LOGIN, Event::LoginCompletes { device, process });
    }

    fn response_arrives(&mut self, device: usize, process: u32, cookie: Cookie) {
        let it = &mut self.devices[device];
        if it.process == process && !it.logging_in {
            it.store_cookie(cookie, self.now);
        }
    }

    async fn complete_login(&mut self, device: usize, process: u32) {
        let it = &mut self.devices[device];
        if it.process != process {
            return;
        }
        let software = it.software;
        let from = it.context(&software, &mut self.rng);
        let cookie = self.auth.log_in(it.jar.as_ref(), from).await;
        it.store_cookie(cookie, self.now);
        it.logging_in = false;
        self.last_signals[device] = None;
        self.load_pages(device, 1);
    }

    fn attacker_copies(&mut self) {
        let Some(attacker) = &mut self.attacker else { return };
        if let Some(at) = attacker.copy_cookie(&self.devices[super::person::LAPTOP], self.now) {
            self.queue(at, Event::AttackerRequests);
        }
    }

    async fn attacker_requests(&mut self) {
        let Some(attacker) = &mut self.attacker else { return };
        let owners = self.devices[super::person::LAPTOP].jar.clone();
        if let Some(at) = attacker.request(self.auth, owners.as_ref(), self.now).await {
            self.queue(at, Event::AttackerRequests);
        }
    }

    fn queue(&mut self, at: u64, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse(Due { at, number: self.queued, event }));
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.number == other.number
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
