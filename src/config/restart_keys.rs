//! Keys that only a restart changes: sockets, threads, the store and files that stay open.

use super::Config;

impl Config {
    /// Replaces the values of keys that only a restart changes by those of the running configuration.
    /// Returns the keys that differ.
    pub fn keep_restart_keys(&mut self, running: &Config) -> Vec<&'static str> {
        let mut kept = Vec::new();
        let mut keep = |key, is_same: bool| {
            if !is_same {
                kept.push(key);
            }
        };
        keep("server.state_dir", replace(&mut self.server.state_dir, &running.server.state_dir));
        keep("server.https", replace(&mut self.server.https, &running.server.https));
        keep("server.http", replace(&mut self.server.http, &running.server.http));
        keep("server.workers", replace(&mut self.server.workers, &running.server.workers));
        keep("admin", replace(&mut self.admin, &running.admin));
        keep("keys.file", replace(&mut self.keys_file, &running.keys_file));
        // Not `store.outage`: the routes hold it.
        keep("store", replace(&mut self.store.location, &running.store.location));
        let (new, running_timeout) =
            (&mut self.store.response_timeout, &running.store.response_timeout);
        keep("store.response_timeout", replace(new, running_timeout));
        keep("login.password", replace(&mut self.login.password, &running.login.password));
        keep("log", replace(&mut self.log, &running.log));
        keep("audit", replace(&mut self.audit, &running.audit));
        keep("notify", replace(&mut self.notify, &running.notify));
        kept
    }
}

/// Sets `new` to `running`. Returns whether they were equal.
fn replace<T: Clone + PartialEq>(new: &mut T, running: &T) -> bool {
    let is_same = new == running;
    new.clone_from(running);
    is_same
}
