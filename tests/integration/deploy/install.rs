//! Packages and units: the units are restricted, the packages install, upgrade and remove, and the service works under
//! a real systemd with all restrictions.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};

use crate::harness::{
    Client, TestServer, eventually, fixture,
    isolated_root::{self, IsolatedMachine},
    process::free_address,
};

/// The units, which the package installs unchanged.
const SERVICES: [&str; 3] = ["darkroom.service", "darkroom-worker.service", "darkroom-migrate.service"];
/// The maximum exposure in tenths, on a scale to 10.0.
const MOST_EXPOSURE: &str = "10";

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a program; returns whether it succeeded, and its output.
fn said(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

/// `systemd-analyze verify` wants the programs and pages that a unit names to be there, so they are put where it looks.
#[test]
fn systemd_verifies_units() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("units");
    let copied = Command::new("cp").arg("-r").arg(project("systemd")).arg(&folder).status().unwrap();
    assert!(copied.success());
    for name in SERVICES {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("/usr/bin/darkroom", env!("CARGO_BIN_EXE_darkroom")).replace("man:darkroom(1) ", "");
        fs::write(&path, text).unwrap();
    }
    let drain = folder.join("drain-darkroom.service");
    let text = fs::read_to_string(&drain).unwrap();
    fs::write(&drain, text.replace("/usr/lib/darkroom/drain", &project("deploy/package/drain").display().to_string()))
        .unwrap();
    let socket = folder.join("darkroom.socket");
    fs::write(&socket, fs::read_to_string(&socket).unwrap().replace("man:darkroom(1) ", "")).unwrap();
    let verify = |name: &str| said(Command::new("systemd-analyze").arg("verify").arg(folder.join(name)));
    for name in SERVICES.iter().chain(&["darkroom.socket", "drain-darkroom.service"]) {
        // It ends well whatever it finds.
        assert_eq!(verify(name), (true, String::new()), "{name}");
    }
    // It does look.
    let confined = folder.join("darkroom-.service.d/10-confine.conf");
    fs::write(&confined, fs::read_to_string(&confined).unwrap() + "ProtectEverything=yes\n").unwrap();
    for name in SERVICES {
        assert!(verify(name).1.contains("ProtectEverything"), "{name} is not confined");
    }
}

#[test]
fn units_have_low_exposure() {
    for name in SERVICES {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--no-pager", "--offline=true", "--threshold", MOST_EXPOSURE]);
        let (good, table) = said(command.arg(project("systemd").join(name)));
        let open: Vec<&str> = table.lines().filter(|line| line.starts_with('✗') || line.contains("exposure")).collect();
        println!("{name}\n{}", open.join("\n"));
        assert!(good && table.contains("exposure"), "{table}");
    }
}

/// Both packages of the program under test, in two versions.
fn packages() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for version in ["1.0.0", "1.1.0"] {
        let mut command = Command::new(project("deploy/package/make-packages"));
        command.args(["--binary", env!("CARGO_BIN_EXE_darkroom"), "--version", version, "--out"]).arg(folder.path());
        let (good, words) = said(&mut command);
        assert!(good, "{words}");
    }
    folder
}

/// The files of each package besides the units.
const CONTENTS: &str = "
    /usr/bin/darkroom /usr/lib/darkroom/drain /usr/lib/systemd/system/drain-darkroom.service
    /usr/share/darkroom/rds-global-bundle.pem /usr/share/darkroom/users.sql
    /usr/share/darkroom/cloudwatch/agent.json /usr/lib/sysusers.d/darkroom.conf /usr/lib/tmpfiles.d/darkroom.conf
    /usr/lib/systemd/system/darkroom.service.d/10-confine.conf /usr/lib/systemd/system/darkroom.socket
    /usr/share/man/man1/darkroom.1.gz /usr/share/man/man1/darkroom-migrate.1.gz
    /usr/share/bash-completion/completions/darkroom /usr/share/fish/vendor_completions.d/darkroom.fish
    /usr/share/doc/darkroom/copyright /usr/share/doc/darkroom/licences.txt.gz /usr/share/doc/darkroom/install.md";

