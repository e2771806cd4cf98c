//! Photos in S3: uploads by presigned URLs that S3 verifies, renditions and originals by signed URLs.

use std::time::Duration;

use aws_sdk_s3::{Client as S3, primitives::ByteStream};
use chrono::{TimeDelta, Utc};
use darkroom::{domain::PhotoId, jobs::reconciler, storage::Storage};
use reqwest::Url;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    TestServer,
    aws::{Cloud, Notifications, Part, Role},
    client::id,
    cloudfront::{self, Distribution, KeyGroup, Signed},
    eventually,
    fault_proxy::{Fault, FaultProxy},
    fixture, numbered_photo,
    process::{Process, darkroom, run},
    sha256_hex,
};

const PHOTOS: &[Part] = &[Part::Storage, Part::Queue];

#[tokio::test]
async fn processes_each_upload_notification() {
    for way in [Notifications::Direct, Notifications::Topic, Notifications::EventBridge] {
        let cloud = Cloud::start_with(way).await;
        let server = TestServer::start_in(&cloud, PHOTOS, "").await;
        let host = server.user("alice");
        let album = host.album("Wedding").await;
        let guest = server.bearer(&host.invite(&album, &json!({ "role": "contribute" })).await);
        let bytes = fixture("camera.jpg");
        let photo = guest.settled(&guest.upload(&album, "image/jpeg", &bytes).await).await;
        assert_eq!(photo["state"], "ready", "{way:?}: {photo}");
        assert_eq!(photo["sha256"], sha256_hex(&bytes));
        for rendition in photo["renditions"].as_array().expect("a list") {
            let url = rendition["url"].as_str().expect("a URL");
            assert!(url.starts_with(&cloud.emulator.url), "straight from S3: {url}");
            let fetched = server.anybody().get(url).await;
            assert_eq!((fetched.status.as_u16(), fetched.header("content-type")), (200, "image/jpeg"));
            assert_eq!(fetched.header("cache-control"), "public, max-age=31536000, immutable");
            assert_eq!(fetched.bytes.len() as u64, rendition["bytes"].as_u64().unwrap());
        }
        // The URLs stay equal.
        let again = guest.get(&format!("/v1/photos/{}", id(&photo))).await.expect(200);
        assert_eq!(again["renditions"], photo["renditions"]);
        let original = guest.get(&format!("/v1/photos/{}/original", id(&photo))).await;
        assert_eq!(original.status, 303);
        let original = server.anybody().get(original.header("location")).await;
        assert_eq!((original.status.as_u16(), original.header("content-disposition")), (200, "attachment"));
        assert_eq!(original.bytes, bytes);

        assert_eq!(host.delete(&format!("/v1/photos/{}", id(&photo))).await.status, 204);
        eventually("purged", async || server.stored().await.is_empty().then_some(())).await;
    }
}

