//! Real servers under load: nothing is wrong with a network on which much goes on.

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::{ConnectRefused, Flapping, PortExhaustion};

use super::case::{Case, Need};
use super::network::{Family, Host};
use super::peers;
use super::stage::{Actor, Stage};
use super::truth::Truth;

const NGINX: &[Need] = &[
    Need::Root,
    Need::Program("ip"),
    Need::Program("nft"),
    Need::Program("ss"),
    Need::Program("nginx"),
    Need::Program("wrk"),
];
const REDIS: &[Need] = &[
    Need::Root,
    Need::Program("ip"),
    Need::Program("nft"),
    Need::Program("ss"),
    Need::Program("redis-server"),
    Need::Program("redis-benchmark"),
];

pub(crate) const CASES: &[Case] = &[
    Case::twin(
        "network-twin-nginx-new-connections",
        PortExhaustion,
        "wrk asks nginx at full speed, each time over a new connection",
        |stage| nginx(stage, &["--header", "Connection: close"]),
    )
    .needs(NGINX)
    .look_seconds(10)
    .alone(),
    Case::twin(
        "network-twin-nginx-keep-alive",
        ConnectRefused,
        "wrk asks nginx at full speed over twenty connections",
        |stage| nginx(stage, &[]),
    )
    .needs(NGINX)
    .look_seconds(10)
    .alone(),
    Case::twin(
        "network-twin-redis-new-connections",
        Flapping,
        "redis-benchmark asks redis at full speed, each time over a new connection",
        redis,
    )
    .needs(REDIS)
    .look_seconds(10)
    .alone(),
];

const PORT: u16 = 7010;

/// Waits until the server's host has accepted so many connections or taken so many segments: the load is on.
fn under_load(server: &Actor) -> Result<()> {
    let segments = || peers::counter(server, "Tcp", "InSegs").unwrap_or(0);
    let before = segments();
    peers::until("the load is on", || Ok(segments() > before + 2000))?;
    Ok(())
}

fn listens(host: &Host) -> Result<()> {
    peers::until("the server listens", || {
        Ok(!host.sockets(&format!("-tl sport = {PORT}"))?.is_empty())
    })?;
    Ok(())
}

fn nginx(stage: &mut Stage, options: &[&str]) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    // One process: a worker of its own would overwrite the environment that carries the stage's mark.
    let settings = format!(
        "daemon off; master_process off; error_log stderr; pid nginx.pid; user root;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
         uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
         server {{ listen {to}; location / {{ return 200 \"hello\"; }} }} }}\n"
    );
    std::fs::write(stage.dir().join("nginx.conf"), settings)?;
    let dir = stage.dir().to_owned();
    let play = stage.program("nginx")?.args(["-p".as_ref(), dir.as_os_str()]);
    let serves = stage.start(play.args(["-e", "stderr", "-c", "nginx.conf"]).on(&far)?)?;
    listens(&far)?;
    let (seconds, url) = (stage.seconds().to_string(), format!("http://{to}/"));
    let play = stage
        .program("wrk")?
        .args(["-t", "1", "-c", "20", "-d", &seconds]);
    let asks = stage.start(play.args(options).args([url]).on(&near)?)?;
    under_load(&serves)?;
    Ok(Truth::twin(PortExhaustion, [serves.pid, asks.pid]))
}

fn redis(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let (address, port) = (far.v4.to_string(), PORT.to_string());
    let play = stage.program("redis-server")?;
    let play = play.args([
        "--port",
        &port,
        "--bind",
        &address,
        "--save",
        "",
        "--protected-mode",
        "no",
    ]);
    let serves = stage.start(play.on(&far)?)?;
    listens(&far)?;
    let play = stage.program("redis-benchmark")?;
    let play = play.args([
        "-h", &address, "-p", &port, "-k", "0", "-c", "20", "-t", "get", "-l", "-q",
    ]);
    let asks = stage.start(play.on(&near)?)?;
    under_load(&serves)?;
    ensure!(
        super::proc::alive(asks.pid),
        "redis-benchmark has ended: {}",
        super::proc::describe(asks.pid)
    );
    Ok(Truth::twin(Flapping, [serves.pid, asks.pid]))
}
