//! `deploy/`: the stacks and the script that deploys them.

mod alarms;
mod checks;
mod estate;
mod gateway;
mod reach;
mod roles;
mod script;
