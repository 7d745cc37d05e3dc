//! The cost of a hostile tenant for its neighbour: `POST /v1/run` of a no-op by one tenant,
//! while another attacks in one of many ways.
//!
//! Each attack has a server of its own. Idle and attack take turns, so that a machine that becomes
//! slower meanwhile makes both slower. The attacker's clients take part of the same machine's CPU,
//! and run on threads of their own. Victim and attacker come from different addresses.

mod attacks;
mod bodies;
mod payloads;
mod wire;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hyper::Method;
use serde::Serialize;
use wasmill_api::TokenCreated;

use crate::bench::http::{self, Connection, Endpoint};
use crate::bench::module;
use crate::bench::report::{Report, quantile};
use crate::bench::server::Target;
pub(super) use attacks::Attack;

/// How often idle and attack take turns.
const ROUNDS: u32 = 2;
/// Runs before the first that counts.
const WARM_UP: u32 = 100;
/// How long an attack goes on before it is measured.
const LEAD: Duration = Duration::from_secs(2);
/// The pause between two runs of the victim: it asks, it does not push.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the victim waits for one answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The 99th percentile may become so many times that of the idle server, or this many milliseconds
/// where that is more.
const FACTOR_MAX: f64 = 2.0;
const BOUND_MS_MIN: f64 = 20.0;
/// Where the two come from: another address of this machine each.
const VICTIM_ADDRESS: [u8; 4] = [127, 0, 0, 2];
const ATTACKER_ADDRESS: [u8; 4] = [127, 0, 0, 3];

/// The harm of one attack to the neighbour.
#[derive(Debug, Serialize)]
pub(super) struct Harm {
    attack: &'static str,
    idle_ms_p50: f64,
    idle_ms_p99: f64,
    ms_p50: f64,
    ms_p99: f64,
    ms_max: f64,
    /// Runs that were not answered with their result.
    refused: usize,
    samples: usize,
    /// The bound of the 99th percentile.
    bound_ms: f64,
    within: bool,
}

/// The two tenants of a server.
struct Neighbours {
    victim: Endpoint,
    attacker: Endpoint,
}

/// The victim's runs.
#[derive(Debug, Default)]
struct Seen {
    took: Vec<Duration>,
    refused: usize,
}

/// Measures one attack, for `seconds` each time. `open` starts a server.
pub(super) async fn measure<E: From<anyhow::Error>>(
    open: impl AsyncFn() -> Result<Target, E>,
    attack: Attack,
    seconds: u64,
    report: &mut Report,
) -> Result<(), E> {
    let (mut idle, mut under_attack) = (Seen::default(), Seen::default());
    for _ in 0..ROUNDS {
        // A new one each time: one turn must not pay for what another left behind.
        let target = open().await?;
        turn(&target, attack, seconds, (&mut idle, &mut under_attack)).await?;
    }
    report.add_harm(Harm::of(attack, idle, under_attack));
    Ok(())
}

/// Idle, then under attack.
async fn turn(
    target: &Target,
    attack: Attack,
    seconds: u64,
    (idle, under_attack): (&mut Seen, &mut Seen),
) -> Result<()> {
    let Neighbours { victim, attacker } = Neighbours::settle(target).await?;
    let run_path = http::run_path(&victim.connect().await?.push(module::noop(0)?).await?);
    let mut connection = victim.connect().await?;
    for _ in 0..WARM_UP {
        connection.run(&run_path).await?;
    }
    watch(&victim, &run_path, seconds, idle).await?;
    let prepared = attacks::prepare(attack, &attacker).await.context("the attack cannot be prepared")?;
    let attacking = attacks::Attacking::start(prepared, attacker)?;
    tokio::time::sleep(LEAD).await;
    watch(&victim, &run_path, seconds, under_attack).await?;
    attacking.stop();
    Ok(())
}

