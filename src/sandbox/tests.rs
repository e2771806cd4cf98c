//! The children are this test binary, run for its test `fake_decoder`: a child that first does what the bytes behind
//! the photo's end say.

use super::child::serve;
use super::{Sandbox, SandboxConfig, SandboxError};
use imaging::{MediaType, OutputFormat, Recipe, Rejection, Renderer};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

fn pool(change: impl FnOnce(&mut SandboxConfig)) -> Sandbox {
    let mut config =
        SandboxConfig { processes: 2, cpu_seconds: 5, time_limit: Duration::from_secs(20), ..SandboxConfig::default() };
    change(&mut config);
    let arguments = ["sandbox::tests::fake_decoder", "--exact", "--ignored", "--nocapture", "--test-threads=1"];
    Sandbox::with_arguments(config, std::env::current_exe().expect("this program"), arguments.map(Into::into).to_vec())
}

/// A photo with an instruction behind its end, which no decoder reads.
fn photo(instruction: &str) -> File {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/orientation-6.jpg");
    let mut file = tempfile();
    file.write_all(&std::fs::read(path).expect("a fixture"))
        .and_then(|()| file.write_all(instruction.as_bytes()))
        .expect("written");
    file
}

fn tempfile() -> File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    rustix::fs::memfd_create("photo", flags).expect("a file in memory").into()
}

async fn render(pool: &Sandbox, instruction: &str) -> Result<imaging::Rendered, SandboxError> {
    pool.render(photo(instruction), MediaType::Jpeg, &[]).await
}

#[test]
#[ignore = "the child process of the other tests"]
fn fake_decoder() {
    // Without a parent, as when all ignored tests are run.
    let stdin = rustix::fs::fstat(io::stdin()).expect("standard input");
    if rustix::fs::FileType::from_raw_mode(stdin.st_mode) != rustix::fs::FileType::Socket {
        return;
    }
    let mut renderer = Renderer::new().expect("a renderer");
    let code = serve(&mut |bytes, job| {
        let end = bytes.windows(2).rposition(|pair| pair == [0xFF, 0xD9]).map_or(0, |at| at + 2);
        misbehave(&String::from_utf8_lossy(&bytes[end..]));
        let result = renderer.render(bytes, job.declared, &job.recipe, &job.limits)?;
        Ok((result, renderer.stage_times()))
    });
    std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
}

fn misbehave(instruction: &str) {
    let refused = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        other => panic!("{other:?}"),
    };
    match instruction {
        "panic" => panic!("a secret of the photo"),
        "abort" => std::process::abort(),
        "loop" => loop {
            std::hint::spin_loop();
        },
        "sleep" => loop {
            std::thread::park();
        },
        "memory" => drop(std::hint::black_box(vec![1_u8; 4 << 30])),
        "escape" => {
            refused(File::open("/etc/passwd").map(drop));
            refused(File::create("/tmp/darkroom-escape").map(drop));
            refused(std::net::TcpStream::connect("127.0.0.1:1").map(drop));
            refused(std::os::unix::net::UnixDatagram::unbound().map(drop));
            refused(std::process::Command::new("/bin/true").spawn().map(drop));
            refused(std::thread::Builder::new().spawn(|| ()).map(drop));
            refused(rustix::process::test_kill_process(rustix::process::Pid::INIT).map_err(Into::into));
        }
        _ => {}
    }
}

#[tokio::test]
async fn renders_as_in_process_and_reuses_child() {
    let pool = pool(|config| {
        config.recipe = Recipe { formats: vec![OutputFormat::Jpeg, OutputFormat::Webp], ..Recipe::default() }
    });
    let first = render(&pool, "").await.expect("rendered");
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/orientation-6.jpg"))
        .expect("a fixture");
    let direct = imaging::render(&bytes, MediaType::Jpeg, &pool.config.recipe, &pool.config.limits).expect("rendered");
    assert_eq!(first, direct);
    for _ in 0..5 {
        assert_eq!(render(&pool, "").await.expect("rendered"), direct);
    }
    let idle = pool.idle.lock().expect("the idle ones");
    assert_eq!(idle.iter().map(|(process, _)| process.photos()).collect::<Vec<_>>(), [6]);
}

#[tokio::test]
async fn rejection_keeps_the_child() {
    let pool = pool(|_| {});
    let mut text = tempfile();
    text.write_all(b"words").expect("written");
    let error = pool.render(text, MediaType::Jpeg, &[]).await.expect_err("no photo");
    assert!(matches!(error, SandboxError::Rejected(Rejection::Unknown)), "{error:?}");
    let error = pool.render(tempfile(), MediaType::Jpeg, &[]).await.expect_err("no photo");
    assert!(matches!(error, SandboxError::Rejected(Rejection::Empty)), "{error:?}");
    assert_eq!(pool.idle.lock().expect("the idle ones").len(), 1);
    let folder = File::open("/").expect("a folder");
    let error = pool.render(folder, MediaType::Jpeg, &[]).await.expect_err("a folder");
    assert!(matches!(error, SandboxError::Unavailable(_)), "{error:?}");
    render(&pool, "").await.expect("the next photo");
}

