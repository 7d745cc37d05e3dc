//! Whether everything has ended, and what has not.

use super::World;

impl World {
    /// Whether every task is final and no client waits.
    pub fn is_done(&self) -> bool {
        self.clients.open.is_empty() && self.oracle.unfinished().next().is_none()
    }

    /// Says what has not ended, and what the leaders think of it.
    pub fn stuck(&self) -> String {
        let leaders = || self.nodes.iter().filter_map(|node| node.process.as_ref()?.leader.as_ref());
        let waiting = |task| leaders().map(|leader| leader.node.core().explain(task, self.now)).collect::<Vec<_>>();
        let tasks: Vec<_> = self
            .oracle
            .unfinished()
            .take(5)
            .map(|(task, life)| {
                let place = life.current().and_then(|id| self.oracle.attempts.get(&id));
                format!("{task} {:?} {place:?} {:?}", life.phase, waiting(task))
            })
            .collect();
        let hosts = leaders().flat_map(|leader| leader.node.core().hosts());
        let hosts: Vec<_> = hosts.map(|host| format!("{:?} is {}", host.info, host.state)).collect();
        let nodes: Vec<_> = self.nodes.iter().map(|node| format!("{} has seen {}", node.name, node.seen())).collect();
        let terms: Vec<_> = leaders().map(|leader| leader.term()).collect();
        format!(
            "{} tasks are not final long after healing, and {} requests are open; leaders of terms {terms:?}; {}; {}; {}",
            self.oracle.unfinished().count(),
            self.clients.open.len(),
            nodes.join(", "),
            hosts.join(", "),
            tasks.join("; "),
        )
    }
}
