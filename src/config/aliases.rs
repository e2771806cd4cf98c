//! Settings that were renamed: each old key still works, as an alias of the new one, and is reported at start.

/// Old key, new key.
pub(crate) const ALIASES: [(&str, &str); 31] = [
    ("http.lame_duck", "http.shutdown_delay"),
    ("http.unready_at_once", "http.fail_readiness_on_shutdown"),
    ("http.ready_needs_database", "http.readiness_checks_database"),
    ("limits.connections", "limits.max_connections"),
    ("limits.head_timeout", "limits.header_timeout"),
    ("limits.head_bytes", "limits.max_header_bytes"),
    ("limits.body_rate", "limits.min_body_bytes_per_second"),
    ("limits.requests", "limits.max_concurrent_requests"),
    ("limits.uploads", "limits.max_concurrent_uploads"),
    ("limits.queueing_target", "limits.target_queue_delay"),
    ("database.sign_for_host", "database.iam_host"),
    ("database.token_lease", "database.iam_token_ttl"),
    ("database.reader_host", "database.read_replica_host"),
    ("database.reader_port", "database.read_replica_port"),
    ("database.reader_sign_for_host", "database.read_replica_iam_host"),
    ("imaging.megapixels_in_flight", "imaging.max_concurrent_megapixels"),
    ("worker.lease", "worker.visibility_timeout"),
    ("worker.retry_base", "worker.initial_backoff"),
    ("worker.retry_cap", "worker.max_backoff"),
    ("queue.resend_after", "queue.redelivery_delay"),
    ("sweep.interval", "reconciler.interval"),
    ("sweep.scrub_interval", "reconciler.full_scan_interval"),
    ("sweep.orphan_grace", "reconciler.orphan_grace_period"),
    ("announce.kind", "notifications.kind"),
    ("announce.topic", "notifications.topic"),
    ("announce.webhook_url", "notifications.webhook_url"),
    ("announce.webhook_secret", "notifications.webhook_secret"),
    ("announce.webhook_secret_file", "notifications.webhook_secret_file"),
    ("announce.webhook_secret_secret_id", "notifications.webhook_secret_secret_id"),
    ("announce.webhook_timeout", "notifications.webhook_timeout"),
    ("log.slow_request", "log.slow_request_threshold"),
];

