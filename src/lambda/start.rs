//! Selects the function by its handler and starts it.

use std::{env, path::Path};

use serde_json::json;

use crate::{
    app::{App, AppState},
    config::{self, Database, Mistakes},
    runtime::startup,
    telemetry::LogStream,
};

/// `HOST:PORT` of the Lambda runtime API.
const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";
/// The configured handler.
const HANDLER: &str = "_HANDLER";

/// The function that this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Serves HTTP requests.
    Api,
    /// Handles SQS messages.
    Develop,
    /// Runs one step of an edit.
    Step,
    /// Publishes events and queues due jobs.
    Announce,
    /// Creates the database and its users and migrates the schema.
    Migrate,
}

impl Function {
    pub const ALL: [Self; 5] = [Self::Api, Self::Develop, Self::Step, Self::Announce, Self::Migrate];

    /// The name of the handler.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => config::API,
            Self::Develop => "develop",
            Self::Step => "step",
            Self::Announce => "announce",
            Self::Migrate => "migrate",
        }
    }

    fn from_handler(name: &str) -> Result<Self, Mistakes> {
        Self::ALL.into_iter().find(|function| function.as_str() == name).ok_or_else(|| {
            let handlers = Self::ALL.map(Self::as_str).join(", ");
            Mistakes::one(&format!("the handler must be one of {handlers}, not {name:?}"))
        })
    }
}

/// Whether Lambda started this process: as `bootstrap`, without arguments.
pub fn is_bootstrap() -> bool {
    env::var_os(RUNTIME_API).is_some() && env::args_os().len() == 1
}

/// What a function runs on.
pub(crate) enum Started {
    /// The whole service.
    Serve(Function, AppState),
    /// The settings of the database: the role of `migrate` has no other permissions, and there may be no database yet.
    Migrate(Box<Database>),
}

/// Reads the configuration from variables and the file named by `DARKROOM_CONFIG`, and builds what the function needs.
pub(crate) async fn start() -> anyhow::Result<Started> {
    let function = Function::from_handler(&env::var(HANDLER).unwrap_or_default())?;
    let file = env::var_os("DARKROOM_CONFIG");
    let (config, level) = startup::configure(file.as_deref().map(Path::new), LogStream::Lambda).await?;
    Ok(match function {
        Function::Migrate => Started::Migrate(Box::new(config.database)),
        _ => Started::Serve(function, App::build(config, Some(level)).await?),
    })
}

/// Reports a failed start to Lambda (`POST /runtime/init/error`), so that a deployment shows it.
pub(crate) async fn report(error: &anyhow::Error) {
    let Ok(api) = env::var(RUNTIME_API) else { return };
    let body = json!({ "errorMessage": format!("{error:#}"), "errorType": "Darkroom.Start", "stackTrace": [] });
    let url = format!("http://{api}/2018-06-01/runtime/init/error");
    let request = reqwest::Client::new().post(url).header("lambda-runtime-function-error-type", "Darkroom.Start");
    if let Err(error) = request.json(&body).send().await {
        tracing::warn!(%error, "init error not reported to Lambda");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_unknown_handler() {
        for function in Function::ALL {
            assert_eq!(Function::from_handler(function.as_str()).unwrap(), function);
        }
        for wrong in ["", "API", "index.handler"] {
            let error = Function::from_handler(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("api, develop, step, announce, migrate"), "{error}");
        }
    }
}
