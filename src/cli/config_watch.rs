//! Finds changes of the configuration file, for `server.watch`.
//!
//! The content decides, because containers replace a directory and editors replace the file.

/// The contents of the configuration file, as read once a second.
#[derive(Debug, Default)]
pub(super) struct ConfigWatch {
    /// As read last.
    read: String,
    /// Contents of the last reload, valid or not.
    reloaded: String,
}

impl ConfigWatch {
    /// Returns whether `text` is to be loaded: it differs from `running`, and it is complete, because two reads in
    /// a row returned it. A text is loaded once, so a bad one is reported once.
    pub(super) fn observe(&mut self, text: String, running: &str) -> bool {
        let is_complete = text == self.read;
        self.read = text;
        if self.read == running {
            self.reloaded.clear();
            return false;
        }
        let is_new = is_complete && self.read != self.reloaded;
        if is_new {
            self.reloaded.clone_from(&self.read);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each read of the file leads to, while `running` is loaded.
    fn reloads(watch: &mut ConfigWatch, running: &str, reads: &[&str]) -> Vec<bool> {
        reads.iter().map(|text| watch.observe((*text).to_owned(), running)).collect()
    }

    #[test]
    fn a_change_is_loaded_once_it_is_complete() {
        let mut watch = ConfigWatch::default();
        assert_eq!(reloads(&mut watch, "old", &["old", "old"]), [false, false]);
        let reads = ["ne", "new", "new", "new"];
        assert_eq!(reloads(&mut watch, "old", &reads), [false, false, true, false]);
        assert_eq!(reloads(&mut watch, "new", &["new", "new"]), [false, false]);
    }

    #[test]
    fn a_bad_file_is_loaded_again_only_after_a_change() {
        let mut watch = ConfigWatch::default();
        assert_eq!(reloads(&mut watch, "old", &["bad", "bad", "bad"]), [false, true, false]);
        assert_eq!(reloads(&mut watch, "old", &["old"]), [false]);
        assert_eq!(reloads(&mut watch, "old", &["bad", "bad"]), [false, true]);
    }
}
