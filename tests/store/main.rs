//! Session stores: one suite of rules over all of them, and the embedded store under `kill -9`.

mod conformance;
mod embedded_kill;
