//! The part that runs with privilege, small enough to be read in one go. It assumes that the caller, a member of the
//! group, is hostile: that he chooses arguments, environment, descriptors, limits, signals, working directory and
//! timing, and owns other processes with the same uid.
//!
//! What he must not get: the command running outside the namespace, a capability, a file of his in place of one of
//! root's, a namespace that is not his. The order that sees to it:
//!
//! 1. [`Privilege::take`] - not in a user namespace, and the two capabilities are there, in the permitted set only;
//! 2. [`netns::open`] - what is at /run/netns/NAME is a network namespace, by descriptor;
//! 3. [`netns::enter`] - setns, before anything else; its failure ends all;
//! 4. [`view::make`] - a private mount namespace, with /sys and the files of /etc that belong to the namespace;
//! 5. [`Privilege::give_up`] - every capability gone, and seen to be gone. Only its result, [`Unprivileged`], lets
//!    the launch module run anything.

#![forbid(unsafe_code)]

pub mod capability;
pub mod netns;
pub mod view;

pub use capability::{Privilege, Unprivileged};
