//! The benchmarked requests at each size.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use darkroom::app::AppState;
use uuid::Uuid;

use super::{
    bench_server::BenchServer,
    seed::{self, Guest},
};

/// Positions in an album that are requested in turn, so that responses differ.
pub const PLACES: usize = 16;
/// The index of the host's first page in [`all`].
pub const FIRST_PAGE: usize = 2;

/// The token and paths of a case at one size.
pub struct Target {
    /// JWT or invite.
    pub token: String,
    /// Requested in turn.
    pub paths: Vec<String>,
}

/// One row of the tables.
pub struct Case {
    pub name: &'static str,
    /// In order of size.
    pub targets: Vec<Target>,
    /// The maximum of round trips, if there is one.
    pub most_statements: Option<f64>,
}

#[derive(Clone, Copy)]
enum Who {
    Host,
    Guest(Guest),
}

#[derive(Clone, Copy)]
enum Where {
    First,
    Middle,
}

/// The lists: caller, filter and position.
const LISTS: [(&str, Who, &str, Where); 19] = [
    ("GET photos, host, first page", Who::Host, "", Where::First),
    ("GET photos, host, middle", Who::Host, "", Where::Middle),
    ("GET photos, host, state=ready, middle", Who::Host, "state=ready", Where::Middle),
    ("GET photos, host, state=processing (5 oldest)", Who::Host, "state=processing", Where::First),
    ("GET photos, host, visibility=visible, middle", Who::Host, "visibility=visible", Where::Middle),
    ("GET photos, host, visibility=pending_review, first", Who::Host, "visibility=pending_review", Where::First),
    ("GET photos, host, visibility=pending_review, middle", Who::Host, "visibility=pending_review", Where::Middle),
    ("GET photos, host, visibility=hidden (5 oldest)", Who::Host, "visibility=hidden", Where::First),
    (
        "GET photos, host, ready and pending_review, middle",
        Who::Host,
        "state=ready&visibility=pending_review",
        Where::Middle,
    ),
    ("GET photos, view, first page", Who::Guest(Guest::View), "", Where::First),
    ("GET photos, view, middle", Who::Guest(Guest::View), "", Where::Middle),
    ("GET photos, contribute, first page", Who::Guest(Guest::Contribute), "", Where::First),
    ("GET photos, contribute, middle", Who::Guest(Guest::Contribute), "", Where::Middle),
    ("GET photos, contribute, state=ready, middle", Who::Guest(Guest::Contribute), "state=ready", Where::Middle),
    (
        "GET photos, contribute, state=processing (own oldest)",
        Who::Guest(Guest::Contribute),
        "state=processing",
        Where::First,
    ),
    (
        "GET photos, contribute, visibility=pending_review, middle",
        Who::Guest(Guest::Contribute),
        "visibility=pending_review",
        Where::Middle,
    ),
    ("GET photos, drop, first page", Who::Guest(Guest::Drop), "", Where::First),
    ("GET photos, drop, middle", Who::Guest(Guest::Drop), "", Where::Middle),
    ("GET photos, drop, state=processing (own oldest)", Who::Guest(Guest::Drop), "state=processing", Where::First),
];

/// All cases in the order of the tables.
pub async fn all(app: &AppState, bench: &BenchServer) -> anyhow::Result<Vec<Case>> {
    let mut cases = single(app, bench).await?;
    for (name, who, filter, place) in LISTS {
        let mut targets = Vec::new();
        for photos in seed::PHOTOS {
            let path = format!("/v1/albums/{}/photos?limit=50&{filter}", seed::album(photos));
            let cursors = match place {
                Where::First => vec![String::new()],
                Where::Middle => cursors(app, photos).await?,
            };
            let paths = cursors.iter().map(|cursor| format!("{path}{cursor}").replace("?limit=50&&", "?limit=50&"));
            let paths = paths.map(|path| path.trim_end_matches('&').to_owned()).collect();
            targets.push(Target { token: token(bench, who, photos)?, paths });
        }
        cases.push(Case { name, targets, most_statements: Some(2.0) });
    }
    cases.extend(albums(app, bench).await?);
    cases.extend(events(bench)?);
    Ok(cases)
}

fn token(bench: &BenchServer, who: Who, photos: u64) -> anyhow::Result<String> {
    match who {
        Who::Host => bench.identity.token(seed::HOST),
        Who::Guest(guest) => Ok(seed::token(photos, guest)),
    }
}

