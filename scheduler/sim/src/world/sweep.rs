//! What nodes remove that nobody needs any more, as [`wasmill_scheduler_node::Sweep`] says: final
//! tasks of their read models, and snapshots that no record names.

use wasmill_protocol::Timestamp;
use wasmill_record::snapshot::Expired;
use wasmill_scheduler_node::sweep::Step;

use super::World;
use crate::marks::Mark;
use crate::node::uptime_us;
use crate::oracle::Checked;
use crate::plant::Plant;

impl World {
    /// A node looks whether it is time to sweep.
    pub(super) fn sweep_if_due(&mut self, node: usize) -> Checked {
        let (now, reading) = (self.now, self.nodes[node].reading(self.now));
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let uptime_us = uptime_us(now);
        if process.sweep.next_timeout_us() > uptime_us {
            return Ok(());
        }
        let passed_us = match self.plant {
            Some(Plant::SweptByWallClock) => reading.wall.us_since(process.shown.last_event()),
            _ => uptime_us.saturating_sub(process.heard_us),
        };
        process.sweep.begin(uptime_us, &process.shown, passed_us);
        let (mut expired, mut sweeps_blobs) = (Vec::new(), false);
        while let Some(step) = process.sweep.next(process.leader.is_some()) {
            match step {
                Step::Tasks(tasks) => expired.push(tasks),
                Step::Blobs => sweeps_blobs = true,
            }
        }
        expired.into_iter().try_for_each(|expired| self.tasks_swept(node, expired))?;
        if sweeps_blobs {
            self.sweep_blobs(node);
        }
        Ok(())
    }

    /// Final tasks leave the read model of a node.
    fn tasks_swept(&mut self, node: usize, expired: Expired) -> Checked {
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        let (shown, slack_us) = (process.published, self.led_slack_us());
        let gone = self.oracle.swept(self.now, expired, shown, self.options.retention_us, slack_us)?;
        if gone > 0 {
            self.marks.hit(Mark::TaskSwept);
        }
        Ok(())
    }

    /// Snapshots that no record names are removed.
    fn sweep_blobs(&mut self, node: usize) {
        let uptime_us = uptime_us(self.now);
        let Some(servers) = self.servers.as_deref_mut() else { return };
        let Some(process) = &mut self.nodes[node].process else { return };
        let before = servers.snapshots.len();
        servers.snapshots.retain(|digest, _| {
            let is_referenced = process.current.contains(digest);
            // Whatever keeps them has one clock, and none is stored twice.
            !process.sweep.blob(uptime_us, *digest, Timestamp(0), is_referenced)
        });
        if servers.snapshots.len() < before {
            self.marks.hit(Mark::BlobSwept);
        }
    }
}