#[tokio::test]
async fn s3_rejects_undeclared_body() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PHOTOS, "").await;
    let host = server.user("alice");
    let album = host.album("Wedding").await;
    let bytes = fixture("camera.jpg");
    let answer = host.declare(&album, "image/jpeg", &bytes).await;
    let (photo, upload) = (answer["photo"].clone(), answer["upload"].clone());
    let key = format!("originals/{}/{}", &id(&photo)[34..], id(&photo));
    let with = |name: &str, value: &str| {
        let mut other = upload.clone();
        other["headers"][name] = value.into();
        other
    };
    let without = |name: &str| {
        let mut other = upload.clone();
        other["headers"].as_object_mut().unwrap().remove(name);
        other
    };
    let mut altered = bytes.clone();
    *altered.last_mut().unwrap() ^= 1;
    let mut elsewhere = upload.clone();
    elsewhere["url"] = upload["url"].as_str().unwrap().replacen("originals/", "renditions/", 1).into();
    let refused = [
        ("shorter", upload.clone(), bytes[1..].to_vec()),
        ("longer", upload.clone(), [&bytes[..], b"x"].concat()),
        ("other bytes", upload.clone(), altered.clone()),
        ("another type", with("content-type", "text/html"), bytes.clone()),
        ("another checksum", with("x-amz-checksum-sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="), altered),
        ("without checksum", without("x-amz-checksum-sha256"), bytes.clone()),
        ("without the condition", without("if-none-match"), bytes.clone()),
        ("another key", elsewhere, bytes.clone()),
    ];
    for (what, upload, body) in refused {
        let answer = host.put(&upload, body).await;
        assert!(
            matches!(answer.status.as_u16(), 400 | 403),
            "{what}: {} {}",
            answer.status,
            String::from_utf8_lossy(&answer.bytes)
        );
        assert!(server.stored().await.is_empty(), "{what}");
    }
    // An expired URL.
    let links = server.app.storage.original_urls(Utc::now() - Duration::from_mins(30)).await.expect("links");
    let mut session = server.app.db.session().await.expect("a session");
    let row =
        darkroom::db::photos::get(&mut session, id(&photo).parse().unwrap()).await.expect("a row").expect("a photo");
    drop(session);
    let expired = serde_json::to_value(links.upload(&row, Utc::now() - Duration::from_mins(15))).unwrap();
    assert_eq!(host.put(&expired, bytes.clone()).await.status, 403);

    assert_eq!(host.put(&upload, bytes.clone()).await.status, 200);
    // An original can't be overwritten.
    assert_eq!(host.put(&upload, bytes.clone()).await.status, 412);
    assert_eq!(host.settled(&id(&photo)).await["state"], "ready");
    assert!(server.stored().await.contains(&key));
    // The service itself accepts no uploads and serves no files.
    let own = format!("/v1/uploads/{}?bytes=1&content_type=image/jpeg", id(&photo));
    let own = server.app.storage.signer().sign("PUT", &own, Utc::now() + Duration::from_mins(1));
    let answer = server.anybody().send(server.anybody().request(reqwest::Method::PUT, &own).body("x")).await;
    assert_eq!(answer.status, 404);
}

/// Without a declared checksum, the worker computes it.
#[tokio::test]
async fn worker_computes_undeclared_digest() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PHOTOS, "").await;
    let host = server.user("alice");
    let album = host.album("Wedding").await;
    let bytes = numbered_photo(1);
    let new = json!({ "content_type": "image/jpeg", "bytes": bytes.len() });
    let answer = host.post(&format!("/v1/albums/{album}/photos"), &new).await.expect(201);
    assert_eq!(answer["photo"]["sha256"], Value::Null);
    assert_eq!(host.put(&answer["upload"], bytes.clone()).await.status, 200);
    let photo = host.settled(&id(&answer["photo"])).await;
    assert_eq!((&photo["state"], &photo["sha256"]), (&json!("ready"), &json!(sha256_hex(&bytes))));
    // Afterwards the same bytes are the same photo.
    let same = host.declaration(&album, "image/jpeg", &bytes);
    let same = host.send(same).await.expect(200);
    assert_eq!((id(&same["photo"]), &same["upload"]), (id(&photo), &Value::Null));
}

#[tokio::test]
async fn rejects_non_image_by_first_bytes() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PHOTOS, "").await;
    let host = server.user("alice");
    let album = host.album("Wedding").await;
    let film = [&b"\x1A\x45\xDF\xA3"[..], &vec![7; 3 << 20]].concat();
    let photo = host.settled(&host.upload(&album, "image/jpeg", &film).await).await;
    assert_eq!(photo["reject_reason"], "this file is a video, not a photo");

    // By the calls: one for the first bytes, a second one only for valid files.
    let proxy = FaultProxy::start(&cloud.emulator.url).await;
    let sdk = cloud.sdk(Role::Work).into_builder().endpoint_url(&proxy.url).build();
    let config = &server.app.config;
    let storage = Storage::open(&config.storage, &config.http, Some(&sdk)).expect("a storage");
    let photo: PhotoId = id(&photo).parse().unwrap();
    proxy.every_of("s3", 1, Fault::Delay(Duration::ZERO));
    let no = storage.open_original(photo, |head| Err::<(), _>(head.to_vec())).await.expect("an answer").unwrap_err();
    assert_eq!((no.len(), proxy.faults_injected()), (64 << 10, 1));
    let all = storage.open_original(photo, |_| Ok::<_, ()>(())).await.expect("an answer").expect("an original");
    assert_eq!(all.sha256.unwrap().to_string(), sha256_hex(&film));
    assert_eq!(all.file.metadata().unwrap().len(), film.len() as u64);
    assert_eq!(proxy.faults_injected(), 3);
}

