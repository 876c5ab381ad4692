//! bench/speed on the crate geiserx_tailscale: the same command line, the same habits, the same lines of figures.
//!
//!     rustpeer serve|dial --login-server URL --state DIR --hostname NAME [--to IP:PORT] [--secs N] [-n STREAMS] [-R|-L|-C]
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tailscale::{Config, Device};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const PORT: u16 = 5001;
const DIALERS: usize = 16;

#[derive(Default)]
struct Args {
    mode: String,
    server: String,
    state: String,
    hostname: String,
    to: String,
    secs: f64,
    streams: usize,
    receive: bool,
    latency: bool,
    connect: bool,
}

fn parse() -> Args {
    let mut a = Args { secs: 5.0, streams: 1, hostname: "speed".into(), ..Default::default() };
    let mut it = std::env::args().skip(1);
    a.mode = it.next().unwrap_or_default();
    while let Some(flag) = it.next() {
        let mut value = || it.next().unwrap_or_default();
        match flag.as_str() {
            "--login-server" => a.server = value(),
            "--state" => a.state = value(),
            "--hostname" => a.hostname = value(),
            "--to" => a.to = value(),
            "--secs" => a.secs = value().parse().unwrap_or(5.0),
            "-n" => a.streams = value().parse().unwrap_or(1),
            "-R" => a.receive = true,
            "-L" => a.latency = true,
            "-C" => a.connect = true,
            _ => panic!("unknown flag {flag}"),
        }
    }
    a
}

async fn up(a: &Args) -> Result<Device> {
    std::fs::create_dir_all(&a.state)?;
    let mut config = Config::default_with_key_file(format!("{}/keys.json", a.state)).await?;
    config.control_server_url = a.server.parse()?;
    config.allow_http_key_fetch = true;
    config.requested_hostname = Some(a.hostname.clone());
    Ok(Device::new(&config, std::env::var("TS_AUTHKEY").ok()).await?)
}

async fn serve(dev: Device) -> Result<()> {
    let ip = dev.ipv4_addr().await?;
    let listener = dev.tcp_listen((ip, PORT).into()).await?;
    println!("{ip}:{PORT}");
    loop {
        let mut c = listener.accept().await?;
        tokio::spawn(async move {
            let mut what = [0u8];
            let mut buf = vec![0u8; 64 << 10];
            if c.read_exact(&mut what).await.is_err() {
                return;
            }
            loop {
                let mut n = buf.len();
                if what[0] != b'R' {
                    n = match c.read(&mut buf).await {
                        Ok(n) if n > 0 => n,
                        _ => return,
                    };
                }
                if what[0] != b'S' && c.write_all(&buf[..n]).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn wait_direct(dev: &Device, to: SocketAddr) -> Result<()> {
    let mut c = dev.tcp_connect(to).await?;
    c.write_all(b"E").await?;
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        let mut b = [b'x'];
        c.write_all(&b).await?;
        c.read_exact(&mut b).await?;
        if dev.direct_path(to.ip()).await?.is_some() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("speed: no direct path");
    Ok(())
}

/// Seconds of the processor, of user and kernel (proc_pid_stat(5): in hundredths on Linux).
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let tick = |i: usize| fields.get(i).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (tick(11) + tick(12)) / 100.0
}

fn rss_mb() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

async fn dial(dev: Device, a: &Args) -> Result<()> {
    let to: SocketAddr = a.to.parse()?;
    wait_direct(&dev, to).await?;
    let dev = Arc::new(dev);
    let (bytes, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let samples = Arc::new(std::sync::Mutex::new(Vec::<u64>::new()));
    let mut n = a.streams;
    if a.latency {
        n -= 1;
        let (mut c, stop, samples) = (dev.tcp_connect(to).await?, stop.clone(), samples.clone());
        c.write_all(b"E").await?;
        tokio::spawn(async move {
            let mut b = [b'x'];
            while !stop.load(Relaxed) {
                let start = Instant::now();
                if c.write_all(&b).await.is_err() || c.read_exact(&mut b).await.is_err() {
                    return;
                }
                samples.lock().unwrap().push(start.elapsed().as_micros() as u64);
            }
        });
    }
    if a.connect {
        n = 0;
        for _ in 0..DIALERS {
            let (dev, stop, done) = (dev.clone(), stop.clone(), done.clone());
            tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let Ok(Ok(mut c)) = tokio::time::timeout(Duration::from_secs(5), dev.tcp_connect(to)).await else { continue };
                    let mut b = [0u8];
                    if c.write_all(b"Ex").await.is_ok() && c.read_exact(&mut b).await.is_ok() {
                        done.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    }
    for _ in 0..n {
        let (mut c, stop, bytes, receive) = (dev.tcp_connect(to).await?, stop.clone(), bytes.clone(), a.receive);
        c.write_all(if receive { b"R" } else { b"S" }).await?;
        tokio::spawn(async move {
            let mut buf = vec![0u8; 64 << 10];
            while !stop.load(Relaxed) {
                let k = if receive { c.read(&mut buf).await } else { c.write(&buf).await };
                match k {
                    Ok(k) if k > 0 => bytes.fetch_add(k as u64, Relaxed),
                    _ => return,
                };
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (start, used, b0, d0) = (Instant::now(), cpu(), bytes.load(Relaxed), done.load(Relaxed));
    let s0 = samples.lock().unwrap().len();
    tokio::time::sleep(Duration::from_secs_f64(a.secs)).await;
    let (took, used) = (start.elapsed().as_secs_f64(), cpu() - used);
    let (moved, conns, rss) = (bytes.load(Relaxed) - b0, done.load(Relaxed) - d0, rss_mb());
    stop.store(true, Relaxed);
    if a.latency {
        let mut got = samples.lock().unwrap()[s0..].to_vec();
        got.sort_unstable();
        if !got.is_empty() {
            println!("{} round trips p50 {} us p99 {} us", got.len(), got[got.len() / 2], got[got.len() * 99 / 100]);
        }
    }
    if a.connect {
        println!("{:.0} connections/s", conns as f64 / took);
    }
    if n > 0 {
        println!("{n} streams {:.2} Gbit/s", moved as f64 * 8.0 / took / 1e9);
    }
    println!("rss {rss:.1} MB cpu {used:.2} s in {took:.2} s");
    std::process::exit(0);
}

#[tokio::main]
async fn main() -> Result<()> {
    let a = parse();
    let dev = up(&a).await?;
    match a.mode.as_str() {
        "serve" => serve(dev).await,
        "dial" => dial(dev, &a).await,
        _ => Err("serve or dial".into()),
    }
}
