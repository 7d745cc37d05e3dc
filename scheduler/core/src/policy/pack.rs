//! `pack`: fills one host before it uses the next.

use super::{Choice, HostRoom, Policy, PolicyFault, Wanted, fits};

/// Keeps hosts empty, so that they can be taken away, and caches of compiled modules warm. Tasks wait on a host where another one
/// would start them at once.
#[derive(Debug, Clone, Copy)]
pub struct Pack;

impl Policy for Pack {
    fn name(&self) -> &str {
        "pack"
    }

    fn place(&mut self, wanted: &[Wanted<'_>], hosts: &[HostRoom]) -> Result<Vec<Choice>, PolicyFault> {
        let mut free: Vec<u32> = hosts.iter().map(|host| host.free).collect();
        let mut fullest_first: Vec<usize> = (0..hosts.len()).collect();
        fullest_first.sort_by_key(|&host| std::cmp::Reverse(hosts[host].attempts));
        let mut choices = Vec::new();
        for (index, wish) in wanted.iter().enumerate() {
            let mut left = wish.count;
            for &host in fullest_first.iter().filter(|&&host| fits(wish.shape, &hosts[host]).is_ok()) {
                let count = left.min(free[host]);
                if count > 0 {
                    free[host] -= count;
                    left -= count;
                    choices.push(Choice { wanted: index, host, count });
                }
            }
        }
        Ok(choices)
    }
}
