//! Compares imaging with other tools in a table: see `benches/imaging/run.sh`, which downloads the photos and runs on
//! one core.
//!
//! Every round runs every photo through every tool in turn, so that changes of the load affect all alike. The figures
//! are medians of CPU time (user and system), not of elapsed time.
#![expect(clippy::cast_precision_loss, reason = "counts of bytes and pixels, for a table")]

use darkroom::sandbox::{Sandbox, SandboxConfig, child};
use imaging::{Limits, MediaType, Recipe, Renderer, Size};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

/// The photos of the table in its order, as parts of file names.
const PHOTOS: [&str; 8] =
    ["enlarged-48mp", "exiv2-bug922a", "Kleiber", "Infinite-Sea", "seeding", "Dragonfly", "sunset", "Bridge"];

/// A drawing: large, progressive and without subsampling.
const DRAWN: &str = "Infinite-Sea";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("__decoder") => return child(),
        Some("__peak") => return peak(&arguments[2]),
        _ => {}
    }
    let option = |name: &str| arguments.iter().position(|it| it == name).and_then(|at| arguments.get(at + 1)).cloned();
    let cache = PathBuf::from(option("--cache").unwrap_or_else(|| "target/bench-imaging".to_owned()));
    let rounds = option("--rounds").and_then(|rounds| rounds.parse().ok()).unwrap_or(7);
    let photos: Vec<PathBuf> = PHOTOS.iter().filter_map(|name| find(&cache.join("photos"), name)).collect();
    if photos.is_empty() {
        eprintln!("no photos in {}: run benches/imaging/fetch.sh first", cache.display());
        return ExitCode::SUCCESS;
    }
    let times = speed(&photos, &cache, rounds);
    print_speed(&photos, &times);
    print_peaks(&photos[0], &cache);
    print_quality(&photos, &cache);
    ExitCode::SUCCESS
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let found = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains(name));
    if found.is_none() {
        eprintln!("skipped: no photo named {name}");
    }
    found
}

/// Median CPU milliseconds per photo: this crate in process, through the sandbox, sharp, and vipsthumbnail three times.
type Times = Vec<[Option<f64>; 4]>;

fn speed(photos: &[PathBuf], cache: &Path, rounds: usize) -> Times {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let config = SandboxConfig { processes: 1, ..SandboxConfig::default() };
    let sandbox = Sandbox::new(config, std::env::current_exe().expect("this program"));
    let mut renderer = Renderer::new().expect("a renderer");
    let mut sharp = Sharp::start(cache);
    let vips = Command::new("vipsthumbnail").arg("--vips-version").stdout(Stdio::null()).status().is_ok();
    let mut all: Vec<[Vec<f64>; 4]> = photos.iter().map(|_| Default::default()).collect();
    for round in 0..=rounds {
        for (photo, times) in photos.iter().zip(&mut all) {
            let bytes = fs::read(photo).expect("a photo");
            let mut took = [Some(in_process(&mut renderer, &bytes)), None, None, None];
            took[1] = Some(in_sandbox(&runtime, &sandbox, photo));
            took[2] = sharp.as_mut().map(|sharp| sharp.develop(photo, 80, None).0);
            took[3] = vips.then(|| vipsthumbnail(photo));
            // The first round warms up caches and processes.
            if round > 0 {
                times.iter_mut().zip(took).for_each(|(times, took)| times.extend(took));
            }
        }
        eprintln!("round {round} of {rounds}");
    }
    all.into_iter().map(|tools| tools.map(median)).collect()
}

fn median(mut times: Vec<f64>) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

fn in_process(renderer: &mut Renderer, bytes: &[u8]) -> f64 {
    let before = run_ms(std::process::id());
    let result = renderer.render(bytes, MediaType::Jpeg, &Recipe::default(), &Limits::default());
    result.expect("a sound photo");
    run_ms(std::process::id()) - before
}

/// CPU time of parent and child, without the start of the child, which is reused.
fn in_sandbox(runtime: &tokio::runtime::Runtime, sandbox: &Sandbox, photo: &Path) -> f64 {
    let cpu = || run_ms(std::process::id()) + sandboxed().into_iter().map(run_ms).sum::<f64>();
    let before = cpu();
    let file = File::open(photo).expect("a photo");
    runtime.block_on(sandbox.render(file, MediaType::Jpeg, &[])).expect("a sound photo");
    cpu() - before
}