/// Installs, tries, changes the configuration, updates, removes; `$install`, `$update`, `$remove` and `$zsh` are told.
const LIFE: &str = r#"
    $install >/dev/null
    for file in $contents $zsh; do test -s $file; done
    for unit in darkroom.service darkroom-worker.service darkroom-migrate.service darkroom.socket drain-darkroom.service; do
      systemd-analyze verify /usr/lib/systemd/system/$unit >/tmp/verify 2>&1
      if grep -v "Command 'man" /tmp/verify; then exit 1; fi
    done
    darkroom --version
    grep -q 'BEGIN CERTIFICATE' /usr/share/darkroom/rds-global-bundle.pem
    gzip -dc /usr/share/man/man1/darkroom.1.gz | grep -q migrate
    bash -c '. /usr/share/bash-completion/completions/darkroom; complete -p darkroom'
    test "$(stat -c %a:%U:%G /etc/darkroom/darkroom.toml)" = 640:root:darkroom
    test "$(stat -c %a:%U /etc/darkroom/credentials)" = 700:root
    # As it comes it says what is missing; with a secret and a database that is not there it gets further.
    rc=0; darkroom --config /etc/darkroom/darkroom.toml check 2>/tmp/said || rc=$?
    test $rc = 64
    grep -q storage.signing_keys /tmp/said
    echo 00112233445566778899aabbccddeeff >/etc/darkroom/credentials/storage.signing_keys
    rc=0; CREDENTIALS_DIRECTORY=/etc/darkroom/credentials darkroom --config /etc/darkroom/darkroom.toml check >/tmp/said 2>&1 || rc=$?
    test $rc = 1
    grep -q "^database.tcp *FAILED" /tmp/said
    echo '# mine' >>/etc/darkroom/darkroom.toml
    mkdir -p /var/lib/darkroom && touch /var/lib/darkroom/photo
    before=$(sha256sum /etc/darkroom/darkroom.toml)
    $update >/dev/null
    test "$before" = "$(sha256sum /etc/darkroom/darkroom.toml)"
    test -s /etc/darkroom/credentials/storage.signing_keys
    $remove >/dev/null
    for file in $contents $zsh; do test ! -e $file; done
    test -e /var/lib/darkroom/photo"#;

#[test]
fn packages_install_upgrade_and_remove() {
    let folder = packages();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let architecture = said(Command::new("dpkg").arg("--print-architecture")).1.trim().to_owned();
    let debs = ["1.0.0", "1.1.0"].map(|version| at(&format!("darkroom_{version}_{architecture}.deb")));
    let rpms = ["1.0.0", "1.1.0"].map(|version| at(&format!("darkroom-{version}-1.{}.rpm", std::env::consts::ARCH)));
    let contents = CONTENTS.split_whitespace().collect::<Vec<_>>().join(" ");
    let dpkg = format!(
        "contents='{contents}' zsh=/usr/share/zsh/vendor-completions/_darkroom install='dpkg -i {}' update='dpkg -i {}' \
         remove='dpkg -r darkroom'\n{LIFE}\n\
         test -s /etc/darkroom/darkroom.toml\ndpkg -P darkroom\ntest ! -e /etc/darkroom\ntest -e /var/lib/darkroom/photo",
        debs[0], debs[1]
    );
    // Debian's own packages aren't in rpm's database.
    let rpm = format!(
        "contents='{contents}' zsh=/usr/share/zsh/site-functions/_darkroom install='rpm -i --nodeps {}' \
         update='rpm -U --nodeps {}' remove='rpm -e darkroom'\n{LIFE}\n\
         grep '# mine' /etc/darkroom/darkroom.toml.rpmsave",
        rpms[0], rpms[1]
    );
    for script in [dpkg, rpm] {
        let Some(_) = isolated_root::run(folder.path(), &script) else { return };
    }
    // The requirements must exist on Amazon Linux 2023, whose glibc is 2.34.
    let needs = said(Command::new("rpm").args(["-qp", "--requires", &rpms[0]])).1;
    assert!(needs.contains("GLIBC_2.34") && !needs.contains("GLIBC_2.35"), "{needs}");
}

