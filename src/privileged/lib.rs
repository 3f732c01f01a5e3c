//! The code that raises capabilities, short enough to be read in one sitting. It assumes that the
//! caller, a member of the group, is hostile: that they control arguments, environment,
//! descriptors, limits, signals, working directory and timing, and own other processes with the
//! same uid.
//!
//! The caller must not obtain a command that runs outside the namespace, a capability, a file of
//! their own in place of one of root's, or a namespace that they may not enter. The following order
//! prevents this:
//!
//! 1. [`Privilege::take`] checks that this is the initial user namespace and that both capabilities
//!    are permitted.
//! 2. [`netns::open`] opens /run/netns/NAME and checks, by descriptor, that it is a network
//!    namespace.
//! 3. [`netns::enter`] calls setns before anything else. If that fails, nothing else happens.
//!    Inside, it asks the policy again, and leaves at once if that refuses.
//! 4. [`view::make`] creates a private mount namespace with the /sys and the files of /etc that
//!    belong to the namespace.
//! 5. [`netns::Entered::bring_up_loopback`] makes the only change inside, after everything that
//!    could refuse the caller.
//! 6. [`Privilege::give_up`] clears every capability set and checks that it is empty. Only its
//!    result, an [`Unprivileged`], allows the launch module to execute anything.

#![forbid(unsafe_code)]

pub mod capability;
pub mod netns;
pub mod view;

pub use capability::{Privilege, Unprivileged};