/// The old key of a setting, if it was renamed.
pub(crate) fn old_key(key: &str) -> Option<&'static str> {
    ALIASES.iter().find(|(_, new)| *new == key).map(|(old, _)| *old)
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::config::{Config, Mistakes, Named, Source};

    const REQUIRED: &str = r#"
        aws.region = "eu-west-1"
        http.public_url = "https://photos.example"
        identity = { issuer = "https://id.example", audience = "darkroom", jwks = "/etc/darkroom/jwks.json" }
        database.user = "darkroom"
        storage = { directory = "/var/lib/darkroom", signing_keys = ["00112233445566778899aabbccddeeff"] }
    "#;
    const SECRET: &str = "notifications.webhook_secret = '00112233445566778899aabbccddeeff'";
    const SQS: &str = "
        queue.kind = 'sqs'
        queue.url = 'https://sqs.example/q'
        queue.dead_letter_url = 'https://sqs.example/d'
    ";

    fn read(text: &str, env: &[(&str, &str)]) -> Result<Config, Mistakes> {
        let env = env.iter().map(|(name, value)| (name.into(), value.into()));
        let mut source = Source::parse(&format!("{REQUIRED}\n{text}"), env).unwrap();
        let (key, id, region) = ("notifications.webhook_secret", "webhook", "eu-west-1");
        let named = Named { key: key.to_owned(), id: id.to_owned(), region: region.to_owned() };
        source.tell(named, Ok(SecretString::from("00112233445566778899aabbccddeeff")));
        Config::read(source)
    }

    #[test]
    fn every_old_key_still_works() {
        let file = std::env::temp_dir().join(format!("darkroom-webhook-secret-{}", uuid::Uuid::now_v7()));
        std::fs::write(&file, "00112233445566778899aabbccddeeff\n").unwrap();
        let path = format!("'{}'", file.display());
        for (old, new) in ALIASES {
            let (value, more) = match old {
                "http.unready_at_once" | "http.ready_needs_database" => ("true", ""),
                "announce.kind" => ("'sns'", "notifications.topic = 'arn:aws:sns:eu-west-1:1:topic'"),
                "announce.topic" => ("'arn:aws:sns:eu-west-1:1:topic'", "notifications.kind = 'sns'"),
                "announce.webhook_url" => ("'https://example.com'", SECRET),
                "announce.webhook_secret" => ("'ffeeddccbbaa99887766554433221100'", ""),
                "announce.webhook_secret_file" => (&*path, ""),
                "announce.webhook_secret_secret_id" => ("'webhook'", ""),
                "queue.resend_after" => ("'7s'", SQS),
                _ if old.ends_with("_host") => ("'localhost'", ""),
                "limits.head_bytes" | "database.reader_port" => ("8193", ""),
                _ if new.contains(".max_con") || new.ends_with("bytes_per_second") => ("77", ""),
                _ => ("'7s'", ""),
            };
            let variable = |key: &str| format!("DARKROOM_{}", key.replace('.', "_").to_uppercase());
            let in_file = |key: &str| format!("{more}\n{key} = {value}");
            let expected = read(&in_file(new), &[]).unwrap_or_else(|mistakes| panic!("{new}: {mistakes}"));
            assert!(expected.deprecations.is_empty());
            let by_file = read(&in_file(old), &[]).unwrap_or_else(|mistakes| panic!("{old}: {mistakes}"));
            let by_variable = read(more, &[(&variable(old), value.trim_matches('\''))]).unwrap();
            for (config, old, new) in
                [(by_file, old.to_owned(), new.to_owned()), (by_variable, variable(old), variable(new))]
            {
                assert_eq!(config.effective, expected.effective, "{old}");
                assert_eq!(config.deprecations, [format!("setting {old} is deprecated: use {new}")]);
            }
            let both = read(&format!("{}\n{old} = {value}", in_file(new)), &[]).unwrap_err().to_string();
            assert!(both.contains(&format!("{old} and {new} are both given")), "{both}");
            let env = [(&*variable(old), value), (&*variable(new), value)];
            let both = read(more, &env).unwrap_err().to_string();
            assert!(both.contains(&format!("{} and {} are both given", variable(old), variable(new))), "{both}");
        }
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn variable_overrides_old_key_in_file() {
        let config = read("limits.connections = 5", &[("DARKROOM_LIMITS_MAX_CONNECTIONS", "6")]).unwrap();
        assert_eq!(config.limits.max_connections, 6);
        let config = read("limits.max_connections = 5", &[("DARKROOM_LIMITS_CONNECTIONS", "6")]).unwrap();
        assert_eq!(config.limits.max_connections, 6);
    }

    #[test]
    fn mistake_in_an_old_key_names_both_keys() {
        let mistakes = read("sweep.interval = 'soon'", &[]).unwrap_err().to_string();
        assert!(mistakes.contains("reconciler.interval: ") && mistakes.contains("sweep.interval is dep"), "{mistakes}");
        let mistakes = read("sweep.speed = 'soon'", &[]).unwrap_err().to_string();
        assert!(mistakes.contains("sweep.speed is not a setting"), "{mistakes}");
    }

    #[test]
    fn old_credential_name_still_works() {
        let folder = std::env::temp_dir().join(format!("darkroom-old-credential-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let env = [("CREDENTIALS_DIRECTORY", folder.to_str().unwrap())];
        for prefix in ["", "darkroom_"] {
            let old = folder.join(format!("{prefix}announce.webhook_secret"));
            std::fs::write(&old, "00112233445566778899aabbccddeeff").unwrap();
            let config = read("", &env).unwrap();
            assert_eq!(config.effective["notifications.webhook_secret"], "***");
            let deprecation =
                "setting announce.webhook_secret (a credential) is deprecated: use notifications.webhook_secret";
            assert_eq!(config.deprecations, [deprecation]);
            assert!(read(SECRET, &env).unwrap_err().to_string().contains("both given"));
            std::fs::remove_file(old).unwrap();
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
