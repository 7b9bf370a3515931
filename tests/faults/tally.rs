//! Counts the points that were tried, and their results.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The result of trying one point.
#[derive(Debug)]
pub enum Tried {
    /// The host recovered within this time.
    Whole(Duration),
    NotReached,
    Failed(Vec<String>),
}

#[derive(Debug)]
pub struct Tally {
    begin: Instant,
    total: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    tried: usize,
    not_reached: usize,
    slowest: Duration,
    failures: Vec<String>,
}

impl Tally {
    pub fn new(total: usize) -> Self {
        Self {
            begin: Instant::now(),
            total,
            counts: Mutex::default(),
        }
    }

    pub fn add(&self, name: &str, tried: Tried) {
        let mut counts = self
            .counts
            .lock()
            .unwrap_or_else(|error| error.into_inner());
        match tried {
            Tried::NotReached => {
                counts.not_reached += 1;
                println!("not reached: {name}");
            }
            Tried::Whole(took) => {
                counts.tried += 1;
                counts.slowest = counts.slowest.max(took);
            }
            Tried::Failed(differences) => {
                counts.tried += 1;
                let failure = format!("{name}\n    {}", differences.join("\n    "));
                println!("FAILED {failure}");
                counts.failures.push(failure);
            }
        }
        let done = counts.tried + counts.not_reached;
        if done.is_multiple_of(20) || self.total < 100 {
            println!(
                "{:6.0} s  {done} of {}: {} failed, {} not reached  (last: {name})",
                self.begin.elapsed().as_secs_f64(),
                self.total,
                counts.failures.len(),
                counts.not_reached
            );
        }
    }

    pub fn tell(self) -> ExitCode {
        let counts = self
            .counts
            .into_inner()
            .unwrap_or_else(|error| error.into_inner());
        for failure in &counts.failures {
            println!("\nFAILED {failure}");
        }
        println!(
            "\n{} points tried, {} failed, {} not reached; whole after {:.1} s at most; {:.0} s in all",
            counts.tried,
            counts.failures.len(),
            counts.not_reached,
            counts.slowest.as_secs_f64(),
            self.begin.elapsed().as_secs_f64()
        );
        // If nothing was tried, the test has proven nothing.
        if counts.failures.is_empty() && counts.tried > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