#[tokio::test]
async fn child_has_no_access() {
    render(&pool(|_| {}), "escape").await.expect("every attempt was refused, and the photo rendered");
    assert!(!Path::new("/tmp/darkroom-escape").exists());
}

#[tokio::test]
async fn panic_or_abort_costs_one_photo() {
    let pool = pool(|_| {});
    for instruction in ["panic", "abort"] {
        let error = render(&pool, instruction).await.expect_err(instruction);
        let SandboxError::Crashed(how) = &error else { panic!("{instruction}: {error:?}") };
        assert!(!how.contains("secret"), "{how}");
        assert_eq!(how.contains("decoder panicked at"), instruction == "panic", "{how}");
        render(&pool, "").await.expect("the next photo");
    }
}

#[tokio::test]
async fn kill_costs_one_photo() {
    const MARK: &str = "--skip=killed-from-outside";
    let mut pool = pool(|_| {});
    pool.arguments.push(MARK.into());
    let (outcome, ()) = tokio::join!(render(&pool, "sleep"), async {
        let child = loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if let Some(child) = children_with(MARK).first() {
                break *child;
            }
        };
        rustix::process::kill_process(child, rustix::process::Signal::KILL).expect("killed");
    });
    let error = outcome.expect_err("killed");
    assert!(matches!(&error, SandboxError::Crashed(how) if how.contains("SIGKILL")), "{error:?}");
    render(&pool, "").await.expect("the next photo");
}

/// The processes with this argument.
fn children_with(argument: &str) -> Vec<rustix::process::Pid> {
    let all = std::fs::read_dir("/proc").expect("processes").flatten();
    let ours = all.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.windows(argument.len()).any(|window| window == argument.as_bytes())
    });
    ours.filter_map(|entry| rustix::process::Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).collect()
}

#[tokio::test]
async fn limits_memory() {
    let pool = pool(|_| {});
    let error = render(&pool, "memory").await.expect_err("too much");
    assert!(matches!(error, SandboxError::OutOfMemory), "{error:?}");
    render(&pool, "").await.expect("the next photo");
}

#[tokio::test]
async fn limits_cpu_time() {
    let pool = pool(|config| config.cpu_seconds = 1);
    let error = render(&pool, "loop").await.expect_err("endless");
    assert!(matches!(error, SandboxError::TimedOut), "{error:?}");
    render(&pool, "").await.expect("the next photo");
}

#[tokio::test]
async fn limits_wall_clock_time() {
    let pool = pool(|config| config.time_limit = Duration::from_secs(6));
    let start = Instant::now();
    let error = render(&pool, "sleep").await.expect_err("endless");
    assert!(matches!(error, SandboxError::TimedOut), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(20));
    render(&pool, "").await.expect("the next photo");
}

#[tokio::test]
async fn dropping_the_future_kills_the_child() {
    let pool = pool(|config| config.processes = 1);
    let outcome = tokio::time::timeout(Duration::from_secs(1), render(&pool, "sleep")).await;
    assert!(outcome.is_err());
    // The only slot is free again.
    render(&pool, "").await.expect("the next photo");
}

#[tokio::test]
async fn replaces_used_and_dead_children() {
    let pool = pool(|config| config.recycle_after = 2);
    render(&pool, "").await.expect("rendered");
    pool.idle.lock().expect("the idle ones")[0].0.kill_for_test();
    render(&pool, "").await.expect("rendered in a fresh child");
    render(&pool, "").await.expect("rendered");
    assert!(pool.idle.lock().expect("the idle ones").is_empty(), "the second photo was its last");
}

#[tokio::test]
async fn large_photos_wait_but_do_not_starve() {
    // Only one photo of 240,000 pixels is admitted at a time.
    let pool = pool(|config| config.max_concurrent_pixels = 100_000);
    let (a, b, c) = tokio::join!(render(&pool, ""), render(&pool, ""), render(&pool, ""));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
}

#[tokio::test]
async fn reports_missing_program() {
    let pool = Sandbox::new(SandboxConfig::default(), "/nowhere/darkroom".into());
    let error = render(&pool, "").await.expect_err("no program");
    assert!(matches!(error, SandboxError::Unavailable(_)), "{error:?}");
}
