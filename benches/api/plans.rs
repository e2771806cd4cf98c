//! The query plans of the list statement on the database server.

use darkroom::{
    db::photos::{Page, list_query},
    domain::{Access, Guest as Holder, InviteRole, PhotoId, PhotoState, Visibility},
};
use sqlx::{AssertSqlSafe, Execute, MySqlConnection, Row, mysql::MySqlRow};

use super::{
    seed::{self, Guest},
    table,
};

/// Caller, state and visibility.
type Shape = (&'static str, Option<Guest>, Option<PhotoState>, Option<Visibility>);

const SHAPES: [Shape; 9] = [
    ("host", None, None, None),
    ("host, state", None, Some(PhotoState::Processing), None),
    ("host, visibility", None, None, Some(Visibility::PendingReview)),
    ("host, rare visibility", None, None, Some(Visibility::Hidden)),
    ("host, state and visibility", None, Some(PhotoState::Ready), Some(Visibility::PendingReview)),
    ("view", Some(Guest::View), None, None),
    ("contribute", Some(Guest::Contribute), None, None),
    ("contribute, state", Some(Guest::Contribute), Some(PhotoState::Processing), None),
    ("drop", Some(Guest::Drop), None, None),
];

/// Prints the plan of each shape at each size; returns violations.
pub async fn print(connection: &mut MySqlConnection) -> anyhow::Result<Vec<String>> {
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    for shape in SHAPES {
        for photos in seed::PHOTOS {
            let middle = seed::photo(connection, photos, photos / 2).await?;
            for (place, after) in [("first", None), ("middle", Some(middle.into()))] {
                let name = format!("{}, {place} page, {}", shape.0, seed::power(photos));
                for step in explain(connection, shape, photos, after).await? {
                    // Sorts at most one page of ids for each range.
                    let merging = step.table.starts_with('<');
                    if !merging && (step.extra.contains("filesort") || ["ALL", "index"].contains(&step.kind.as_str())) {
                        faults.push(format!("{name}: {} of {} by {}, {}", step.kind, step.table, step.key, step.extra));
                    }
                    if after.is_some() && [seed::PHOTOS[0], seed::PHOTOS[3]].contains(&photos) {
                        rows.push(vec![name.clone(), step.table, step.kind, step.key, step.rows, step.extra]);
                    }
                }
            }
        }
    }
    table::print(
        "EXPLAIN of the list statement's middle page (`rows` is the server's estimate, before the limit):",
        &["list", "table", "type", "key", "rows", "Extra"],
        &rows,
    );
    Ok(faults)
}

/// One line of a plan.
struct Step {
    table: String,
    kind: String,
    key: String,
    rows: String,
    extra: String,
}

async fn explain(
    connection: &mut MySqlConnection,
    shape: Shape,
    photos: u64,
    after: Option<PhotoId>,
) -> anyhow::Result<Vec<Step>> {
    let (_, guest, state, visibility) = shape;
    let access = guest.map_or(Access::Host, |guest| holder(photos, guest));
    let page = Page { state, visibility, oldest_first: false, after, limit: 51 };
    let mut query = list_query(&access, seed::album(photos).into(), &page);
    let mut query = query.build();
    let arguments = query.take_arguments().map_err(anyhow::Error::from_boxed)?.unwrap_or_default();
    let text = format!("EXPLAIN FORMAT=TRADITIONAL {}", query.sql().as_str());
    let rows = sqlx::query_with(AssertSqlSafe(text), arguments).fetch_all(connection).await?;
    Ok(rows.iter().map(step).collect())
}

fn holder(photos: u64, guest: Guest) -> Access {
    let role = match guest {
        Guest::Contribute => InviteRole::Contribute,
        Guest::Drop => InviteRole::Drop,
        Guest::View => InviteRole::View,
    };
    Access::Guest(Holder { invite_id: seed::invite(photos, guest).into(), album_id: seed::album(photos).into(), role })
}

/// MySQL and MariaDB return the columns in different types.
fn step(row: &MySqlRow) -> Step {
    let text = |name| row.try_get::<Option<String>, _>(name).ok().flatten().unwrap_or_default();
    let rows = row.try_get::<Option<u64>, _>("rows").ok().flatten().map(|rows| rows.to_string());
    let rows = rows.or_else(|| row.try_get::<Option<i64>, _>("rows").ok().flatten().map(|rows| rows.to_string()));
    Step {
        table: text("table"),
        kind: text("type"),
        key: text("key"),
        rows: rows.unwrap_or_else(|| text("rows")),
        extra: text("Extra"),
    }
}

/// The host's page at an OFFSET; returns its length.
pub async fn by_offset(connection: &mut MySqlConnection, photos: u64, offset: u64) -> anyhow::Result<usize> {
    let page = Page { state: None, visibility: None, oldest_first: false, after: None, limit: 51 };
    let mut query = list_query(&Access::Host, seed::album(photos).into(), &page);
    query.push(" OFFSET ").push_bind(offset);
    Ok(query.build().fetch_all(connection).await?.len())
}
