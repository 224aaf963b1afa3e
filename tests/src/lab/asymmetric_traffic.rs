//! `asymmetric-traffic`: exchanges that turn round, writes that move to another host, and what is only a backup or varies.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::AsymmetricTraffic;

use super::case::Case;
use super::network::{Family, Host, NETWORK};
use super::services::PYTHON;
use super::stage::{Actor, Stage};
use super::truth::{Certainty, Trigger, Truth};

/// A minute before the shift, a minute after it, and something for the steps of the samples between.
const WINDOW_SECONDS: u64 = 150;
/// The shift comes so long after the trigger is pulled, which is when a third of the window is over.
const REST: Duration = Duration::from_secs(20);
const PORT: u16 = 7010;

/// Bytes out and in, ten times a second at most.
const READS: &str = "2000:120000";
const WRITES: &str = "120000:2000";
const BOTH: &str = "120000:120000";

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "asymmetric-turned-round",
        AsymmetricTraffic,
        "a client that read from its server writes to it from now on",
        turned,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS),
    Case::fault(
        "asymmetric-writes-moved",
        AsymmetricTraffic,
        "what a client wrote to a host nearby goes to one 30 ms away from now on, by IPv6",
        moved,
    )
    .needs(NETWORK)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
    Case::twin(
        "asymmetric-twin-backup",
        AsymmetricTraffic,
        "a client that reads and writes begins to send a backup besides",
        backup,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS),
    Case::twin(
        "asymmetric-twin-varies",
        AsymmetricTraffic,
        "a client reads and writes by turns, fifteen seconds each",
        varies,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS),
];

/// Starts a server for trades, on a host or on this machine; returns its port as well, which is any if 0 is asked for.
fn serve(stage: &mut Stage, host: Option<&Host>, at: IpAddr, port: u16) -> Result<(Actor, String)> {
    let args = ["serve", &at.to_string(), &port.to_string()];
    let play = stage.python("trade.py")?.args(args);
    let actor = stage.start(match host {
        Some(host) => play.on(host)?,
        None => play,
    })?;
    let port = actor.get("port")?.to_string();
    Ok((actor, port))
}

/// A client and a server on this machine's loopback.
fn here(stage: &mut Stage, plan: [&str; 3]) -> Result<(Actor, Actor)> {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (server, port) = serve(stage, None, address, 0)?;
    let ([every, before, after], address) = (plan, address.to_string());
    let args = ["trade", &port, every, before, after, &address];
    let play = stage.python("trade.py")?.args(args);
    let client = stage.start(play)?;
    client.get("trading")?;
    Ok((client, server))
}

/// Kilobytes sent to and received from a peer, by the client's own books of a few seconds.
fn books(client: &Actor, when: &str, peer: usize) -> Result<[f64; 2]> {
    let kilobytes =
        |way: &str| -> Result<f64> { Ok(f64::from(client.get(&format!("{way}_{when}_{peer}"))?).max(1.0)) };
    Ok([kilobytes("sent")?, kilobytes("received")?])
}

/// Shifts the balance when its time has come, and proves that it is another one, or as the client's books say.
fn shift(
    stage: &Stage,
    client: Actor,
    bites: impl Fn(&dyn Fn(&str, usize) -> Result<[f64; 2]>) -> Result<()> + Send + 'static,
) -> Result<Trigger> {
    stage.cue("books")?;
    books(&client, "before", 0)?;
    let cue = stage.dir().join("shift");
    Ok(Box::new(move || {
        sleep(REST);
        fs::write(&cue, "")?;
        bites(&|when, peer| books(&client, when, peer))
    }))
}

fn turned(stage: &mut Stage) -> Result<Truth> {
    let (client, server) = here(stage, ["0", READS, WRITES])?;
    let truth = Truth::fault(AsymmetricTraffic, client.pid, Instant::now())
        .or_subject(server.pid)
        .age_unknown()
        .certainty(Certainty::Hinted)
        .says("turned round");
    let trigger = shift(stage, client, |books| {
        let ([out, back], [out_after, back_after]) = (books("before", 0)?, books("after", 0)?);
        ensure!(
            back > 10.0 * out && out_after > 10.0 * back_after,
            "it did not turn: {out} kB out and {back} in, then {out_after} and {back_after}"
        );
        Ok(())
    })?;
    Ok(Truth {
        trigger: Some(trigger),
        ..truth
    })
}

fn moved(stage: &mut Stage) -> Result<Truth> {
    let [app, near, far] = stage.network(["app", "near", "far"])?;
    let [_, away] = stage.long_wire([&app, &far], 20, 10)?;
    let (near_at, far_at) = (near.address(Family::V6), away.address(Family::V6));
    serve(stage, Some(&near), near_at, PORT)?;
    serve(stage, Some(&far), far_at, PORT)?;
    let (near_at, far_at) = (near_at.to_string(), far_at.to_string());
    // Before: writes and reads nearby, and reads far away. After: all writes go there.
    let (before, after) = (format!("{BOTH},{READS}"), format!("{READS},{BOTH}"));
    let port = PORT.to_string();
    let args = ["trade", &port, "0", &before, &after, &near_at, &far_at];
    let play = stage.python("trade.py")?.args(args).on(&app)?;
    let client = stage.start(play)?;
    client.get("trading")?;
    let truth = Truth::fault(AsymmetricTraffic, client.pid, Instant::now())
        .age_unknown()
        .certainty(Certainty::Hinted)
        .flow(away.port(Family::V6, PORT))
        .says(near_at);
    let trigger = shift(stage, client, |books| {
        let sent = |when: &str| -> Result<[f64; 2]> { Ok([books(when, 0)?[0], books(when, 1)?[0]]) };
        let ([near, far], [near_after, far_after]) = (sent("before")?, sent("after")?);
        ensure!(
            near > 10.0 * near_after && far_after > 10.0 * far,
            "they did not move: {near} kB nearby and {far} far away, then {near_after} and {far_after}"
        );
        Ok(())
    })?;
    Ok(Truth {
        trigger: Some(trigger),
        ..truth
    })
}

fn backup(stage: &mut Stage) -> Result<Truth> {
    let (client, server) = here(stage, ["0", "20000:20000", "400000:20000"])?;
    let truth = Truth::twin(AsymmetricTraffic, [client.pid, server.pid]).not_even_a_notice();
    let trigger = shift(stage, client, |books| {
        let ([out, back], [out_after, back_after]) = (books("before", 0)?, books("after", 0)?);
        ensure!(
            out < 2.0 * back && out_after > 10.0 * back_after && back_after * 2.0 > back,
            "it is no backup: {out} kB out and {back} in, then {out_after} and {back_after}"
        );
        Ok(())
    })?;
    Ok(Truth {
        trigger: Some(trigger),
        ..truth
    })
}

fn varies(stage: &mut Stage) -> Result<Truth> {
    let (client, server) = here(stage, ["15", READS, WRITES])?;
    Ok(Truth::twin(AsymmetricTraffic, [client.pid, server.pid]).not_even_a_notice())
}