/// A forwarding socket to the database server, in a folder that the service may access.
fn share_socket(server: &TestServer, folder: &Path) {
    let path = folder.join("mysqld.sock");
    let (target, listener) = (server.database.socket.clone(), UnixListener::bind(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    tokio::spawn(async move {
        while let Ok((mut ours, _)) = listener.accept().await {
            let target = target.clone();
            tokio::spawn(async move {
                let mut theirs = UnixStream::connect(target).await?;
                tokio::io::copy_bidirectional(&mut ours, &mut theirs).await
            });
        }
    });
}

/// And rejects an invalid one.
async fn a_reload_takes_over_what_is_good(machine: &IsolatedMachine, folder: &Path, operations: &str) {
    let level = async || reqwest::get(format!("http://{operations}/log-level")).await.unwrap().text().await.unwrap();
    let refused = || fs::read_to_string(folder.join("service.log")).unwrap().contains("the old one stays");
    let original = folder.join("darkroom.toml");
    for (line, expected) in [("log.level = \"debug\"", "debug"), ("log.level = \"loud\"", "debug"), ("", "info")] {
        let script = format!(
            "{{ echo '{line}'; cat {}; }} >/etc/darkroom/darkroom.toml && systemctl reload darkroom",
            original.display()
        );
        let (good, words) = machine.run(&["sh", "-c", &script]);
        assert!(good, "{words}");
        if line.contains("loud") {
            eventually("refused", async || refused().then_some(())).await;
        }
        eventually(line, async || level().await.contains(expected).then_some(())).await;
    }
}

/// Sends requests over new connections until one fails.
fn keeps_asking(url: String) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        for answers in 0.. {
            let answer = reqwest::get(&url).await.map(|answer| answer.status().as_u16());
            assert_eq!(answer.map_err(|error| format!("{error:?}")), Ok(200), "after {answers} answers");
        }
    })
}

