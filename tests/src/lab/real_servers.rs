//! Servers and load tests as Debian ships them: at full speed all is well, however many connections that takes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;

use anyhow::{Context, Result};
use rung_diagnosis::mode::Mode::RetryStorm;

use super::bite;
use super::case::{Case, Need};
use super::services::HERE;
use super::sockets;
use super::stage::Stage;
use super::truth::Truth;

pub(crate) const CASES: &[Case] = &[
    Case::twin(
        "storm-twin-wrk",
        RetryStorm,
        "wrk against nginx, with connections that are kept and with a new one for each request",
        wrk,
    )
    .needs(&[Need::Program("nginx"), Need::Program("wrk"), Need::Program("ss")])
    .look_seconds(12)
    .alone()
    .beyond_procfs(),
    Case::twin(
        "storm-twin-redis-benchmark",
        RetryStorm,
        "redis-benchmark, with connections that are kept and with a new one for each request",
        redis_benchmark,
    )
    .needs(&[
        Need::Program("redis-server"),
        Need::Program("redis-benchmark"),
        Need::Program("ss"),
    ])
    .look_seconds(12)
    .alone()
    .beyond_procfs(),
    Case::twin(
        "storm-twin-pgbench",
        RetryStorm,
        "pgbench against PostgreSQL, with connections that are kept and with a new one for each transaction",
        pgbench,
    )
    .needs(&[
        Need::Root,
        Need::Postgresql,
        Need::Program("setpriv"),
        Need::Program("unshare"),
        Need::Program("ss"),
    ])
    .look_seconds(12)
    .alone()
    .beyond_procfs()
    .bound_seconds(40),
];

/// Redis on a port of its own; its process and its address.
pub(super) fn redis(stage: &mut Stage) -> Result<(i32, SocketAddr)> {
    let address = HERE.closed_port()?;
    let (bind, port) = (address.ip().to_string(), address.port().to_string());
    let play = stage.program("redis-server")?.args([
        "--bind",
        &bind,
        "--port",
        &port,
        "--save",
        "",
        "--appendonly",
        "no",
        // `debug sleep` is how it is made to stand still.
        "--enable-debug-command",
        "local",
    ]);
    let server = stage.start(play)?.pid;
    serves(address)?;
    Ok((server, address))
}

fn serves(address: SocketAddr) -> Result<()> {
    bite::until(&format!("somebody listens on {address}"), || {
        TcpStream::connect(address).is_ok()
    })?;
    Ok(())
}

/// Waits until so many new connections have come and gone while `address` has connections that stay.
fn full_speed(address: SocketAddr, opened: u64) -> Result<()> {
    let opens = || sockets::opened_actively();
    let before = opens()?;
    bite::until(&format!("{opened} connections were opened"), || {
        opens().is_ok_and(|now| now > before + opened)
    })?;
    bite::until("connections stand", || {
        sockets::count("established", address).is_ok_and(|standing| standing >= 4)
    })?;
    Ok(())
}

fn wrk(stage: &mut Stage) -> Result<Truth> {
    let address = HERE.closed_port()?;
    let dir = stage.dir().to_path_buf();
    let conf = format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; keepalive_requests 1000000000;\n\
         client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir}; uwsgi_temp_path {dir};\n\
         scgi_temp_path {dir};\n\
         server {{ listen {address} backlog=511; location / {{ return 200 pong; }} }} }}\n",
        dir = dir.display()
    );
    fs::write(dir.join("nginx.conf"), conf)?;
    let play = stage
        .program("nginx")?
        .args(["-e", "error.log", "-c"])
        .args([dir.join("nginx.conf")]);
    let server = stage.start(play)?.pid;
    serves(address)?;
    let (url, seconds) = (format!("http://{address}/"), format!("{}s", stage.seconds()));
    let mut cast = vec![server];
    for header in ["Connection: keep-alive", "Connection: close"] {
        let play = stage
            .program("wrk")?
            .args(["-t1", "-c8", "-d", &seconds, "-H", header, &url]);
        cast.push(stage.start(play)?.pid);
    }
    full_speed(address, 300)?;
    Ok(Truth::twin(RetryStorm, cast))
}

fn redis_benchmark(stage: &mut Stage) -> Result<Truth> {
    let (server, address) = redis(stage)?;
    let port = address.port().to_string();
    let mut cast = vec![server];
    for keep in ["1", "0"] {
        let play = stage.program("redis-benchmark")?.args([
            "-p",
            &port,
            "-c",
            "8",
            "-k",
            keep,
            "-t",
            "ping_mbulk",
            "-l",
            "-q",
        ]);
        cast.push(stage.start(play)?.pid);
    }
    full_speed(address, 300)?;
    Ok(Truth::twin(RetryStorm, cast))
}

/// Where Debian keeps the servers' programs of the newest version there is.
pub(super) fn postgresql() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let programs = versions.map(|version| version.path().join("bin"));
    programs
        .filter(|bin| bin.join("initdb").is_file() && bin.join("pgbench").is_file())
        .max()
}

fn pgbench(stage: &mut Stage) -> Result<Truth> {
    let bin = postgresql().context("no PostgreSQL")?;
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), HERE.closed_port()?.port());
    let port = address.port().to_string();
    let home = stage.dir().join("postgresql");
    fs::create_dir(&home)?;
    // The server refuses to run as root. In an IPC namespace of its own its shared memory goes with it.
    let nobody = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"];
    std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY))?;
    let data = home.join("data");
    let mut play = stage.program("unshare")?.args(["--ipc", "setpriv"]).args(nobody);
    play = play
        .args([bin.join("initdb")])
        .args(["--no-sync", "--auth=trust", "--username=postgres", "--pgdata"])
        .args([&data]);
    play.command.current_dir(&home);
    let maker = stage.start(play)?;
    stage.reap(&maker)?;
    let mut play = stage.program("unshare")?.args(["--ipc", "setpriv"]).args(nobody);
    play = play
        .args([bin.join("postgres")])
        .args(["-p", &port, "-h", "127.0.0.1", "-c", "fsync=off", "-k"])
        .args([&home])
        .args(["-D"])
        .args([&data]);
    play.command.current_dir(&home);
    let server = stage.start(play)?.pid;
    serves(address)?;
    let client = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
    let filler = stage
        .program(bin.join("pgbench"))?
        .args(client)
        .args(["-i", "-q", "postgres"]);
    let filler = stage.start(filler)?;
    stage.reap(&filler)?;
    let mut cast = vec![server];
    let seconds = stage.seconds().to_string();
    for connections in [&["-c4"][..], &["-c4", "-C"]] {
        let play = stage
            .program(bin.join("pgbench"))?
            .args(client)
            .args(["-n", "-S", "-T", &seconds])
            .args(connections)
            .args(["postgres"]);
        cast.push(stage.start(play)?.pid);
    }
    // The server forks for each: a busy machine may not manage 300 in the time that a fault has to bite.
    full_speed(address, 100)?;
    Ok(Truth::twin(RetryStorm, cast))
}

/// `nobody` and `nogroup` of Debian.
const NOBODY: u32 = 65534;
