//! Contests: programs that must give the same answer take turns. Each becomes a line of
//! the table.

use std::fmt::Write;

use crate::measure::{Calls, Place};

/// If a contestant takes longer than this, in seconds, it runs only once.
const PATIENCE: f64 = 60.0;

/// If a contestant takes longer than this, in seconds, its system calls are not counted,
/// because strace slows it down many times.
const TRACED: f64 = 5.0;

/// The result that all contestants must agree on, in order.
pub type Answer = Vec<String>;

/// Extracts an answer from a program's output or from the files that it left.
pub type Reading<'a> = dyn Fn(&[u8]) -> Answer + 'a;

/// A program that does the work.
pub struct Contestant<'a> {
    /// The contestant's name in the table.
    pub name: String,
    /// The program and its arguments.
    pub words: Vec<String>,
    /// The exit code that the contestant must return.
    pub code: i32,
    /// Extracts the contestant's answer. `None` for a floor, which does only a part of
    /// the work.
    pub answer: Option<Box<Reading<'a>>>,
}

impl<'a> Contestant<'a> {
    /// A contestant that exits with 0.
    pub fn new(name: &str, words: Vec<String>, answer: impl Fn(&[u8]) -> Answer + 'a) -> Self {
        Self {
            name: name.to_owned(),
            words,
            code: 0,
            answer: Some(Box::new(answer)),
        }
    }

    pub fn that_exits(self, code: i32) -> Self {
        Self { code, ..self }
    }

    /// A floor: a program that does the least that this work requires.
    pub fn floor(name: &str, words: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            words,
            code: 0,
            answer: None,
        }
    }
}

/// How often each contestant is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Whether to make fewer rounds and runs.
    pub quick: bool,
}

impl Effort {
    /// The number of rounds, depending on the time of the slowest contestant in seconds.
    fn rounds(self, seconds: f64) -> usize {
        match (self.quick, seconds) {
            (false, ..1.0) => 9,
            (false, _) | (true, ..0.1) => 5,
            (true, _) => 3,
        }
    }

    /// The number of runs in a round, and the number of runs before it that fill the
    /// kernel's caches. Both depend on the time of one run in seconds.
    fn runs(self, seconds: f64) -> (usize, usize) {
        match (self.quick, seconds) {
            (false, ..0.1) => (10, 2),
            (false, ..1.0) => (3, 1),
            (false, ..10.0) => (1, 1),
            (false, _) => (1, 0),
            (true, ..0.1) => (5, 1),
            (true, ..10.0) => (1, 1),
            (true, _) => (1, 0),
        }
    }
}

/// Several contestants for the same work. The first one is digestfix.
pub struct Contest<'a> {
    /// The machine on which the contestants run.
    pub place: &'a Place,
    /// The size of the work, as the table shows it.
    pub size: String,
    /// The command that restores the input before each run.
    pub prepare: Option<Vec<String>>,
    /// Whether to count system calls.
    pub calls: bool,
    /// The contestants.
    pub contestants: Vec<Contestant<'a>>,
}

/// The cost of one contestant: its median time and its peak memory.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// The median time in seconds.
    pub seconds: f64,
    /// The peak memory in megabytes.
    pub megabytes: f64,
}

/// The measurements of one contestant.
#[derive(Default)]
struct Result {
    first: f64,
    kib: u64,
    calls: Option<Calls>,
    /// The times of the runs in each round, sorted.
    rounds: Vec<Vec<f64>>,
    /// The processor time of each round.
    cpu: Vec<f64>,
}

impl Result {
    /// The median time. If the contestant ran only once, the time of that run.
    fn seconds(&self) -> f64 {
        spread(self.rounds.concat()).map_or(self.first, |(_, middle, _)| middle)
    }

    fn megabytes(&self) -> f64 {
        self.kib as f64 * 1024.0 / 1e6
    }
}

/// Prints the title of a row and the head of its table.
pub fn head(title: &str, calls: bool) {
    let (more, line) = if calls {
        (" system calls | bytes read |", " ---: | ---: |")
    } else {
        ("", "")
    };
    println!("\n### {title}\n");
    println!(
        "| size | program | median (range), ms | to digestfix (range) | CPU, ms | peak memory, MB |{more}"
    );
    println!("| --- | --- | ---: | ---: | ---: | ---: |{line}");
}

