//! Packages and units, the `CloudFormation` stacks, and the script that deploys them.

mod alarms;
mod calls;
mod checks;
mod drain;
mod gateway;
mod install;
mod parameters;
mod pipeline;
mod reachability;
mod roles;
mod script;
mod stacks;