#[tokio::test]
async fn reconciles_s3_uploads_and_orphans() {
    let cloud = Cloud::start().await;
    let settings = "worker.enabled = false\nreconciler.orphan_grace_period = \"0s\"";
    let server = TestServer::start_in(&cloud, PHOTOS, settings).await;
    let host = server.user("alice");
    let album = host.album("Wedding").await;
    let photo = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    server.database.change("UPDATE photos SET sweep_at = '2020-01-01'").await;
    let s3 = S3::new(&cloud.admin());
    let put = async |key: &str| {
        s3.put_object().bucket(&cloud.bucket).key(key).body(ByteStream::from_static(b"x")).send().await.expect("put");
    };
    let orphan = PhotoId::generate().to_string();
    let left =
        [format!("originals/{}/{orphan}", &orphan[34..]), format!("renditions/{}/{orphan}/thumb.jpg", &orphan[34..])];
    for key in &left {
        put(key).await;
    }
    put("elsewhere/of-somebody-else").await;
    let parts = s3.create_multipart_upload().bucket(&cloud.bucket).key(&left[0]).send().await.expect("begun");
    assert!(parts.upload_id().is_some());
    let accepted = eventually("accepted", async || {
        let report = reconciler::run(&server.app, true).await.expect("a sweep");
        (report.accepted == 1).then_some(report)
    })
    .await;
    assert_eq!(accepted.expired, 0);
    assert_eq!(host.get(&format!("/v1/photos/{photo}")).await.expect(200)["state"], "processing");
    let keys = server.stored().await;
    assert!(left.iter().all(|key| !keys.contains(key)), "{keys:?}");
    assert!(keys.iter().any(|key| key == "elsewhere/of-somebody-else"));
    let parts = s3.list_multipart_uploads().bucket(&cloud.bucket).send().await.expect("a list");
    assert!(parts.uploads().is_empty(), "{parts:?}");
}

#[tokio::test]
async fn serves_renditions_by_cloudfront() {
    let cloud = Cloud::start().await;
    let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let settings = format!(
        "storage.cloudfront_url = \"https://d111111abcdef8.cloudfront.net\"\nstorage.cloudfront_key_id = \"K2JCJMDEHXQW5F\"\nstorage.cloudfront_key = '''{key}'''"
    );
    let server = TestServer::start_in(&cloud, PHOTOS, &settings).await;
    let host = server.user("alice");
    let album = host.album("Wedding").await;
    let photo = host.settled(&host.upload(&album, "image/jpeg", &numbered_photo(1)).await).await;
    let urls: Vec<reqwest::Url> =
        photo["renditions"].as_array().unwrap().iter().map(|it| it["url"].as_str().unwrap().parse().unwrap()).collect();
    assert!(urls.iter().all(|url| url.host_str() == Some("d111111abcdef8.cloudfront.net")), "{urls:?}");
    // One signature for all renditions, which does not cover the original.
    assert!(urls.iter().all(|url| url.query() == urls[0].query() && url.path().starts_with("/renditions/")));
    let key = &urls[0].path()[1..];
    assert!(server.stored().await.iter().any(|it| it == key), "{key}");
}