/// CPU time of a process's first thread in milliseconds, to the nanosecond (`/proc/PID/stat` counts in 10 ms).
fn run_ms(process: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0) / 1e6
}

/// The decoder children of this process.
fn sandboxed() -> Vec<u32> {
    let own = std::process::id();
    let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
    let is_sandbox =
        |process: &u32| fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| line.ends_with(b"\0__decoder\0"));
    children.split_whitespace().filter_map(|process| process.parse().ok()).filter(is_sandbox).collect()
}

/// A running `peer.mjs`.
struct Sharp {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Sharp {
    fn start(cache: &Path) -> Option<Self> {
        let peers = fs::canonicalize(cache.join("peers")).ok()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/imaging/peer.mjs");
        let started = Command::new("node").arg(script).arg(peers).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut process) = started else {
            eprintln!("skipped: sharp, for node can't be started");
            return None;
        };
        let (input, output) = (process.stdin.take()?, BufReader::new(process.stdout.take()?));
        Some(Self { process, input, output })
    }

    /// CPU milliseconds, and the bytes of the three renditions from large to small.
    fn develop(&mut self, photo: &Path, quality: u8, folder: Option<&Path>) -> (f64, Vec<f64>) {
        let folder = folder.map(|folder| folder.display().to_string()).unwrap_or_default();
        writeln!(self.input, "{}\t{quality}\t{folder}", fs::canonicalize(photo).expect("a photo").display())
            .expect("sharp");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("sharp's answer");
        let mut fields = line.split_whitespace().map(|field| field.parse().expect("sharp's figures"));
        (fields.next().expect("a time"), fields.collect())
    }

    /// Stops it and returns its peak memory in MB.
    fn peak(self) -> f64 {
        let Self { mut process, input, mut output } = self;
        drop(input);
        let mut line = String::new();
        output.read_line(&mut line).expect("sharp's answer");
        process.wait().expect("sharp's end");
        line.trim().parse().unwrap_or(f64::NAN)
    }
}

fn vips_command(photo: &Path, edge: u32, out: &Path) -> Command {
    let mut command = Command::new("vipsthumbnail");
    command.env("VIPS_CONCURRENCY", "1").arg(photo).arg("--size").arg(format!("{edge}x{edge}>"));
    command.arg("-o").arg(format!("{}[Q=80,strip]", out.display()));
    command
}

/// CPU milliseconds of three calls, in steps of 10.
fn vipsthumbnail(photo: &Path) -> f64 {
    let photo = fs::canonicalize(photo).expect("a photo");
    let out = std::env::temp_dir().join(format!("darkroom-bench-{}.jpg", std::process::id()));
    let before = children_ms();
    for edge in [2048, 1024, 320] {
        vips_command(&photo, edge, &out).status().expect("vipsthumbnail");
    }
    let _ = fs::remove_file(out);
    children_ms() - before
}

/// CPU time of exited children in milliseconds.
fn children_ms() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("our own figures");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    [13, 14].iter().map(|&field: &usize| fields[field].parse::<f64>().expect("a figure") * 10.0).sum()
}

fn print_speed(photos: &[PathBuf], times: &Times) {
    println!(
        "{}",
        fs::read_to_string("/proc/loadavg").map(|load| format!("load {}\n", load.trim())).unwrap_or_default()
    );
    println!(
        "| photo | MP | ours ms | in sandbox ms | sharp ms | 3 x vipsthumbnail ms | ours of sharp | sandbox of sharp | sandbox of vipsthumbnail |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (photo, row) in photos.iter().zip(times) {
        let bytes = fs::read(photo).expect("a photo");
        let probe = imaging::probe(&bytes, MediaType::Jpeg, &Limits::default()).expect("a sound photo");
        let name = photo.file_stem().unwrap_or_default().to_string_lossy();
        print_row(&format!("{name} | {:.0}", probe.pixels as f64 / 1e6), *row);
    }
    print_row("**mean** |", mean(times));
    let taken: Times = photos.iter().zip(times).filter(|(photo, _)| !is_drawn(photo)).map(|(_, row)| *row).collect();
    print_row("mean without the computer-made one |", mean(&taken));
    let middle = |part: usize, whole: usize| {
        let ratios = times.iter().filter_map(|row| Some(row[part]? / row[whole]?)).collect();
        median(ratios).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
    };
    println!("| median of the ratios | | | | | | {} | {} | {} |", middle(0, 2), middle(1, 2), middle(1, 3));
}

