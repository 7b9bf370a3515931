//! Rounds: each round runs several ways to the same result on a machine of the lab, one
//! after another.

use std::env;
use std::fs;
use std::time::Instant;

use crate::machine::{Machine, Suite};
use crate::spread::spread;

const ROUNDS: usize = 3;

/// One way, with its name in the table.
pub struct Way {
    name: &'static str,
    timed: Timed,
}

enum Timed {
    /// A script that runs another program. `is_last` is true for the last script that needs
    /// the digests. The digests are dropped after that script.
    Peer { script: &'static str, is_last: bool },
    /// digestfix with these arguments, and the expected exit code.
    Digestfix(&'static [&'static str], i32),
}

impl Way {
    pub const fn peer(name: &'static str, script: &'static str, is_last: bool) -> Self {
        let timed = Timed::Peer { script, is_last };
        Self { name, timed }
    }

    pub const fn digestfix(name: &'static str, words: &'static [&'static str], code: i32) -> Self {
        let timed = Timed::Digestfix(words, code);
        Self { name, timed }
    }

    /// Runs this way. Returns its duration in seconds.
    fn take(&self, machine: &Machine, forget: &dyn Fn()) -> f64 {
        let began = Instant::now();
        match self.timed {
            Timed::Peer { script, .. } => drop(machine.sh(script)),
            Timed::Digestfix(words, code) => drop(machine.digestfix(words).exits(code)),
        }
        let took = began.elapsed().as_secs_f64();
        if let Timed::Peer { is_last: true, .. } = self.timed {
            forget();
        }
        took
    }
}

/// What to measure, according to the command line: `[--program FILE] [ROUNDS [COUNT...]]`
pub struct Wanted {
    /// A build of digestfix to measure instead of the lab's.
    program: Option<String>,
    pub rounds: usize,
    pub counts: Vec<usize>,
}

impl Wanted {
    /// Reads the command line of this process. Uses `counts` if it contains no counts.
    pub fn of_process(counts: &[usize]) -> Self {
        let words = env::args().skip(1).filter(|word| word != "--bench");
        let mut words: Vec<String> = words.collect();
        let mut program = None;
        if words.first().is_some_and(|word| word == "--program") {
            program = Some(words.remove(1));
            words.remove(0);
        }
        let mut numbers = words.iter().map(|word| word.parse().unwrap());
        let rounds = numbers.next().unwrap_or(ROUNDS);
        let given: Vec<usize> = numbers.collect();
        Self {
            program,
            rounds,
            counts: match given.as_slice() {
                [] => counts.to_vec(),
                _ => given,
            },
        }
    }

    pub fn boot(&self, suite: Suite) -> Machine {
        let machine = Machine::boot(suite);
        if let Some(program) = &self.program {
            fs::copy(program, machine.file("/usr/local/bin/digestfix")).unwrap();
        }
        machine
    }

    /// Prints the heading of the table.
    pub fn heading(&self) {
        let rounds = self.rounds;
        println!("medians of {rounds} rounds, in seconds; ratio to the first way of each round\n");
        println!(
            "engine, digests      what                          median (range)            ratio   load"
        );
    }

    /// Runs all ways once in each round, and prints how long each took. `forget` drops the
    /// digests again.
    pub fn compare(&self, subject: &str, ways: &[Way], machine: &Machine, forget: &dyn Fn()) {
        let mut took: Vec<Vec<f64>> = ways.iter().map(|_| Vec::new()).collect();
        for _ in 0..self.rounds {
            for (way, took) in ways.iter().zip(&mut took) {
                took.push(way.take(machine, forget));
            }
            forget();
        }
        let load = fs::read_to_string("/proc/loadavg").unwrap();
        let load = load.split(' ').next().unwrap_or_default();
        for (way, own) in ways.iter().zip(&took) {
            let ratios = own.iter().zip(&took[0]).map(|(own, first)| own / first);
            let (low, middle, high) = spread(own.iter().copied());
            println!(
                "{subject:<20} {:<27} {middle:8.3} ({low:.3} to {high:.3})   {:6.2}   {load}",
                way.name,
                spread(ratios).1
            );
        }
    }
}