/// With CloudFront pages need no AWS credentials, and a request that fails without them has no effect.
#[tokio::test]
async fn cloudfront_urls_need_no_credentials() {
    let cloud = Cloud::start().await;
    let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let with = [
        ("DARKROOM_STORAGE_CLOUDFRONT_URL", "https://d111111abcdef8.cloudfront.net"),
        ("DARKROOM_STORAGE_CLOUDFRONT_KEY_ID", "K2JCJMDEHXQW5F"),
        ("DARKROOM_STORAGE_CLOUDFRONT_KEY", &key),
    ];
    // Without any source of credentials.
    let without = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_EC2_METADATA_DISABLED", "true")];
    let server = TestServer::start_in(&cloud, PHOTOS, "").await;
    let host = server.user("alice");
    let album = host.album("Wedding").await;
    let photo = id(&host.settled(&host.upload(&album, "image/jpeg", &numbered_photo(1)).await).await);
    let path = format!("/v1/photos/{photo}");
    for (cloudfront, status) in [(&with[..], 200), (&[][..], 503)] {
        let worker = [("DARKROOM_WORKER_ENABLED", "false")];
        let process = Process::start(&server, "serve", &[cloudfront, &without, &worker].concat()).await;
        let host = process.user(&server, "alice");
        let title = format!("seen by {}", process.url);
        assert_eq!(host.get(&path).await.status, status, "{}", process.log());
        assert_eq!(host.get(&format!("/v1/albums/{album}/photos")).await.status, status);
        assert_eq!(host.patch(&path, &json!({ "caption": title })).await.status, status);
        let caption = server.user("alice").get(&path).await.expect(200)["caption"].clone();
        assert_eq!(caption == *title, status == 200, "{caption}");
        // Originals need S3.
        assert_eq!(host.get(&format!("{path}/original")).await.status, 503);
        let declared = host.declaration(&album, "image/jpeg", &numbered_photo(2));
        assert_eq!(host.send(declared).await.status, 503);
    }
}

/// The old public key stays in the group until its URLs have expired.
#[tokio::test]
async fn key_rotation_keeps_old_urls_valid() {
    const ADDRESS: &str = "https://d111111abcdef8.cloudfront.net";
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PHOTOS, "worker.enabled = false").await;
    // From one key type to the other.
    let [before, after] =
        [("K2JCJMDEHXQW5F", &rcgen::PKCS_RSA_SHA256), ("K36X4ZBQ9H1JTL", &rcgen::PKCS_ECDSA_P256_SHA256)]
            .map(|(id, kind)| (id, rcgen::KeyPair::generate_for(kind).expect("a key")));
    let start = async |(id, key): &(&str, rcgen::KeyPair)| {
        let file = server.folder().join(id);
        std::fs::write(&file, key.serialize_pem()).expect("a file");
        let settings = [
            ("DARKROOM_STORAGE_URL_WINDOW", "1h"),
            ("DARKROOM_STORAGE_CLOUDFRONT_URL", ADDRESS),
            ("DARKROOM_STORAGE_CLOUDFRONT_KEY_ID", id),
            ("DARKROOM_STORAGE_CLOUDFRONT_KEY_FILE", file.to_str().expect("a path")),
        ];
        Process::start(&server, "serve", &settings).await
    };
    let urls = |photo: &Value| -> Vec<Url> {
        let of = |it: &Value| it["url"].as_str().expect("a URL").parse().expect("a URL");
        photo["renditions"].as_array().expect("a list").iter().map(of).collect()
    };
    let mut process = start(&before).await;
    let host = process.user(&server, "alice");
    let album = host.album("Wedding").await;
    let photo = host.settled(&host.upload(&album, "image/jpeg", &numbered_photo(1)).await).await;
    let old = urls(&photo);
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
    let process = start(&after).await;
    let host = process.user(&server, "alice");
    let new = urls(&host.get(&format!("/v1/photos/{}", id(&photo))).await.expect(200));
    assert_eq!((old.len(), new.len()), (3, 3));

    let group = |keys: &[&(&str, rcgen::KeyPair)]| {
        KeyGroup(keys.iter().map(|(id, key)| ((*id).to_owned(), key.public_key_pem())).collect())
    };
    for (keys, opens) in [
        (group(&[&before]), [true, false]),
        (group(&[&before, &after]), [true, true]),
        (group(&[&after]), [false, true]),
    ] {
        let front = cloudfront::start(Distribution {
            gateway: server.url.clone(),
            key: String::new(),
            bucket: cloud.objects(),
            address: ADDRESS.to_owned(),
            keys: keys.clone(),
        })
        .await;
        for (urls, opens) in [&old, &new].into_iter().zip(opens) {
            for url in urls {
                let answer = reqwest::get(url.as_str().replace(ADDRESS, &front)).await.expect("an answer");
                assert_eq!(answer.status(), if opens { 200 } else { 403 }, "{url} with {keys:?}");
            }
        }
    }
    // To the second URL, without another photo.
    let (both, now) = (group(&[&before, &after]), Utc::now());
    for url in old.iter().chain(&new) {
        let until = Signed::read(url).expect("a signed URL").until;
        assert!(
            until - now > TimeDelta::hours(1) - TimeDelta::minutes(1) && until - now <= TimeDelta::hours(2),
            "{until}"
        );
        assert!(both.opens(url, until - TimeDelta::seconds(1)) && !both.opens(url, until), "{url}");
        let other = url.as_str().replace(&id(&photo), &PhotoId::generate().to_string()).parse().expect("a URL");
        assert!(!both.opens(&other, now), "{other}");
    }
    assert_eq!([&old, &new].map(|urls| Signed::read(&urls[0]).expect("a signed URL").key), [before.0, after.0]);
}

