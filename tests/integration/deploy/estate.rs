//! The stacks on an emulator: made, updated, ended; and the service on what they made.

use crate::support::{estate::Estate, template};

const OPERATOR: [(&str, &str); 12] = [
    ("Installation", "party"),
    ("Domain", "photos.example.com"),
    ("HostedZoneId", "Z0123456789ABCDEFGHIJ"),
    ("Release", "0.1.0"),
    ("Architecture", "x86_64"),
    ("S3PrefixList", "pl-6da54004"),
    ("DynamoDbPrefixList", "pl-6fa54006"),
    ("CloudFrontPublicKey", "pem"),
    ("CloudFrontPrivateKey", "pem"),
    ("Issuer", "https://darkroom.local"),
    ("Audience", "darkroom"),
    ("Jwks", "{\"keys\": []}"),
];

#[tokio::test]
async fn the_stacks_are_made_updated_in_place_and_removed() {
    let mut estate = Estate::start(&OPERATOR).await;
    for stack in template::STACKS {
        if !template::path(stack).exists() {
            continue;
        }
        estate.deploy(stack).await;
        eprintln!("{stack}: {:?}", estate.resources(stack).await);
    }
}