fn is_drawn(photo: &Path) -> bool {
    photo.to_string_lossy().contains(DRAWN)
}

fn mean(times: &Times) -> [Option<f64>; 4] {
    [0, 1, 2, 3].map(|tool: usize| {
        let known: Option<Vec<f64>> = times.iter().map(|row| row[tool]).collect();
        known.map(|known| known.iter().sum::<f64>() / known.len() as f64)
    })
}

fn print_row(head: &str, row: [Option<f64>; 4]) {
    let ms = |it: Option<f64>| it.map_or("-".to_owned(), |it| format!("{it:.0}"));
    let ratio = |part: Option<f64>, whole: Option<f64>| {
        part.zip(whole).map_or("-".to_owned(), |(part, whole)| format!("{:.2}", part / whole))
    };
    let [ours, sandbox, sharp, vips] = row;
    let times = [ms(ours), ms(sandbox), ms(sharp), ms(vips)].join(" | ");
    println!("| {head} | {times} | {} | {} | {} |", ratio(ours, sharp), ratio(sandbox, sharp), ratio(sandbox, vips));
}

/// The peak memory of a new process that renders one photo from a mapped file.
fn peak(photo: &str) -> ExitCode {
    let bytes = fs::read(photo).expect("a photo");
    let file_mb = bytes.len() as f64 / 1e6;
    let rendered = imaging::render(&bytes, MediaType::Jpeg, &Recipe::default(), &Limits::default());
    rendered.expect("a sound photo");
    println!("{} {file_mb}", high_water_mb(std::process::id()));
    ExitCode::SUCCESS
}

fn high_water_mb(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1e3
}

fn print_peaks(photo: &Path, cache: &Path) {
    let mut own = Command::new(std::env::current_exe().expect("this program"));
    // As in the sandbox's children: huge pages would increase the peak.
    let own = own.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1").arg("__peak").arg(photo).output().expect("a run");
    let text = String::from_utf8_lossy(&own.stdout);
    let mut figures = text.split_whitespace().map(|field| field.parse::<f64>().unwrap_or(f64::NAN));
    let (ours, file) = (figures.next().unwrap_or(f64::NAN), figures.next().unwrap_or(f64::NAN));
    let sharp = Sharp::start(cache).map(|mut sharp| {
        sharp.develop(photo, 80, None);
        sharp.peak()
    });
    let out = std::env::temp_dir().join("darkroom-bench-peak.jpg");
    let vips = vips_command(&fs::canonicalize(photo).expect("a photo"), 2048, &out).spawn().ok().map(|mut process| {
        let mut peak = 0.0_f64;
        while process.try_wait().is_ok_and(|ended| ended.is_none()) {
            peak = peak.max(high_water_mb(process.id()));
            std::thread::sleep(Duration::from_millis(1));
        }
        peak
    });
    let mb = |it: Option<f64>| it.map_or("-".to_owned(), |it| format!("{it:.0}"));
    println!(
        "\nPeak memory of a process that develops {} (MB):",
        photo.file_stem().unwrap_or_default().to_string_lossy()
    );
    println!("ours {ours:.0} (of it the file itself {file:.0}), sharp {}, vipsthumbnail {}", mb(sharp), mb(vips));
}

/// Scores every rendition against an exact reduction of the whole image, and sharp's rendition of the same size in
/// bytes.
fn print_quality(photos: &[PathBuf], cache: &Path) {
    let folder = cache.join("quality");
    fs::create_dir_all(&folder).expect("a folder");
    let Some(mut sharp) = Sharp::start(cache) else { return };
    println!("\n| rendition | ours kB | ours SSIMULACRA2 | sharp at equal kB | sharp at q80 kB | sharp at q80 |");
    println!("|---|---|---|---|---|---|");
    for (index, edge) in [(0, 2048), (1, 1024), (2, 320)] {
        let name = ["large", "small", "thumb"][index];
        let rows: Vec<[f64; 5]> =
            photos.iter().filter_map(|photo| quality(photo, index, edge, &folder, &mut sharp)).collect();
        let mean = |column: usize| rows.iter().map(|row| row[column]).sum::<f64>() / rows.len() as f64;
        let [kb, own, equal, q80_kb, q80] = [mean(0), mean(1), mean(2), mean(3), mean(4)];
        println!("| {name} | {kb:.0} | {own:.2} | {equal:.2} | {q80_kb:.0} | {q80:.2} |");
    }
}

