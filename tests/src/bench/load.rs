//! Servers and the load put on them: nginx by wrk, Redis by redis-benchmark, over loopback.

use std::fmt;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at a time.
const CLIENTS: &str = "16";

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// wrk against nginx, a connection for each request.
    WebConnections,
    /// wrk against nginx, connections kept alive.
    WebKeptAlive,
    /// redis-benchmark, a connection for each request.
    RedisConnections,
    /// redis-benchmark, connections kept alive.
    RedisKeptAlive,
}

impl Load {
    /// All of them.
    pub const ALL: &'static [Load] = &[
        Load::WebConnections,
        Load::WebKeptAlive,
        Load::RedisConnections,
        Load::RedisKeptAlive,
    ];
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Load::WebConnections => "wrk, nginx, a connection a request",
            Load::WebKeptAlive => "wrk, nginx, keep-alive",
            Load::RedisConnections => "redis-benchmark, a connection a request",
            Load::RedisKeptAlive => "redis-benchmark, keep-alive",
        })
    }
}

/// The running servers. They go with this value.
pub struct Servers {
    web_port: u16,
    redis_port: u16,
    children: Vec<Child>,
    directory: PathBuf,
}

impl Servers {
    /// Starts them on free ports.
    pub fn start() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("rung-load-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let mut servers = Servers {
            web_port: free_port()?,
            redis_port: free_port()?,
            children: Vec::new(),
            directory,
        };
        let config = servers.directory.join("nginx.conf");
        fs::write(&config, web_config(&servers.directory, servers.web_port))?;
        servers.spawn(
            Command::new("nginx")
                .arg("-c")
                .arg(config)
                .arg("-p")
                .arg(&servers.directory),
        )?;
        let port = servers.redis_port.to_string();
        servers.spawn(
            Command::new("redis-server")
                .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
                .args(["--appendonly", "no"])
                .current_dir(&servers.directory),
        )?;
        for port in [servers.web_port, servers.redis_port] {
            wait_for(port)?;
        }
        Ok(servers)
    }

    fn spawn(&mut self, command: &mut Command) -> Result<()> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        self.children.push(child);
        Ok(())
    }

    /// Puts a load on for about so long; returns requests a second.
    pub fn run(&self, load: Load, length: Duration) -> Result<f64> {
        match load {
            Load::WebConnections => self.web(length, &["-H", "Connection: close"]),
            Load::WebKeptAlive => self.web(length, &[]),
            Load::RedisConnections => self.redis(length, "0", 9_000.0),
            Load::RedisKeptAlive => self.redis(length, "1", 70_000.0),
        }
    }

    fn web(&self, length: Duration, more: &[&str]) -> Result<f64> {
        let output = Command::new("wrk")
            .args(["-t", "1", "-c", CLIENTS, "-d"])
            // wrk knows whole seconds only.
            .arg(format!("{}s", length.as_secs().max(1)))
            .args(more)
            .arg(format!("http://127.0.0.1:{}/", self.web_port))
            .output()
            .context("cannot run wrk")?;
        let words = String::from_utf8_lossy(&output.stdout);
        let rate = words.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
        let rate = rate.with_context(|| format!("wrk tells no rate: {words}"))?;
        Ok(rate.trim().parse()?)
    }

    /// redis-benchmark knows a number of requests only: so many as take about that long.
    fn redis(&self, length: Duration, keep_alive: &str, rate: f64) -> Result<f64> {
        let requests = (length.as_secs_f64() * rate) as u64;
        let output = Command::new("redis-benchmark")
            .args([
                "-p",
                &self.redis_port.to_string(),
                "-c",
                CLIENTS,
                "-k",
                keep_alive,
            ])
            .args(["-t", "get", "-n", &requests.to_string(), "--csv"])
            .output()
            .context("cannot run redis-benchmark")?;
        let words = String::from_utf8_lossy(&output.stdout);
        let row = words.lines().find_map(|line| line.strip_prefix("\"GET\",\""));
        let row = row.with_context(|| format!("redis-benchmark tells no rate: {words}"))?;
        Ok(row.split('"').next().unwrap_or_default().parse()?)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // nginx ends its worker on SIGTERM, and would leave it behind on SIGKILL.
            if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn web_config(directory: &Path, port: u16) -> String {
    format!(
        "daemon off;\nworker_processes 1;\npid {0}/nginx.pid;\nerror_log {0}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n access_log off;\n keepalive_requests 1000000;\n client_body_temp_path {0};\n proxy_temp_path {0};\n \
         fastcgi_temp_path {0};\n uwsgi_temp_path {0};\n scgi_temp_path {0};\n \
         server {{ listen 127.0.0.1:{port}; location / {{ return 200 'hello'; }} }}\n}}\n",
        directory.display()
    )
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn wait_for(port: u16) -> Result<()> {
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if began.elapsed() > PATIENCE {
            bail!("nobody listens on port {port}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
