//! The bulk loader: albums of 10^3 to 10^6 photos that differ only in size, and hosts of 10^3 to 10^5 albums. The
//! server generates the rows from a table of numbers, which takes about a minute for 10^6 photos.

use darkroom::{
    db::{Db, migrations},
    domain::InviteToken,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, MySqlConnection};
use uuid::Uuid;

use super::bench_server::{BenchServer, DATABASE};

/// Numbers of photos of the albums.
pub const PHOTOS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Numbers of albums of the hosts.
pub const ALBUMS: [u64; 3] = [1_000, 10_000, 100_000];
/// The host of the albums of [`PHOTOS`].
pub const HOST: &str = "host";

/// Incremented with the generated rows, so that older folders are filled again.
const EDITION: &str = "4";
/// Rows per statement.
const BATCH: u64 = 10_000;
/// 2026-01-01 in milliseconds. One photo per second.
const BEGIN: u64 = 1_767_225_600_000;
/// Invites of an album; number 0 stands for the host.
const INVITES: u64 = 20;

/// The guests of the bench.
#[derive(Clone, Copy)]
pub enum Guest {
    /// Has added a twentieth of the photos and sees all.
    Contribute = 1,
    /// Has added a twentieth of the photos and sees no others.
    Drop = 2,
    /// Has added none and sees all.
    View = 20,
}

/// The album with this number of photos.
pub fn album(photos: u64) -> Uuid {
    id(0, photos)
}

/// An album with this number of events, none of which is public.
pub fn backstage(events: u64) -> Uuid {
    id(1, events)
}

/// The host with this number of albums.
pub fn host_of(albums: u64) -> String {
    format!("host-of-{albums}")
}

/// An invite's token.
pub fn token(photos: u64, guest: Guest) -> String {
    token_of(photos, guest as u64)
}

/// The invite's id.
pub fn invite(photos: u64, guest: Guest) -> Uuid {
    invite_of(photos, guest as u64)
}

fn token_of(photos: u64, invite: u64) -> String {
    format!("{}bench-{photos}-{invite}", InviteToken::PREFIX)
}

fn invite_of(photos: u64, invite: u64) -> Uuid {
    id(100 + invite, photos)
}

/// A reproducible `UUIDv7`.
fn id(kind: u64, number: u64) -> Uuid {
    Uuid::from_u64_pair(BEGIN << 16 | 7 << 12 | kind, 1 << 63 | number)
}

/// A power of ten as text.
pub fn power(number: u64) -> String {
    format!("10^{}", number.ilog10())
}

/// Fills the database unless an earlier run did.
pub async fn fill(bench: &BenchServer, db: &Db) -> anyhow::Result<()> {
    let mut root = bench.root().await?;
    let edition: Result<String, _> = sqlx::query_scalar("SELECT edition FROM bench.seeded").fetch_one(&mut root).await;
    if edition.is_ok_and(|edition| edition == EDITION) && migrations::run(db).await.is_ok() {
        return Ok(());
    }
    eprintln!("filling the database, once");
    bench.create_anew().await?;
    migrations::run(db).await?;
    // Only while filling; if the server is killed meanwhile, the folder is filled again.
    run(&mut root, "SET GLOBAL innodb_flush_log_at_trx_commit = 0").await?;
    run(&mut root, "SET GLOBAL innodb_buffer_pool_size = 1073741824").await?;
    let mut connection = bench.server.options().database(DATABASE).connect().await?;
    numbers(&mut connection).await?;
    for photos in PHOTOS {
        eprintln!("an album of {photos} photos");
        fill_album(&mut connection, photos).await?;
    }
    for albums in ALBUMS {
        eprintln!("a host of {albums} albums");
        fill_host(&mut connection, albums).await?;
    }
    run(&mut connection, "ANALYZE TABLE albums, photos, events, invites").await?;
    run(&mut connection, "CREATE TABLE seeded (edition VARCHAR(8) NOT NULL)").await?;
    run(&mut connection, &format!("INSERT INTO seeded VALUES ('{EDITION}')")).await?;
    run(&mut root, "SET GLOBAL innodb_flush_log_at_trx_commit = 1").await?;
    run(&mut root, "SET GLOBAL innodb_buffer_pool_size = 134217728").await?;
    connection.close().await?;
    Ok(root.close().await?)
}

async fn run(connection: &mut MySqlConnection, statement: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.map(|_| ())
}

async fn numbers(connection: &mut MySqlConnection) -> sqlx::Result<()> {
    run(connection, "CREATE TABLE numbers (n BIGINT NOT NULL PRIMARY KEY)").await?;
    let values: Vec<String> = (0..BATCH).map(|n| format!("({n})")).collect();
    run(connection, &format!("INSERT INTO numbers VALUES {}", values.join(","))).await
}

/// Runs a statement for 0 to `count` in batches; `{n}` is the number.
async fn each(connection: &mut MySqlConnection, insert: &str, select: &str, count: u64) -> sqlx::Result<()> {
    for from in (0..count).step_by(usize::try_from(BATCH).expect("a small number")) {
        let batch = BATCH.min(count - from);
        let select = select.replace("{n}", &format!("({from} + n)"));
        run(connection, &format!("INSERT INTO {insert} SELECT {select} FROM numbers WHERE n < {batch}")).await?;
    }
    Ok(())
}