fn quality(photo: &Path, index: usize, edge: u32, folder: &Path, sharp: &mut Sharp) -> Option<[f64; 5]> {
    let folder = fs::canonicalize(folder).ok()?;
    let recipe = Recipe {
        sizes: [("large", 2048), ("small", 1024), ("thumb", 320)]
            .map(|(name, long_edge)| Size { name: name.to_owned(), long_edge })
            .to_vec(),
        ..Recipe::default()
    };
    let rendered = imaging::render(&fs::read(photo).ok()?, MediaType::Jpeg, &recipe, &Limits::default()).ok()?;
    let ours = rendered.renditions.get(index)?;
    fs::write(folder.join("ours.jpg"), &ours.bytes).ok()?;
    let name = ["large", "small", "thumb"][index];
    let reference = reference(photo, (ours.width, ours.height), edge, &folder)?;
    let own = score(&reference, &folder.join("ours.jpg"))?;
    let mut at = |quality: u8| {
        let (_, bytes) = sharp.develop(photo, quality, Some(&folder));
        Some((bytes[index], score(&reference, &folder.join(format!("{name}.jpg")))?))
    };
    let q80 = at(80)?;
    // Finds the two qualities whose sizes enclose this one, and interpolates the score.
    let wanted = ours.bytes.len() as f64;
    let (mut quality, mut below) = (80_u8, q80);
    let step: i8 = if q80.0 < wanted { 1 } else { -1 };
    let equal = loop {
        quality = quality.saturating_add_signed(step);
        let next = at(quality)?;
        if (next.0 < wanted) != (below.0 < wanted) || quality <= 50 || quality >= 95 {
            break below.1 + (next.1 - below.1) * (wanted - below.0) / (next.0 - below.0);
        }
        below = next;
    };
    Some([wanted / 1e3, own, equal, q80.0 / 1e3, q80.1])
}

/// The whole image decoded and reduced by libvips without shrink-on-load, as PNG.
fn reference(photo: &Path, size: (u32, u32), edge: u32, folder: &Path) -> Option<PathBuf> {
    let out = folder.join(format!("{}-{edge}.png", photo.file_stem()?.to_string_lossy()));
    if !out.exists() {
        let bytes = fs::read(photo).ok()?;
        let probe = imaging::probe(&bytes, MediaType::Jpeg, &Limits::default()).ok()?;
        let scale = |target: u32, full: u32| (f64::from(target) / f64::from(full)).to_string();
        let vips = Command::new("vips")
            .args(["resize".as_ref(), photo.as_os_str(), out.as_os_str()])
            .arg(scale(size.0, probe.width))
            .args(["--vscale", &scale(size.1, probe.height), "--kernel", "lanczos3", "--gap", "0"])
            .status();
        vips.ok()?;
    }
    Some(out)
}

/// SSIMULACRA2: 100 is identical, 90 is visually lossless, 70 is high quality.
fn score(reference: &Path, jpeg: &Path) -> Option<f64> {
    let png = jpeg.with_extension("png");
    Command::new("vips").args(["copy".as_ref(), jpeg.as_os_str(), png.as_os_str()]).status().ok()?;
    let [one, other] = [load(reference)?, load(&png)?];
    fast_ssim2::compute_ssimulacra2(&one.view()?, &other.view()?).ok()
}

/// An RGB image.
struct Rgb {
    data: Vec<u8>,
    width: u32,
    height: u32,
}

impl Rgb {
    fn view(&self) -> Option<fast_ssim2::PixelSlice<'_>> {
        let row = self.width as usize * 3;
        fast_ssim2::PixelSlice::new(&self.data, self.width, self.height, row, fast_ssim2::PixelDescriptor::RGB8_SRGB)
            .ok()
    }
}

fn load(path: &Path) -> Option<Rgb> {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path).ok()?)).read_info().ok()?;
    let mut data = vec![0; reader.output_buffer_size()?];
    let info = reader.next_frame(&mut data).ok()?;
    (info.color_type == png::ColorType::Rgb).then_some(Rgb { data, width: info.width, height: info.height })
}
