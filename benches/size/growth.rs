//! How the cost of digestfix grows with the number of references.

use crate::contest::{Cost, figure};

/// The cost of each kind of work at each number of references.
#[derive(Debug, Default)]
pub struct Growth(Vec<(String, Vec<(usize, Cost)>)>);

impl Growth {
    /// Adds the cost of a kind of work at one size.
    pub fn add(&mut self, work: &str, references: usize, cost: Cost) {
        match self.0.iter_mut().find(|(known, _)| known == work) {
            Some((_, costs)) => costs.push((references, cost)),
            None => self.0.push((work.to_owned(), vec![(references, cost)])),
        }
    }

    /// Prints the costs as a table.
    pub fn print(&self) {
        if self.0.is_empty() {
            return;
        }
        println!("\n### How digestfix grows\n");
        println!("| work | references | median, ms | microseconds a reference | peak memory, MB |");
        println!("| --- | ---: | ---: | ---: | ---: |");
        for (work, costs) in &self.0 {
            for (references, cost) in costs {
                println!(
                    "| {work} | {references} | {} | {} | {} |",
                    figure(cost.seconds * 1e3),
                    figure(cost.seconds * 1e6 / *references as f64),
                    figure(cost.megabytes)
                );
            }
        }
    }
}