async fn fill_album(connection: &mut MySqlConnection, photos: u64) -> sqlx::Result<()> {
    for (id, title) in [(album(photos), "photos"), (backstage(photos), "backstage")] {
        let (id, at) = (id.simple(), time("0"));
        run(
            connection,
            &format!(
                "INSERT INTO albums (id, host, title, review, photo_count, last_seq, announced_seq, created_at, updated_at)
                 VALUES (X'{id}', '{HOST}', '{title} {photos}', TRUE, {photos} * 9 DIV 10, {photos}, {photos}, {at}, {at})"
            ),
        )
        .await?;
    }
    for invite in 1..=INVITES {
        fill_invite(connection, photos, album(photos), invite).await?;
    }
    fill_invite(connection, photos, backstage(photos), 2 * INVITES).await?;
    fill_photos(connection, photos).await?;
    let (album, public) = (album(photos).simple(), "IF({class} BETWEEN 10 AND 17, NULL, 'photo.ready')");
    let events = |album, public: &str| {
        let text = format!("X'{album}', {{n}} + 1, 'photo.ready', {public}, {{id}}, {}", time("{n}"));
        text.replace("{class}", &class()).replace("{id}", &photo_id(photos))
    };
    let into = "events (album_id, seq, kind, public_kind, photo_id, at)";
    each(connection, into, &events(album, public), photos).await?;
    each(connection, into, &events(backstage(photos).simple(), "NULL"), photos).await
}

async fn fill_invite(connection: &mut MySqlConnection, photos: u64, album: Uuid, invite: u64) -> sqlx::Result<()> {
    let role = match invite {
        2 => "drop",
        1..INVITES => "contribute",
        _ => "view",
    };
    let hash = InviteToken::from_client(&token_of(photos, invite)).expect("a token").hash();
    sqlx::query(
        "INSERT INTO invites (id, album_id, role, token_hash, photos_used, created_at) VALUES (?, ?, ?, ?, ?, NOW(3))",
    )
    .bind(invite_of(photos, invite))
    .bind(album)
    .bind(role)
    .bind(&hash[..])
    .bind(photos / INVITES)
    .execute(connection)
    .await
    .map(|_| ())
}

/// The view token of an album of [`backstage`].
pub fn backstage_token(events: u64) -> String {
    token_of(events, 2 * INVITES)
}

/// Nine of ten are ready and visible. The ten oldest are rare cases, as far as possible from the first page.
async fn fill_photos(connection: &mut MySqlConnection, photos: u64) -> sqlx::Result<()> {
    let invites: Vec<String> = (1..INVITES).map(|k| format!("X'{}'", invite_of(photos, k).simple())).collect();
    let renditions = r#"[{"name":"large","content_type":"image/jpeg","width":2048,"height":1536,"bytes":412345},{"name":"small","content_type":"image/jpeg","width":1024,"height":768,"bytes":123456},{"name":"thumb","content_type":"image/jpeg","width":320,"height":240,"bytes":17890}]"#;
    let state = "CASE WHEN {n} < 5 THEN 'processing' WHEN {n} < 10 THEN 'ready' WHEN {class} = 7 THEN 'rejected'
                 WHEN {class} = 8 THEN 'expired' WHEN {class} = 9 THEN 'awaiting_upload' ELSE 'ready' END";
    let visibility = "CASE WHEN {n} BETWEEN 5 AND 9 THEN 'hidden' WHEN {class} BETWEEN 10 AND 17 THEN 'pending_review' ELSE 'visible' END";
    let (album, at, digest) =
        (album(photos).simple(), time("{n}"), format!("UNHEX(SHA2(CONCAT({photos}, '-', {{n}}), 256))"));
    let select = format!(
        "{{id}}, X'{album}', ELT({{n}} % {INVITES} + 1, NULL, {}), IF({{n}} % {INVITES} = 0, NULL, CONCAT('Guest ', {{n}} % 97)),
         {state}, {visibility}, IF({{n}} % 3 = 0, CONCAT('The moment number ', {{n}}), NULL), 'image/jpeg', 3000000 + {{n}} % 1000000,
         {digest}, {digest}, 4032, 3024, {at}, 'Maker Model 15', UNHEX(LEFT(SHA2({{n}}, 256), 50)), '{renditions}', {at}, {at}",
        invites.join(", ")
    );
    let select = select.replace("{class}", &class()).replace("{id}", &photo_id(photos));
    let into = "photos (id, album_id, invite_id, uploader_name, state, visibility, caption, content_type, bytes, sha256, dedup,
                width, height, taken_at, camera, placeholder, renditions, created_at, ready_at)";
    each(connection, into, &select, photos).await
}

/// The id of a photo by its number; 0 is the oldest.
pub async fn photo(connection: &mut MySqlConnection, photos: u64, number: u64) -> sqlx::Result<Uuid> {
    let id = photo_id(photos).replace("{n}", &number.to_string());
    let id: Vec<u8> = sqlx::query_scalar(AssertSqlSafe(format!("SELECT {id}"))).fetch_one(connection).await?;
    Uuid::from_slice(&id).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A `UUIDv7` of a photo's time with pseudo-random bits.
fn photo_id(photos: u64) -> String {
    let hash = format!("SHA2(CONCAT({photos}, '+', {{n}}), 256)");
    format!("UNHEX(CONCAT(LPAD(HEX({BEGIN} + {{n}} * 1000), 12, '0'), '7', LEFT({hash}, 3), '8', RIGHT({hash}, 15)))")
}

/// 0 to 99, spread over the album independently of the invites.
fn class() -> String {
    "(CRC32({n}) % 100)".to_owned()
}

fn time(n: &str) -> String {
    format!("FROM_UNIXTIME({} + {n})", BEGIN / 1000)
}

async fn fill_host(connection: &mut MySqlConnection, albums: u64) -> sqlx::Result<()> {
    let id = photo_id(albums).replace("'+'", "'a'");
    let at = time("{n}");
    let select = format!("{id}, '{}', CONCAT('Album ', {{n}}), FALSE, {at}, {at}", host_of(albums));
    each(connection, "albums (id, host, title, review, created_at, updated_at)", &select, albums).await
}