/// Positions within the middle half of an album.
async fn places(app: &AppState, photos: u64) -> anyhow::Result<Vec<Uuid>> {
    let mut connection = app.db.connect().await?;
    let mut ids = Vec::new();
    for part in 0..PLACES as u64 {
        let number = photos * (PLACES as u64 / 2 + part) / (2 * PLACES as u64);
        ids.push(seed::photo(&mut connection, photos, number).await?);
    }
    Ok(ids)
}

async fn cursors(app: &AppState, photos: u64) -> anyhow::Result<Vec<String>> {
    let list = format!("photos of {}, newest", seed::album(photos));
    Ok(places(app, photos).await?.into_iter().map(|id| cursor(app, &list, id)).collect())
}

/// The cursor after this id.
fn cursor(app: &AppState, list: &str, id: Uuid) -> String {
    let tag = app.storage.signer().tag(list, id.as_bytes());
    format!("&cursor={}", URL_SAFE_NO_PAD.encode([&id.as_bytes()[..], &tag].concat()))
}

async fn single(app: &AppState, bench: &BenchServer) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (name, who) in [("GET photo, host", Who::Host), ("GET photo, contribute", Who::Guest(Guest::Contribute))] {
        let mut targets = Vec::new();
        for photos in seed::PHOTOS {
            // The guest requests what it may see.
            let public = "SELECT id FROM photos WHERE album_id = ? AND visibility = 'visible' AND state = 'ready' AND id <= ? ORDER BY id DESC LIMIT 1";
            let mut paths = Vec::new();
            for id in places(app, photos).await? {
                let query = sqlx::query_scalar(public).bind(seed::album(photos)).bind(id);
                let id: Uuid = query.fetch_one(&mut app.db.connect().await?).await?;
                paths.push(format!("/v1/photos/{id}"));
            }
            targets.push(Target { token: token(bench, who, photos)?, paths });
        }
        cases.push(Case { name, targets, most_statements: Some(2.0) });
    }
    Ok(cases)
}

async fn albums(app: &AppState, bench: &BenchServer) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (name, middle) in [("GET albums of one host, first page", false), ("GET albums of one host, middle", true)] {
        let mut targets = Vec::new();
        for albums in seed::ALBUMS {
            let host = seed::host_of(albums);
            let mut path = "/v1/albums?limit=50".to_owned();
            if middle {
                let query =
                    sqlx::query_scalar("SELECT id FROM albums WHERE host = ? ORDER BY id DESC LIMIT 1 OFFSET ?");
                let id = query.bind(host.as_bytes()).bind(albums / 2).fetch_one(&mut app.db.connect().await?).await?;
                path += &cursor(app, &format!("albums of {host}"), id);
            }
            targets.push(Target { token: bench.identity.token(&host)?, paths: vec![path] });
        }
        cases.push(Case { name, targets, most_statements: Some(1.0) });
    }
    Ok(cases)
}

fn events(bench: &BenchServer) -> anyhow::Result<Vec<Case>> {
    let case = |name, who, after: fn(u64) -> u64| {
        let target = |photos| {
            let path = format!("/v1/albums/{}/events?after={}", seed::album(photos), after(photos));
            anyhow::Ok(Target { token: token(bench, who, photos)?, paths: vec![path] })
        };
        let targets: anyhow::Result<_> = seed::PHOTOS.into_iter().map(target).collect();
        anyhow::Ok(Case { name, targets: targets?, most_statements: Some(2.0) })
    };
    // Hidden events must be skipped.
    let passed_over = seed::PHOTOS.into_iter().map(|events| Target {
        token: seed::backstage_token(events),
        paths: vec![format!("/v1/albums/{}/events", seed::backstage(events))],
    });
    let passed_over = passed_over.collect();
    Ok(vec![
        case("GET events, host, from the first", Who::Host, |_| 0)?,
        case("GET events, host, from the middle", Who::Host, |photos| photos / 2)?,
        case("GET events, view, from the middle", Who::Guest(Guest::View), |photos| photos / 2)?,
        case("GET events, host, nothing new", Who::Host, |photos| photos)?,
        Case { name: "GET events, view, none visible", targets: passed_over, most_statements: Some(2.0) },
    ])
}
