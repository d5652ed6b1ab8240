//! Benchmarks: figures as ratios to Debian's dockerd, measured in turn on the same machine in the same run.
//!
//! Usage: `shoal-bench [start] [deploy] [failover] [memory] [agents] [steps]`; without an argument all of them.

mod agents;
mod deploy;
mod failover;
mod figures;
mod memory;
mod start;
mod steps;

/// A group of figures.
type Group = (&'static str, fn() -> anyhow::Result<()>);

const GROUPS: [Group; 6] = [
    ("start", start::measure),
    ("deploy", deploy::measure),
    ("failover", failover::measure),
    ("memory", memory::measure),
    ("agents", agents::measure),
    ("steps", steps::measure),
];

fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted == ["floor"] {
        return steps::floor::main();
    }
    for word in &wanted {
        let names = GROUPS.map(|(name, _)| name);
        anyhow::ensure!(names.contains(&word.as_str()), "no such benchmark: {word} (there are {})", names.join(", "));
    }
    for (name, measure) in GROUPS {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            println!("-- {name}");
            measure()?;
        }
    }
    Ok(())
}
