//! `[database]`: the MySQL or MariaDB server, who signs in there and how, and the limits of the pool.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::SecretString;
use serde::Deserialize;

use super::source::Source;
use crate::{aws::region, db::ca_file};

/// Where the package puts the CA certificates of RDS.
const PACKAGED_CA: &str = "/usr/share/darkroom/rds-global-bundle.pem";
/// The most connections of a process by default; of a function of Lambda, which does one thing at a time.
const MOST: usize = 16;
const MOST_IN_LAMBDA: usize = 2;
/// The longest life of a token on RDS.
const TOKEN_LIFE: Duration = Duration::from_mins(15);

/// `[database]`.
#[derive(Debug, Clone)]
pub struct Database {
    /// Where the server that takes writes is.
    pub place: Place,
    /// Database.
    pub name: String,
    /// Who signs in to serve and to work.
    pub login: Login,
    /// Who signs in to migrate, if not the same.
    pub migrate_login: Option<Login>,
    /// The master user, by whom `darkroom migrate` makes the database and its users first.
    pub master_login: Option<Login>,
    /// A server that guests' lists and single reads may come from.
    pub reader: Option<Reader>,
    /// How the server's certificate is verified.
    pub tls: Tls,
    /// The limits of each pool.
    pub pool: Pool,
}

/// Where a server is.
#[derive(Debug, Clone)]
pub enum Place {
    /// A unix socket.
    Socket(PathBuf),
    /// A host name or address, and a TCP port. The name is resolved for each new connection.
    Tcp(String, u16),
}

/// A replica, or an Aurora reader endpoint.
#[derive(Debug, Clone)]
pub struct Reader {
    /// Where it is.
    pub place: Place,
    /// Who signs in there: the same user, with tokens for that host.
    pub login: Login,
}

/// Who signs in.
#[derive(Debug, Clone)]
pub struct Login {
    /// User; in `secrets-manager` the secret may name another.
    pub user: String,
    /// How.
    pub auth: Auth,
}

/// How a user shows who it is.
#[derive(Debug, Clone)]
pub enum Auth {
    /// A password, or none.
    Password(Option<SecretString>),
    /// A token of RDS IAM database authentication.
    Iam(Iam),
    /// A password that AWS Secrets Manager keeps.
    Secret(Secret),
}

/// What a token is signed for.
#[derive(Debug, Clone)]
pub struct Iam {
    /// The AWS region, such as `eu-west-1`.
    pub region: String,
    /// The host name of the instance, cluster or proxy as RDS knows it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How long a token is used for new connections; RDS takes it for 15 minutes.
    pub lease: Duration,
}

/// Where a secret is.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Its name or ARN.
    pub id: String,
    /// The AWS region.
    pub region: String,
    /// How long it is used before it is read again.
    pub ttl: Duration,
}

/// How a connection is encrypted; the names are those of MySQL's `--ssl-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Not at all.
    Disabled,
    /// If the server offers it; its certificate is not verified.
    Preferred,
    /// Always; the server's certificate is not verified.
    Required,
    /// Always, with a certificate of a known CA.
    VerifyCa,
    /// Always, with a certificate of a known CA for this very host name.
    VerifyIdentity,
}

/// How the server's certificate is verified.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Off loopback always [`TlsMode::VerifyIdentity`].
    pub mode: TlsMode,
    /// CA certificates (PEM), beside those of the web that sqlx brings.
    pub ca: Option<PathBuf>,
}

/// The limits of a pool.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Most connections.
    pub max_connections: usize,
    /// Longest wait for a connection.
    pub acquire_timeout: Duration,
    /// Longest time to open one: name, TCP, TLS and login.
    pub connect_timeout: Duration,
    /// Longest time for a statement, here and in the server; zero for no limit.
    pub query_timeout: Duration,
    /// Longest time for a transaction with all its tries.
    pub transaction_timeout: Duration,
    /// A connection that was idle for so long is closed.
    pub idle_timeout: Duration,
    /// An older connection is closed when it is given back.
    pub max_lifetime: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AuthKind {
    Password,
    Iam,
    SecretsManager,
}

