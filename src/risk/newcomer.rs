//! A login held against where its user was seen in the last days.

use super::atlas::{Atlas, Locality};
use super::software::Software;
use super::weigh::{Answer, Report, Signal};
use super::{Settings, differs, new_network};
use crate::session::context::network_of;
use crate::session::{ClientContext, Memo};

impl Settings {
    /// What is new about a login that its user should hear of: another country, or other software in
    /// another network. `None` where he was seen, and where nothing is remembered of him. It never asks
    /// for anything: whoever knows the password may come from anywhere.
    pub fn newcomer(&self, atlas: &Atlas, memo: &Memo, from: &ClientContext) -> Option<Report> {
        let own = network_of(from.address);
        let allowed = self.allow.iter().any(|network| network.contains(&from.address));
        let known = memo.networks().any(|network| network_of(network) == own);
        if allowed || known || memo.networks().next().is_none() {
            return None;
        }
        let (mut signals, here) = (Vec::new(), atlas.look(from.address));
        let seen: Vec<Locality> = memo.networks().map(|network| atlas.look(network)).collect();
        new_network(&here, &seen, &mut signals);
        software(memo, from, &mut signals);
        let tells = [Signal::Country, Signal::Family, Signal::System];
        let news = signals.iter().any(|signal| tells.contains(signal));
        news.then(|| Report { answer: Answer::Log, ..Report::new(signals, &self.thresholds) })
    }
}

fn software(memo: &Memo, from: &ClientContext, signals: &mut Vec<Signal>) {
    let here = Software::read(&from.agent);
    let known: Vec<Software> = memo.agents().map(Software::read).collect();
    if !known.iter().any(|known| known.family == here.family) {
        signals.push(Signal::Family);
    }
    if differs(here.system, known.iter().map(|known| known.system)) {
        signals.push(Signal::System);
    }
}
