use wasmill_sim::{Plant, run_world};
fn main() {
    let seed: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let name = std::env::args().nth(2).unwrap();
    let plant = Plant::ALL.into_iter().chain(Plant::OF_CLUSTERS).find(|p| format!("{p:?}") == name);
    match run_world(seed, true, plant, true) {
        Err(f) => println!("{f}"),
        Ok(r) => println!("{:?}", r.marks),
    }
}
