//! `deploy/`: the stacks and the script that deploys them.

mod alarms;
mod calls;
mod checks;
mod drain;
mod estate;
mod gateway;
mod parameters;
mod pipeline;
mod reach;
mod roles;
mod script;
