//! The text that a first start prints: a token, an invite link, and three commands.

use std::path::Path;

use super::identity::{Identity, write_private};
use crate::{
    app::AppState,
    db::{self, invites::NewInvite},
    domain::{Album, InviteRole, InviteToken, Label, Title},
    services::{self, albums, invites},
};

/// Whose album it is.
const HOST: &str = "host";
/// A photo to begin with.
const SAMPLE: &[u8] = include_bytes!("../../tests/fixtures/camera.jpg");

/// Sees to it that there is an album with an invite and a photo to send, and words the welcome.
pub(crate) async fn prepare(app: &AppState, identity: &Identity, dir: &Path) -> anyhow::Result<String> {
    let sample = dir.join("sample.jpg");
    if !sample.exists() {
        write_private(&sample, SAMPLE)?;
    }
    let (album, invite) = album_and_invite(app, &dir.join("invite")).await?;
    let token = identity.token(HOST)?;
    let (server, sample) = (app.config.http.public(""), quoted(&sample));
    let (photos, guest) = (format!("{server}/v1/albums/{}/photos", album.id), invite.reveal());
    let link = invites::join_url(&app.config.http, album.id, &invite);
    Ok(format!(
        r#"
token of the user "{HOST}", good for 30 days (`darkroom token` makes others):
  {token}
invite link to the album "{}" (open it in a browser):
  {link}
documentation: {server}/docs/

1. the albums of the host:
curl -sS -H 'authorization: Bearer {token}' {server}/v1/albums
2. add a photo as a guest:
curl -sS -w '%{{http_code}}\n' -T {sample} -H 'content-type: image/jpeg' "$(curl -sS -H 'authorization: Bearer {guest}' -H 'content-type: application/json' -d '{{"content_type":"image/jpeg","bytes":'$(wc -c <{sample})',"guest_name":"Ada"}}' {photos} | sed 's/.*"url":"\([^"]*\)".*/\1/')"
3. see it, with the URLs of its thumbnails:
curl -sS -H 'authorization: Bearer {guest}' {photos}
"#,
        album.title
    ))
}

/// The first album of the host and the invite that was made for it; new ones where they are gone.
async fn album_and_invite(app: &AppState, invite_file: &Path) -> anyhow::Result<(Album, InviteToken)> {
    let kept = std::fs::read_to_string(invite_file).ok().and_then(|text| InviteToken::from_client(text.trim()));
    if let Some(token) = kept {
        let mut session = app.db.session().await?;
        if let Some(opened) = db::invites::authenticate(&mut session, &token, db::now()).await? {
            return Ok((opened.album, token));
        }
    }
    let title = Title::parse("My first album")?;
    let label = Some(Label::parse("from `darkroom dev`")?);
    let invite = NewInvite { role: InviteRole::Contribute, label, expires_at: None, max_photos: None };
    let (title, invite) = (&title, &invite);
    let (album, token) = app
        .db
        .transaction(|tx| async move {
            let (tx, album) = albums::create(tx, HOST, title, false).await?.reopen();
            let (tx, (_, token)) = invites::create(tx, album.id, invite).await?.reopen();
            Ok::<_, services::Error>(tx.done((album, token)))
        })
        .await?;
    write_private(invite_file, token.reveal().as_bytes())?;
    Ok((album, token))
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}