/// Installs the package in an isolated root, where systemd starts the service with all restrictions. Processes a photo;
/// an upgrade restarts the service, and a removal stops it.
#[tokio::test(flavor = "multi_thread")]
async fn processes_photo_in_systemd_sandbox() {
    let folder = packages();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if isolated_root::run(folder.path(), "true").is_none() {
        return;
    }
    let server = TestServer::start_with("worker.enabled = false").await;
    share_socket(&server, folder.path());
    let [listen, operations, worker] = [(); 3].map(|()| free_address());
    let jwks = folder.path().join("jwks.json");
    fs::copy(server.identity.jwks_path(), &jwks).unwrap();
    let here = folder.path().display();
    let config = format!(
        r#"http = {{ public_url = "http://{listen}", shutdown_delay = "0s" }}
           operations.listen = "{operations}"
           identity = {{ issuer = "{}", audience = "{}", jwks = "/etc/darkroom/jwks.json" }}
           database = {{ user = "root", name = "{}", socket = "/run/mysqld/mysqld.sock" }}
           storage.directory = "/var/lib/darkroom""#,
        darkroom::dev::identity::ISSUER,
        darkroom::dev::identity::AUDIENCE,
        server.database.name,
    );
    fs::write(folder.path().join("darkroom.toml"), config).unwrap();
    fs::write(folder.path().join("secret"), server.identity.signing_secret()).unwrap();
    let script = format!(
        "dpkg -i {here}/darkroom_1.0.0_*.deb
         install -m 644 {here}/jwks.json /etc/darkroom/jwks.json
         cat {here}/darkroom.toml >/etc/darkroom/darkroom.toml
         install -m 600 {here}/secret /etc/darkroom/credentials/storage.signing_keys
         for unit in darkroom darkroom-worker darkroom-migrate; do
           mkdir -p /etc/systemd/system/$unit.service.d
           printf '[Service]\\n%s\\n' BindReadOnlyPaths={here}:/run/mysqld StandardOutput=append:{here}/service.log \\
             StandardError=inherit >/etc/systemd/system/$unit.service.d/test.conf
         done
         echo Environment=DARKROOM_OPERATIONS_LISTEN={worker} >>/etc/systemd/system/darkroom-worker.service.d/test.conf
         mkdir -p /etc/systemd/system/darkroom.socket.d
         printf '[Socket]\\nListenStream=\\nListenStream={listen}\\n' >/etc/systemd/system/darkroom.socket.d/test.conf
         printf '[Unit]\\nWants=darkroom.socket darkroom.service\\nAllowIsolate=yes\\n' >/etc/systemd/system/default.target"
    );
    let machine = IsolatedMachine::boot(folder.path(), &script);
    let log =
        || ["boot.log", "service.log"].map(|name| fs::read_to_string(folder.path().join(name)).unwrap_or_default());
    let live = async || {
        let answer = reqwest::get(format!("http://{operations}/health/live")).await.ok()?;
        answer.status().is_success().then_some(())
    };
    let begun = std::time::Instant::now();
    while live().await.is_none() {
        assert!(begun.elapsed() < crate::harness::DEADLINE, "{}", log().concat());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let token = server.identity.token("alice").unwrap();
    let host = Client::new(&format!("http://{listen}"), Some(token));
    let album = host.album("Confined").await;
    for name in ["camera.jpg", "photo.webp", "sixteen-bit.png", "animated.gif"] {
        let kind = match name.rsplit_once('.').unwrap().1 {
            "jpg" => "jpeg",
            other => other,
        };
        let photo = host.upload(&album, &format!("image/{kind}"), &fixture(name)).await;
        let photo = host.settled(&photo).await;
        assert_eq!(photo["state"], "ready", "{name}: {photo}\n{}", log().concat());
    }

    let main = machine.property("darkroom.service", "MainPID");
    // Process ids differ inside, so the status file is read inside.
    let (_, status) = machine.run(&["cat", &format!("/proc/{main}/status")]);
    let field = |name: &str| {
        let told = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
        told.unwrap_or_else(|| panic!("{name}: {status}")).split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!((field("Seccomp").as_str(), field("NoNewPrivs").as_str()), ("2", "1"), "{status}");
    assert_eq!((field("CapBnd"), field("CapEff")), ("0".repeat(16), "0".repeat(16)), "{status}");
    assert_ne!(field("Uid"), "0");
    let (_, root) = machine.run(&["ls", &format!("/proc/{main}/root"), &format!("/proc/{main}/root/var/lib")]);
    assert!(root.contains("darkroom") && !root.contains("dpkg") && !root.contains("work"), "{root}");

    for (unit, result) in [("darkroom-migrate.service", "inactive"), ("darkroom-worker.service", "active")] {
        let (good, words) = machine.run(&["systemctl", "start", unit]);
        assert!(good && machine.property(unit, "ActiveState") == result, "{unit}: {words}{}", log().concat());
    }
    eventually("a worker", async || reqwest::get(format!("http://{worker}/health/live")).await.ok()).await;

    a_reload_takes_over_what_is_good(&machine, folder.path(), &operations).await;
    assert_eq!(machine.property("darkroom.service", "MainPID"), main, "a reload is no restart");
    assert_eq!(machine.property("darkroom.service", "StatusText"), "serving");

    // systemd owns the socket: during a restart connections wait and none is refused.
    let asking = keeps_asking(format!("http://{listen}/health/live"));
    let newer = fs::read_dir(folder.path()).unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let newer = newer.filter(|name| name.starts_with("darkroom_1.1.0")).collect::<String>();
    let (good, words) = machine.run(&["dpkg", "-i", &folder.path().join(newer).display().to_string()]);
    assert!(good, "{words}");
    eventually("serving again", live).await;
    assert_ne!(machine.property("darkroom.service", "MainPID"), main);
    assert!(!asking.is_finished(), "{:?}", asking.await);
    asking.abort();
    assert_eq!(host.get(&format!("/v1/albums/{album}")).await.expect(200)["photo_count"], 4);
    let (good, words) = machine.run(&["dpkg", "-r", "darkroom"]);
    assert!(good && live().await.is_none(), "{words}");
    let (_, left) = machine.run(&["stat", "-c", "%a %U", "/var/lib/darkroom"]);
    assert_eq!(left.trim(), "700 darkroom");
}