impl Contest<'_> {
    /// Checks that all contestants give the same answer, lets them take turns, and prints
    /// a line for each. Returns the cost of the first contestant.
    pub fn run(&self, effort: Effort) -> Cost {
        let mut results = self.check();
        let slowest = results
            .iter()
            .map(|result| result.first)
            .filter(|first| *first <= PATIENCE)
            .fold(0.0, f64::max);
        for round in 0..effort.rounds(slowest) {
            for turn in 0..results.len() {
                // Rotate the order, so that each contestant goes first equally often.
                let at = (turn + round) % results.len();
                if results[at].first > PATIENCE {
                    continue;
                }
                let (runs, warm_up) = effort.runs(results[at].first);
                let prepare = self.prepare.as_deref();
                let words = &self.contestants[at].words;
                let times = self.place.time(words, prepare, runs, warm_up);
                results[at].rounds.push(times.seconds);
                results[at].cpu.push(times.cpu);
            }
        }
        for (contestant, result) in self.contestants.iter().zip(&results) {
            println!("{}", self.line(contestant, result, &results[0]));
        }
        Cost {
            seconds: results[0].seconds(),
            megabytes: results[0].megabytes(),
        }
    }

    /// Runs each contestant once, for its exit code, answer, memory and system calls.
    fn check(&self) -> Vec<Result> {
        let mut agreed: Option<Answer> = None;
        let mut results = Vec::new();
        for contestant in &self.contestants {
            self.reset();
            let run = self.place.once(&contestant.words);
            let who = format!("{}, {}", contestant.name, self.size);
            assert_eq!(run.code, contestant.code, "{who}: exit code");
            if let Some(answer) = &contestant.answer {
                let answer = answer(&run.printed);
                assert!(!answer.is_empty(), "{who}: an answer");
                same(&who, agreed.get_or_insert_with(|| answer.clone()), &answer);
            }
            let calls = (self.calls && run.seconds <= TRACED).then(|| {
                self.reset();
                self.place.calls(&contestant.words)
            });
            results.push(Result {
                first: run.seconds,
                kib: run.kib,
                calls,
                rounds: Vec::new(),
                cpu: Vec::new(),
            });
        }
        results
    }

    fn reset(&self) {
        if let Some(prepare) = &self.prepare {
            assert_eq!(self.place.once(prepare).code, 0, "{prepare:?}");
        }
    }

    fn line(&self, contestant: &Contestant, result: &Result, ours: &Result) -> String {
        let mut line = format!("| {} | {} |", self.size, contestant.name);
        let ratios: Vec<f64> = result
            .rounds
            .iter()
            .zip(&ours.rounds)
            .map(|(own, ours)| median(own) / median(ours))
            .collect();
        let milliseconds = result.rounds.concat().iter().map(|s| s * 1000.0).collect();
        for (values, once) in [
            (milliseconds, result.first * 1000.0),
            (ratios, result.seconds() / ours.seconds()),
        ] {
            let _ = match spread(values) {
                Some((low, middle, high)) => write!(
                    line,
                    " {} ({} to {}) |",
                    figure(middle),
                    figure(low),
                    figure(high)
                ),
                None => write!(line, " {} (once) |", figure(once)),
            };
        }
        let cpu = spread(result.cpu.clone());
        let cpu = cpu.map_or_else(|| "-".to_owned(), |(_, middle, _)| figure(middle * 1000.0));
        let _ = write!(line, " {cpu} | {} |", figure(result.megabytes()));
        if let Some(calls) = &result.calls {
            let _ = write!(line, " {} | {} |", calls.calls, calls.bytes_read);
        } else if self.calls {
            line.push_str(" - | - |");
        }
        line
    }
}

/// Panics if two answers differ. Shows only the first difference, because answers may be
/// long.
fn same(who: &str, agreed: &Answer, own: &Answer) {
    let parts = agreed.iter().zip(own).position(|(one, other)| one != other);
    if let Some(at) = parts {
        panic!("{who}: gives {:?}, not {:?}", own[at], agreed[at]);
    }
    assert_eq!(own.len(), agreed.len(), "{who}: as many entries");
}

/// The median of sorted values.
fn median(values: &[f64]) -> f64 {
    let last = values.len() - 1;
    f64::midpoint(values[last / 2], values[last.div_ceil(2)])
}

/// The minimum, the median and the maximum; `None` without values.
fn spread(mut values: Vec<f64>) -> Option<(f64, f64, f64)> {
    values.sort_by(f64::total_cmp);
    Some((*values.first()?, median(&values), *values.last()?))
}

/// Formats a number with three significant digits.
pub fn figure(value: f64) -> String {
    let decimals = (2.0 - value.log10().floor()).clamp(0.0, 8.0);
    format!("{value:.*}", decimals as usize)
}