/// The command uploads directly to S3, and skips existing photos.
#[tokio::test]
async fn upload_command_uses_s3() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PHOTOS, "").await;
    let host = server.user("alice");
    let album = host.album("Wedding").await;
    let file = server.folder().join("camera.jpg");
    std::fs::write(&file, fixture("camera.jpg")).expect("a file");
    let token = server.identity.token("alice").expect("a token");
    let variables = [("DARKROOM_URL".to_owned(), server.url.clone()), ("DARKROOM_TOKEN".to_owned(), token)];
    for _ in 0..2 {
        let words = ["upload", "--wait", "--album", &album, file.to_str().expect("a path")];
        let (status, _, said) = run(darkroom(&words, &variables)).await;
        assert_eq!(status, 0, "{said}");
    }
    let photos = host.all(&format!("/v1/albums/{album}/photos")).await;
    assert_eq!(photos.iter().map(|photo| &photo["state"]).collect::<Vec<_>>(), ["ready"]);
}

#[tokio::test]
async fn encrypts_objects_with_kms_key() {
    let cloud = Cloud::start().await;
    let key = "arn:aws:kms:eu-west-1:123456789012:key/11112222-3333-4444-5555-666677778888";
    let server = TestServer::start_in(&cloud, PHOTOS, &format!("storage.kms_key = \"{key}\"")).await;
    let host = server.user("alice");
    let album = host.album("Wedding").await;
    let declared = host.declare(&album, "image/jpeg", &numbered_photo(1)).await;
    let mut without = declared["upload"].clone();
    without["headers"].as_object_mut().unwrap().remove("x-amz-server-side-encryption");
    assert_eq!(host.put(&without, numbered_photo(1)).await.status, 403, "the URL is bound to it");
    host.put(&declared["upload"], numbered_photo(1)).await.expect(200);
    assert_eq!(host.settled(&id(&declared["photo"])).await["state"], "ready");
    let bucket = cloud.objects();
    for object in server.stored().await {
        let told = bucket.client.head_object().bucket(&bucket.name).key(&object).send().await.expect("an object");
        assert_eq!(
            told.server_side_encryption().map(aws_sdk_s3::types::ServerSideEncryption::as_str),
            Some("aws:kms"),
            "{object}"
        );
        assert_eq!(told.ssekms_key_id(), Some(key), "{object}");
    }
}
