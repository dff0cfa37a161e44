//! Lua scripts: called by hash, and by text if the server does not have the script.

use ::redis::{Cmd, ToRedisArgs, cmd};

/// A script with its hash.
pub(crate) struct Script {
    text: String,
    hash: String,
}

impl Script {
    pub(crate) fn new(text: String) -> Script {
        let hash = ::redis::Script::new(&text).get_hash().to_owned();
        Script { text, hash }
    }

    pub(crate) fn call(&self) -> ScriptCall<'_> {
        ScriptCall { script: self, keys: 0, arguments: Vec::new() }
    }
}

/// A script with its keys and arguments. Keys come first.
pub(crate) struct ScriptCall<'a> {
    script: &'a Script,
    keys: usize,
    arguments: Vec<Vec<u8>>,
}

impl ScriptCall<'_> {
    pub(crate) fn key(&mut self, key: String) -> &mut Self {
        self.keys += 1;
        self.arguments.push(key.into_bytes());
        self
    }

    pub(crate) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.arguments.extend(argument.to_redis_args());
        self
    }

    pub(super) fn evalsha(&self) -> Cmd {
        self.to_command("EVALSHA", &self.script.hash)
    }

    /// Returns the command with the script text, which also loads it.
    pub(super) fn eval(&self) -> Cmd {
        self.to_command("EVAL", &self.script.text)
    }

    fn to_command(&self, name: &str, script: &str) -> Cmd {
        let mut command = cmd(name);
        command.arg(script).arg(self.keys).arg(&self.arguments);
        command
    }
}
