//! Whole stories, told to the planners together: a request or an accident, and what the cluster makes of it.

mod attachment;
mod global;
mod network;
mod node;
mod placement;
mod property;
mod removal;
mod replicated;
mod requests;
mod restart;
mod update;
