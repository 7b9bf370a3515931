//! Clients that are connected to the Docker API, such as `docker logs -f`, `docker exec`,
//! a build, or a dashboard. When Docker stops, these clients lose their connection.

use std::fs;
use std::path::Path;

/// The state of a connected Unix socket in /proc/net/unix (`linux/net.h`,
/// `SS_CONNECTED`).
const CONNECTED: &str = "03";

/// The number of clients that are connected to a socket, or 0 if the number cannot be
/// read.
pub fn count(socket: &Path) -> usize {
    // The kernel shows the path by which the socket was bound, for example
    // /run/docker.sock. The path that digestfix knows may contain a symbolic link such as
    // /var/run.
    let name = fs::canonicalize(socket).unwrap_or_else(|_| socket.to_owned());
    // Read the sockets of process 1, because digestfix may run in another network
    // namespace than the host.
    let table = fs::read_to_string("/proc/1/net/unix").unwrap_or_default();
    connections(
        &table,
        &[&socket.to_string_lossy(), &name.to_string_lossy()],
    )
}

/// Counts the connected sockets with one of these names. Each line of the table has the
/// columns `Num RefCount Protocol Flags Type St Inode Path` (`proc_net_unix(5)`).
fn connections(table: &str, names: &[&str]) -> usize {
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns.get(5) == Some(&CONNECTED))
        .filter(|columns| columns.get(7).is_some_and(|path| names.contains(path)))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_to_the_socket_are_counted() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 111 /run/docker.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 112 /run/docker.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 113\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 114 /run/docker.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 115 /run/other.sock\n";
        assert_eq!(
            connections(table, &["/var/run/docker.sock", "/run/docker.sock"]),
            2
        );
        assert_eq!(connections("", &["/run/docker.sock"]), 0);
    }
}
