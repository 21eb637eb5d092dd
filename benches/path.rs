//! The whole path at low load: a real server process, one gateway, one frame at a time; how long until it is
//! acknowledged, beside the disk's own `fdatasync` measured in the same run, in turns, in the same directory.
//!
//! `cargo bench --bench path -- [FRAMES]`. Not a criterion benchmark: percentiles of latencies are what it is about.

#![allow(clippy::print_stdout, reason = "a report is what this program is for")]

use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ingest::client::{Client, ClientConfig, Identity};
use storage_format::{ChannelCode, FrameBuilder, LoggerId, Millis};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The server, ended when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program that is measured; `ICECORE` names another build of it.
fn program() -> std::ffi::OsString {
    std::env::var_os("ICECORE").unwrap_or_else(|| env!("CARGO_BIN_EXE_icecore").into())
}

fn icecore(args: &[&str]) -> Result<(), Error> {
    let status = Command::new(program()).args(args).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("icecore {args:?} ended with {status}").into()) }
}

fn serve(data: &str) -> Result<(Server, String), Error> {
    let udp = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let tcp = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let child = Command::new(program())
        .args(["serve", "--data-dir", data, "--ingest-addr", &udp, "--http-addr", &tcp])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let server = Server(child);
    let begun = Instant::now();
    while TcpStream::connect(&tcp).is_err() {
        if begun.elapsed() > Duration::from_secs(30) {
            return Err("the server did not come up".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((server, udp))
}

/// A file of real zeros, and the next 4 KiB of it to write.
struct Disk {
    file: File,
    offset: u64,
}

impl Disk {
    const BYTES: u64 = 64 << 20;

    fn new(dir: &Path) -> Result<Self, Error> {
        let file = File::create(dir.join("disk"))?;
        for at in (0..Self::BYTES).step_by(1 << 20) {
            file.write_all_at(&vec![0; 1 << 20], at)?;
        }
        file.sync_all()?;
        Ok(Self { file, offset: 0 })
    }

    fn sync(&mut self) -> Result<Duration, Error> {
        let begun = Instant::now();
        self.file.write_all_at(&[0xA5; 4096], self.offset)?;
        self.file.sync_data()?;
        self.offset = (self.offset + 4096) % Self::BYTES;
        Ok(begun.elapsed())
    }
}

async fn run(frames: u64) -> Result<(), Error> {
    let work = tempfile::Builder::new().prefix("icecore-bench-").tempdir()?;
    let data = work.path().join("data").to_string_lossy().into_owned();
    let identity = work.path().join("identity");
    icecore(&["init", "--data-dir", &data])?;
    icecore(&["org", "create", "bench", "--data-dir", &data])?;
    let out = identity.to_string_lossy().into_owned();
    icecore(&["gateway", "enroll", "bench", "--org", "bench", "--data-dir", &data, "--out", &out])?;
    let (_server, addr) = serve(&data)?;

    let mut disk = Disk::new(work.path())?;
    let mut client = Client::connect(ClientConfig::new(addr, Identity::load(&identity)?)).await?;
    let mut progress = client.progress();
    let mut builder = FrameBuilder::new();
    let temperature = ChannelCode::new(1).ok_or("no channel")?;
    let mut acks: Histogram<u64> = Histogram::new(3)?;
    let mut syncs: Histogram<u64> = Histogram::new(3)?;
    for n in 0..frames + 50 {
        for logger in 1..=20 {
            let time = Millis::new(1_700_000_000_000 + i64::try_from(n)? * 1000)?;
            builder.push(LoggerId::new(logger)?, time, &[(temperature, 4.81)])?;
        }
        let sync = disk.sync()?;
        let begun = Instant::now();
        client.send(&mut builder).await?;
        progress.wait_for(|progress| progress.acknowledged_frames > n).await?;
        // The first few pay for the organisation's manifest, the WAL file and cold caches.
        if n >= 50 {
            acks.record(u64::try_from(begun.elapsed().as_nanos())?)?;
            syncs.record(u64::try_from(sync.as_nanos())?)?;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.finish().await.map_err(|failure| failure.to_string())?;

    let ms = |histogram: &Histogram<u64>, q: f64| histogram.value_at_quantile(q) as f64 / 1e6;
    println!("{frames} frames of 20 readings, one at a time, client and server on this machine");
    println!("                         p50 ms   p99 ms  p99.9 ms");
    for (name, histogram) in [("acknowledgement", &acks), ("fdatasync of 4 KiB", &syncs)] {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| ms(histogram, q));
        println!("{name:<20} {p50:>10.3} {p99:>8.3} {p999:>9.3}");
    }
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| ms(&acks, q) / ms(&syncs, q));
    println!("{:<20} {p50:>10.2} {p99:>8.2} {p999:>9.2}", "ratio");
    Ok(())
}

fn main() -> Result<(), Error> {
    // Cargo passes `--bench`; the only argument of ours is a number.
    let frames = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(2_000);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(frames))
}
