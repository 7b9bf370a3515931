//! Resets the machine at random moments of an apply, while other clients use Docker.

use crate::host::Digest;
use crate::injection::Ended;
use crate::options::Options;
use crate::power::Rebooted;
use crate::scene::attempt;
use crate::tally::{Tally, Tried};

/// An apply takes less time than this, in milliseconds.
const AT_MOST_MS: u64 = 1500;

/// Clients that use Docker until the machine is reset.
const LOAD: &str = "app=localhost:5000/lab/app:v1
( while :; do docker run --rm --label load $app /bin/busybox true; done ) &
( while :; do docker tag $app lab/load:one; docker rmi lab/load:one; done ) &
( while :; do docker ps -a; docker images; done ) &
( while :; do curl -s -m 2 http://127.0.0.1:8080/hello; done ) &
wait";

/// Removes what these clients may have left.
const WITHOUT_LOAD: &str = "docker ps -aq --filter label=load | xargs -r docker rm -f >/dev/null
docker rmi --no-prune lab/load:one >/dev/null 2>&1 || true";

/// Starts an apply, and kills it after this many seconds.
const KILLED: &str = "seconds=$1; shift
digestfix \"$@\" >/run/faults.out 2>&1 & run=$!
sleep \"$seconds\"; kill -KILL $run 2>/dev/null
wait $run";

pub fn run(options: &Options) -> Tally {
    let file_system = options.file_system.as_deref();
    println!(
        "{} resets at random instants, seed {}",
        options.count, options.seed
    );
    let tally = Tally::new(options.count);
    let mut random = Random::new(options.seed);
    let mut host = None;
    for number in 1..=options.count {
        let after = random.below(AT_MOST_MS);
        let tried = attempt(|| {
            let host = host.get_or_insert_with(|| Rebooted::new(options, file_system));
            reset(host, after)
        });
        if matches!(tried, Tried::Failed(_)) {
            host = None;
        }
        tally.add(&format!("reset {number}, after {after} ms"), tried);
    }
    tally
}

fn reset(host: &mut Rebooted, after: u64) -> Result<Tried, Vec<String>> {
    host.scene.as_before_reboot();
    let machine = &host.scene.machine;
    let load = machine.background(&format!("({LOAD}) >/dev/null 2>&1"));
    let seconds = format!("{}.{:03}", after / 1000, after % 1000);
    let words = [
        &["sh", "-c", KILLED, "killed", &seconds],
        host.scene.apply().as_slice(),
    ]
    .concat();
    let run = machine.run(&words);
    let (ended, digest) = match run.code {
        0 => (Ended::Code(0), Digest::There),
        code @ (1 | 3) => (Ended::Code(code), Digest::Absent),
        5 => (Ended::Code(5), Digest::Either),
        137 => (Ended::Killed, Digest::Either),
        code => {
            let output = machine.sh("cat /run/faults.out");
            return Err(vec![format!("exit code {code}: {output}")]);
        }
    };
    host.reboot();
    drop(load);
    let rid = host.scene.machine.run(&["sh", "-c", WITHOUT_LOAD]);
    if rid.code != 0 {
        return Err(vec![format!("Docker does not answer: {}", rid.stderr)]);
    }
    host.is_whole(ended, digest)
}

/// Random numbers (xorshift64*). The same seed gives the same moments.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        // A seed of zero would make every number zero.
        Self(seed.wrapping_add(0x9E37_79B9_7F4A_7C15))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % limit
    }
}
