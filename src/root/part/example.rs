//! A part from beginning to end, as a pattern for a new one: it keeps the queue of the host's veth
//! end at a certain length (ip-link(8), txqueuelen). It is compiled with the tests and in no
//! program. A real one is also entered into [`crate::walk::all`], at the place where whatever it
//! needs has been created, and gets a test on the real kernel in `tests/e2e`.

use std::path::{Path, PathBuf};

use super::{Part, Site};
use crate::finding::Finding;
use crate::seen::Subject;
use runns_shared::error::{Context, Error, Result};
use runns_shared::plan::Plan;

const LENGTH: &str = "1000";

/// The part.
struct Queue;

impl Part for Queue {
    fn is_in(&self, plan: &Plan) -> bool {
        plan.request.has_veth()
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        Some(format!("a queue of {LENGTH} packets on {}", plan.interface))
    }

    fn check(&self, _plan: &Plan) -> Result<()> {
        if Path::new("/sys/class/net").exists() {
            return Ok(());
        }
        Err(Error::new("set the length of a queue", "there is no sysfs")
            .hint("sudo mount -t sysfs sysfs /sys"))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let file = file(site.plan());
        std::fs::write(&file, LENGTH).cannot(|| format!("write {}", file.display()))
    }

    /// Nothing to do: the queue goes with its device, which another part removes.
    fn undo(&self, _site: &mut Site) -> Result<bool> {
        Ok(false)
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        let plan = &subject.record.plan;
        let now = std::fs::read_to_string(file(plan)).unwrap_or_default();
        let wrong = (now.trim() != LENGTH).then(|| {
            let what = format!("queue of {}", plan.interface);
            Finding::degraded(what, format!("{} packets", now.trim()))
        });
        Ok(wrong.into_iter().collect())
    }
}

fn file(plan: &Plan) -> PathBuf {
    Path::new("/sys/class/net")
        .join(plan.interface.as_str())
        .join("tx_queue_len")
}

#[test]
fn it_is_in_plans_with_a_veth_pair() {
    let mut plan = crate::table::golden::plan("");
    assert!(Queue.is_in(&plan) && Queue.describe(&plan).is_some());
    plan.request.kill_switch = true;
    assert!(!Queue.is_in(&plan));
}
