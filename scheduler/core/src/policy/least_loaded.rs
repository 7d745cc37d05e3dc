//! `least_loaded`: every task goes where the fewest attempts per slot are.

use super::{Choice, HostRoom, Policy, PolicyFault, Wanted, fits};

/// Spreads tasks, so that each starts as early as it can.
#[derive(Debug, Clone, Copy)]
pub struct LeastLoaded;

impl Policy for LeastLoaded {
    fn name(&self) -> &str {
        "least_loaded"
    }

    fn place(&mut self, wanted: &[Wanted<'_>], hosts: &[HostRoom]) -> Result<Vec<Choice>, PolicyFault> {
        let mut placed = vec![0; hosts.len()];
        let mut choices = Vec::new();
        for (index, wish) in wanted.iter().enumerate() {
            let fitting: Vec<usize> = (0..hosts.len()).filter(|&host| fits(wish.shape, &hosts[host]).is_ok()).collect();
            let counts = spread(wish.count, &fitting, hosts, &mut placed);
            let chosen = fitting.into_iter().zip(counts).filter(|(_, count)| *count > 0);
            choices.extend(chosen.map(|(host, count)| Choice { wanted: index, host, count }));
        }
        Ok(choices)
    }
}

/// How many of `count` tasks go to each host of `fitting`; `placed` is what this round has put on each host before.
fn spread(count: u32, fitting: &[usize], hosts: &[HostRoom], placed: &mut [u32]) -> Vec<u32> {
    let mut counts = vec![0; fitting.len()];
    let room = |placed: &[u32], host: usize| hosts[host].free - placed[host];
    if let [only] = *fitting {
        counts[0] = count.min(room(placed, only));
        placed[only] += counts[0];
        return counts;
    }
    for _ in 0..count {
        // Attempts per slot, compared without a division; the first of equals wins, so the answer is always the same.
        let load = |host: usize| u64::from(hosts[host].attempts + placed[host]);
        let slots = |host: usize| u64::from(hosts[host].slots.max(1));
        let open = fitting.iter().enumerate().filter(|(_, host)| room(placed, **host) > 0);
        let least = open.min_by(|(_, a), (_, b)| (load(**a) * slots(**b)).cmp(&(load(**b) * slots(**a))));
        let Some((index, &host)) = least else { break };
        counts[index] += 1;
        placed[host] += 1;
    }
    counts
}