impl Place {
    /// Whether the address is local, so that only this machine could read the traffic.
    fn is_local(&self) -> bool {
        match self {
            Self::Socket(_) => true,
            Self::Tcp(host, _) => host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl Database {
    /// Which database it is, for messages.
    #[must_use]
    pub fn described(&self) -> String {
        format!("database `{}` at {}, user `{}`", self.name, self.place, self.login.user)
    }

    /// The same server for `darkroom migrate`: its own user, one connection at a time, and no limit for statements,
    /// because altering a big table takes what it takes.
    #[must_use]
    pub fn for_migrations(&self) -> Self {
        let pool = Pool { query_timeout: Duration::ZERO, ..self.pool.clone() };
        let login = self.migrate_login.as_ref().unwrap_or(&self.login).clone();
        Self { login, migrate_login: None, master_login: None, reader: None, pool, ..self.clone() }
    }

    /// The same server for the master user, if there is one, who makes the database and so can't begin in it.
    #[must_use]
    pub fn for_users(&self) -> Option<Self> {
        let login = self.master_login.clone()?;
        Some(
            Self { name: "information_schema".to_owned(), migrate_login: Some(login), ..self.clone() }.for_migrations(),
        )
    }

    pub(crate) fn read(s: &mut Source) -> Self {
        let socket: Option<PathBuf> = s.optional("database.socket");
        let (host, port) = (s.get("database.host", "127.0.0.1".to_owned()), s.get("database.port", 3306));
        let place = socket.map_or(Place::Tcp(host, port), Place::Socket);
        let terms = Terms::read(s);
        let kind = s.get("database.auth", AuthKind::Password);
        let login = Keys { user: "database.user", password: "database.password", secret: "database.secret_id" };
        let login = login.read(s, kind, &terms, &place);
        let migrate_login = Self::read_migrate_login(s, kind, &terms, &place);
        let master_login = s.optional("database.master_secret_id").map(|id| {
            let auth = Auth::Secret(Secret::read(s, id, &terms, &place));
            Login { user: String::new(), auth }
        });
        if master_login.is_some() {
            // The users that it makes sign in by IAM, and their names stand in SQL.
            let logins = [Some(&login), migrate_login.as_ref()];
            let by_token = logins.iter().flatten().all(|login| matches!(login.auth, Auth::Iam(_)));
            s.check(by_token, "database.master_secret_id", "makes users that sign in by IAM: auth must be \"iam\"");
            let name = s.get("database.name", "darkroom".to_owned());
            let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let all_plain = logins.iter().flatten().all(|login| plain(&login.user)) && plain(&name);
            s.check(all_plain, "database.master_secret_id", "needs names of letters, digits and `_`");
        }
        let reader = Reader::read(s, &terms, &login, port);
        let pool = Pool::read(s);
        let iam =
            [Some(&login), migrate_login.as_ref()].iter().flatten().any(|login| matches!(login.auth, Auth::Iam(_)));
        let tls = Tls::read(s, &place, reader.as_ref(), iam);
        let name = s.get("database.name", "darkroom".to_owned());
        Self { place, name, login, migrate_login, master_login, reader, tls, pool }
    }

    fn read_migrate_login(s: &mut Source, kind: AuthKind, terms: &Terms, place: &Place) -> Option<Login> {
        let own: Option<AuthKind> = s.optional("database.migrate_auth");
        let keys = Keys {
            user: "database.migrate_user",
            password: "database.migrate_password",
            secret: "database.migrate_secret_id",
        };
        let given = own.is_some() || [keys.user, keys.secret].iter().any(|key| s.is_given(key));
        if !given {
            let password = s.secret(keys.password);
            s.check(password.is_none(), keys.password, "is given without database.migrate_user");
            return None;
        }
        Some(keys.read(s, own.unwrap_or(kind), terms, place))
    }
}

/// What both logins share.
struct Terms {
    region: Option<String>,
    iam_host: Option<String>,
    lease: Duration,
    ttl: Duration,
}

impl Terms {
    fn read(s: &mut Source) -> Self {
        let this = Self {
            region: s.optional("database.region"),
            iam_host: s.optional("database.iam_host"),
            lease: s.duration("database.iam_token_ttl", "14m 30s"),
            ttl: s.duration("database.secret_ttl", "15m"),
        };
        let lease = (Duration::from_secs(1)..=TOKEN_LIFE).contains(&this.lease);
        s.check(lease, "database.iam_token_ttl", "must be 1s to 15m, the life of a token on RDS");
        s.check(!this.ttl.is_zero(), "database.secret_ttl", "must be more than 0");
        this
    }

    /// Never a default: a token for another region is refused without a word why.
    fn region(&self, s: &mut Source, from: &str) -> String {
        let region = self.region.clone().or_else(|| region::from_rds_host(from).or_else(|| region::from_arn(from)));
        s.check(region.is_some(), "database.region", format!("must be given: `{from}` does not name the AWS region"));
        region.unwrap_or_default()
    }

    fn iam(&self, s: &mut Source, sign_for: &str, port: u16) -> Auth {
        let (region, host) = (self.region(s, sign_for), sign_for.to_owned());
        Auth::Iam(Iam { region, host, port, lease: self.lease })
    }
}

/// The names of the settings of a login.
struct Keys {
    user: &'static str,
    password: &'static str,
    secret: &'static str,
}

impl Keys {
    fn read(&self, s: &mut Source, kind: AuthKind, terms: &Terms, place: &Place) -> Login {
        let (password, id) = (s.secret(self.password), s.optional::<String>(self.secret));
        s.check(password.is_none() || kind == AuthKind::Password, self.password, "is for auth = \"password\" only");
        s.check(
            id.is_none() || kind == AuthKind::SecretsManager,
            self.secret,
            "is for auth = \"secrets-manager\" only",
        );
        let user = match kind {
            AuthKind::SecretsManager => s.optional(self.user).unwrap_or_default(),
            _ => s.require(self.user, String::new()),
        };
        let auth = match (kind, place) {
            (AuthKind::Password, _) => Auth::Password(password),
            (AuthKind::Iam, Place::Tcp(host, port)) => {
                let sign_for = terms.iam_host.as_ref().unwrap_or(host);
                terms.iam(s, sign_for, *port)
            }
            (AuthKind::Iam, Place::Socket(_)) => {
                s.check(false, "database.socket", "IAM authentication needs database.host instead: tokens go over TLS");
                Auth::Password(None)
            }
            (AuthKind::SecretsManager, _) => {
                s.check(id.is_some(), self.secret, "must name the secret (name or ARN)");
                Auth::Secret(Secret::read(s, id.unwrap_or_default(), terms, place))
            }
        };
        Login { user, auth }
    }
}

impl Secret {
    fn read(s: &mut Source, id: String, terms: &Terms, place: &Place) -> Self {
        let from = match place {
            Place::Tcp(host, _) if region::from_arn(&id).is_none() => host,
            _ => &id,
        };
        let region = terms.region(s, from);
        Self { id, region, ttl: terms.ttl }
    }
}

impl Reader {
    fn read(s: &mut Source, terms: &Terms, login: &Login, port: u16) -> Option<Self> {
        let sign_for: Option<String> = s.optional("database.read_replica_iam_host");
        let port = s.optional("database.read_replica_port").unwrap_or(port);
        let host: String = s.optional("database.read_replica_host")?;
        let auth = match &login.auth {
            Auth::Iam(_) => terms.iam(s, sign_for.as_ref().unwrap_or(&host), port),
            same => same.clone(),
        };
        Some(Self { place: Place::Tcp(host, port), login: Login { auth, ..login.clone() } })
    }
}

impl Tls {
    fn read(s: &mut Source, place: &Place, reader: Option<&Reader>, iam: bool) -> Self {
        let local = place.is_local() && reader.is_none_or(|reader| reader.place.is_local());
        let packaged = (!local && Path::new(PACKAGED_CA).exists()).then(|| PACKAGED_CA.into());
        let ca: Option<PathBuf> = s.optional("database.tls_ca").or(packaged);
        if let Some(Err(error)) = ca.as_ref().map(|path| ca_file::read_ca_file(path)) {
            s.check(false, "database.tls_ca", error);
        }
        let verified = !local || iam || (ca.is_some() && !matches!(place, Place::Socket(_)));
        let fitting = if verified { TlsMode::VerifyIdentity } else { TlsMode::Preferred };
        let mode = s.optional("database.tls_mode").unwrap_or(fitting);
        s.check(
            mode == TlsMode::VerifyIdentity || local && !iam,
            "database.tls_mode",
            "must be \"verify-identity\": with anything less, any server at this address gets the password or token \
             in clear (only on loopback and over a unix socket, without IAM, others are allowed)",
        );
        Self { mode, ca }
    }
}

impl Pool {
    fn read(s: &mut Source) -> Self {
        let most = if s.in_lambda() { MOST_IN_LAMBDA } else { MOST };
        let this = Self {
            max_connections: s.get("database.max_connections", most),
            acquire_timeout: s.duration("database.acquire_timeout", "1500ms"),
            connect_timeout: s.duration("database.connect_timeout", "5s"),
            query_timeout: s.duration("database.query_timeout", "5s"),
            transaction_timeout: s.duration("database.transaction_timeout", "8s"),
            idle_timeout: s.duration("database.idle_timeout", "1m"),
            max_lifetime: s.duration("database.max_lifetime", "30m"),
        };
        s.check(this.max_connections >= 2, "database.max_connections", "must be at least 2");
        for (key, time) in [
            ("database.acquire_timeout", this.acquire_timeout),
            ("database.connect_timeout", this.connect_timeout),
            ("database.transaction_timeout", this.transaction_timeout),
            ("database.idle_timeout", this.idle_timeout),
            ("database.max_lifetime", this.max_lifetime),
        ] {
            s.check(!time.is_zero(), key, "must be more than 0");
        }
        // MySQL's and MariaDB's own limits of a statement are 32 bits of milliseconds, and a year of seconds.
        let sane = this.query_timeout <= Duration::from_hours(24);
        s.check(sane, "database.query_timeout", "must be at most 24h; 0s for no limit");
        this
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Mistakes, Source};

    const REST: &str = r#"
        http.public_url = "https://photos.example"
        identity = { issuer = "https://id.example", audience = "darkroom", jwks = "/etc/darkroom/jwks.json" }
        storage = { directory = "/var/lib/darkroom", signing_keys = ["00112233445566778899aabbccddeeff"] }
    "#;
    const RDS: &str = "host = 'photos.c9akciq32.eu-west-1.rds.amazonaws.com'";

    fn read(settings: &str) -> Result<Database, Mistakes> {
        let source = Source::parse(&format!("{REST}\n[database]\n{settings}"), []).unwrap();
        Ok(Config::read(source)?.database)
    }

    #[test]
    fn requires_verify_identity_off_loopback() {
        for mode in ["disabled", "preferred", "required", "verify-ca"] {
            let told = read(&format!("user = 'x'\nhost = 'db.internal'\ntls_mode = '{mode}'")).unwrap_err().to_string();
            assert!(told.contains("database.tls_mode") && told.contains("in clear"), "{mode}: {told}");
            let reader = format!("user = 'x'\nread_replica_host = 'db.internal'\ntls_mode = '{mode}'");
            assert!(read(&reader).unwrap_err().to_string().contains("database.tls_mode"), "{mode} for a reader");
            for local in ["host = 'localhost'", "host = '127.0.0.1'", "host = '::1'", "socket = '/run/db.sock'"] {
                assert!(read(&format!("user = 'x'\n{local}\ntls_mode = '{mode}'")).is_ok(), "{mode} at {local}");
            }
            let iam =
                format!("user = 'x'\nauth = 'iam'\nregion = 'eu-west-1'\nhost = 'localhost'\ntls_mode = '{mode}'");
            assert!(read(&iam).unwrap_err().to_string().contains("database.tls_mode"), "{mode} with tokens");
        }
        assert_eq!(read("user = 'x'\nhost = 'db.internal'").unwrap().tls.mode, TlsMode::VerifyIdentity);
        // Names and addresses that only look like this machine.
        for host in ["localhost.example", "127.0.0.1.example", "0.0.0.0", "10.0.0.1"] {
            assert!(read(&format!("user = 'x'\nhost = '{host}'\ntls_mode = 'preferred'")).is_err(), "{host}");
        }
    }

    #[test]
    fn region_is_given_or_parsed_never_guessed() {
        let region = |settings: &str| match read(settings).map(|database| database.login.auth) {
            Ok(Auth::Iam(iam)) => Ok((iam.region, iam.host)),
            Ok(_) => panic!("no IAM in {settings}"),
            Err(mistakes) => Err(mistakes.to_string()),
        };
        let rds = "photos.c9akciq32.eu-west-1.rds.amazonaws.com".to_owned();
        let iam = "user = 'app'\nauth = 'iam'";
        assert_eq!(region(&format!("{iam}\n{RDS}")), Ok(("eu-west-1".to_owned(), rds.clone())));
        assert_eq!(region(&format!("{iam}\n{RDS}\nregion = 'eu-west-3'")), Ok(("eu-west-3".to_owned(), rds.clone())));
        let by_another = format!("{iam}\nhost = 'db.internal'\niam_host = '{rds}'");
        assert_eq!(region(&by_another), Ok(("eu-west-1".to_owned(), rds)));
        assert!(region(&format!("{iam}\nhost = 'db.internal'")).unwrap_err().contains("database.region"));
        assert!(region(&format!("{iam}\nsocket = '/run/db.sock'")).unwrap_err().contains("database.socket"));
    }

    #[test]
    fn names_conflicting_settings() {
        for (settings, key) in [
            (format!("user = 'x'\nauth = 'iam'\npassword = 'y'\n{RDS}"), "database.password"),
            (format!("auth = 'iam'\n{RDS}"), "database.user"),
            (format!("user = 'x'\nauth = 'iam'\niam_token_ttl = '16m'\n{RDS}"), "database.iam_token_ttl"),
            (format!("auth = 'secrets-manager'\n{RDS}"), "database.secret_id"),
            ("auth = 'secrets-manager'\nsecret_id = 'x'\nhost = 'db.internal'".to_owned(), "database.region"),
            (format!("user = 'x'\nsecret_id = 'y'\n{RDS}"), "database.secret_id"),
            ("user = 'x'\nauth = 'kerberos'".to_owned(), "database.auth"),
            ("user = 'x'\nmigrate_password = 'y'".to_owned(), "database.migrate_password"),
            ("user = 'x'\ntls_ca = '/nowhere.pem'".to_owned(), "database.tls_ca"),
            ("user = 'x'\nmax_connections = 1".to_owned(), "database.max_connections"),
            (format!("user = 'x'\nmaster_secret_id = 'm'\n{RDS}"), "database.master_secret_id"),
            (
                format!("user = 'x'\nauth = 'iam'\nname = 'a`b'\nmaster_secret_id = 'm'\n{RDS}"),
                "database.master_secret_id",
            ),
            ("user = 'x'\nacquire_timeout = '0s'".to_owned(), "database.acquire_timeout"),
        ] {
            let told = read(&settings).unwrap_err().to_string();
            assert!(told.contains(&format!("{key}: ")) || told.contains(&format!("{key} is missing")), "{key}: {told}");
        }
    }

    #[test]
    fn migration_user_has_no_statement_timeout() {
        let database = read("user = 'app'\npassword = 'a'\nmigrate_user = 'ddl'\nmigrate_password = 'b'").unwrap();
        let migrating = database.for_migrations();
        assert_eq!((migrating.login.user.as_str(), database.login.user.as_str()), ("ddl", "app"));
        assert_eq!((migrating.pool.query_timeout, database.pool.query_timeout.is_zero()), (Duration::ZERO, false));
        assert_eq!(read("user = 'app'").unwrap().for_migrations().login.user, "app");
        let secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ddl";
        let mixed = format!(
            "user = 'app'\nauth = 'iam'\nmigrate_auth = 'secrets-manager'\nmigrate_secret_id = '{secret}'\n{RDS}"
        );
        assert!(
            matches!(read(&mixed).unwrap().for_migrations().login.auth, Auth::Secret(secret) if secret.region == "eu-west-1")
        );
    }
}
