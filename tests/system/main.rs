//! The whole program: commands, configuration, files, fault injection and simulated users.

#![recursion_limit = "256"]

mod audit;
mod canary;
mod chaos;
mod cli;
mod config;
mod explain;
mod fuzz_corpus;
mod instructions;
mod parser_cost;
mod program;
mod service_manager;
mod simulation;
mod users;