impl Neighbours {
    async fn settle(target: &Target) -> Result<Self> {
        let mut admin = target.connect().await?;
        let mut tenant = async |name: &str, address: [u8; 4]| -> Result<Endpoint> {
            let body = format!(r#"{{"name":"{name}"}}"#);
            admin.call(Method::POST, "/v1/tenants", "application/json", body.into(), &[201]).await?;
            let path = format!("/v1/tenants/{name}/tokens");
            let token: TokenCreated = admin.post(&path, r#"{"name":"bench","role":"submit"}"#).await?;
            target.endpoint().as_another(&token.token, address)
        };
        Ok(Self {
            victim: tenant("victim", VICTIM_ADDRESS).await?,
            attacker: tenant("attacker", ATTACKER_ADDRESS).await?,
        })
    }
}

/// Runs the no-op for a while, one after the other.
async fn watch(victim: &Endpoint, run_path: &str, seconds: u64, seen: &mut Seen) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut connection = victim.connect().await?;
    while Instant::now() < end {
        run_once(victim, &mut connection, run_path, seen).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// One run; what was not served is counted, and its connection given up.
async fn run_once(victim: &Endpoint, connection: &mut Connection, run_path: &str, seen: &mut Seen) -> Result<()> {
    let started = Instant::now();
    match tokio::time::timeout(PATIENCE, connection.run(run_path)).await {
        Ok(Ok(())) => seen.took.push(started.elapsed()),
        Ok(Err(_)) | Err(_) => {
            seen.refused += 1;
            seen.took.push(started.elapsed());
            *connection = victim.connect().await?;
        }
    }
    Ok(())
}

impl Harm {
    fn of(attack: Attack, mut idle: Seen, mut under_attack: Seen) -> Self {
        let ms = |took: &mut Vec<Duration>, share: f64| quantile(took, share).as_secs_f64() * 1e3;
        let (idle_ms_p50, idle_ms_p99) = (ms(&mut idle.took, 0.5), ms(&mut idle.took, 0.99));
        let took = &mut under_attack.took;
        let (ms_p50, ms_p99, ms_max) = (ms(took, 0.5), ms(took, 0.99), ms(took, 1.0));
        let bound_ms = (idle_ms_p99 * FACTOR_MAX).max(BOUND_MS_MIN);
        Self {
            attack: attack.name(),
            idle_ms_p50,
            idle_ms_p99,
            ms_p50,
            ms_p99,
            ms_max,
            refused: under_attack.refused,
            samples: took.len(),
            bound_ms,
            within: ms_p99 <= bound_ms && under_attack.refused == 0,
        }
    }

    /// The cells of a table, in the order of [`Harm::TITLES`].
    pub(super) fn cells(&self) -> [String; 8] {
        let ms = |value: f64| format!("{value:.1}");
        [
            self.attack.to_owned(),
            format!("{} / {}", ms(self.idle_ms_p50), ms(self.idle_ms_p99)),
            format!("{} / {}", ms(self.ms_p50), ms(self.ms_p99)),
            ms(self.ms_max),
            format!("{:.1}", self.ms_p99 / self.idle_ms_p99.max(0.001)),
            ms(self.bound_ms),
            format!("{} of {}", self.refused, self.samples),
            if self.within { "within" } else { "OVER" }.to_owned(),
        ]
    }

    /// See [`Harm::cells`].
    pub(super) const TITLES: [&'static str; 8] =
        ["ATTACK", "IDLE MS P50 / P99", "ATTACKED MS P50 / P99", "MAX", "RATIO", "BOUND", "REFUSED", "BOUND IS"];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ms: u64, refused: usize) -> Seen {
        Seen { took: vec![Duration::from_millis(ms); 10], refused }
    }

    #[test]
    fn a_neighbour_may_be_twice_as_slow_or_twenty_milliseconds() {
        for (idle, attacked, refused, within) in
            [(3, 20, 0, true), (3, 21, 0, false), (15, 30, 0, true), (15, 31, 0, false), (3, 3, 1, false)]
        {
            let harm = Harm::of(Attack::Sleepers, seen(idle, 0), seen(attacked, refused));
            assert_eq!(harm.within, within, "{harm:?}");
        }
    }
}
