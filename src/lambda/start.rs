//! Which function this is, and its start.

use std::{env, path::Path};

use serde_json::json;

use crate::{
    app::{App, AppState},
    commands,
    config::{self, Database},
    telemetry::Stream,
};

/// Where the runtime's API is, `HOST:PORT`.
const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";
/// The handler that the function is configured with.
const HANDLER: &str = "_HANDLER";

/// What a function does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Answers requests.
    Api,
    /// Acts on messages of the queue.
    Develop,
    /// Does a step of an edit.
    Step,
    /// Sends what waits in the outboxes.
    Announce,
    /// Makes the database, its users and its schema.
    Migrate,
}

impl Function {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Api, Self::Develop, Self::Step, Self::Announce, Self::Migrate];

    /// The handler's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => config::API,
            Self::Develop => "develop",
            Self::Step => "step",
            Self::Announce => "announce",
            Self::Migrate => "migrate",
        }
    }

    fn of_handler(name: &str) -> Result<Self, UnknownHandler> {
        let named = Self::ALL.into_iter().find(|function| function.as_str() == name);
        named.ok_or_else(|| UnknownHandler(name.to_owned()))
    }
}

/// A handler that no function has.
#[derive(Debug, thiserror::Error)]
#[error("the handler of a function must be one of {all}, not {0:?}", all = Function::ALL.map(Function::as_str).join(", "))]
pub struct UnknownHandler(String);

/// Whether Lambda has started this program: as the `bootstrap`, without arguments.
#[must_use]
pub fn is_bootstrap() -> bool {
    env::var_os(RUNTIME_API).is_some() && env::args_os().len() == 1
}

/// What a function stands on.
pub(crate) enum Started {
    /// All of the service.
    Serve(Function, AppState),
    /// The server of the database alone: its role may sign in nowhere else, and there may be no database yet.
    Migrate(Box<Database>),
}

/// Reads the configuration, from variables and the file that `DARKROOM_CONFIG` names, and builds what the function needs.
pub(crate) async fn start() -> anyhow::Result<Started> {
    let function = Function::of_handler(&env::var(HANDLER).unwrap_or_default())?;
    let file = env::var_os("DARKROOM_CONFIG");
    let (config, level) = commands::configure(file.as_deref().map(Path::new), Stream::Function).await?;
    Ok(match function {
        Function::Migrate => Started::Migrate(Box::new(config.database)),
        _ => Started::Serve(function, App::build(config, Some(level)).await?),
    })
}

/// Tells Lambda why there is no start: `POST /runtime/init/error`. Whoever deploys sees it at once, not only in the log.
pub(crate) async fn report(error: &anyhow::Error) {
    let Ok(api) = env::var(RUNTIME_API) else { return };
    let body = json!({ "errorMessage": format!("{error:#}"), "errorType": "Darkroom.Start", "stackTrace": [] });
    let url = format!("http://{api}/2018-06-01/runtime/init/error");
    let told = reqwest::Client::new().post(url).header("lambda-runtime-function-error-type", "Darkroom.Start");
    if let Err(error) = told.json(&body).send().await {
        tracing::warn!(%error, "Lambda was not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_handler_name() {
        for function in Function::ALL {
            assert_eq!(Function::of_handler(function.as_str()).unwrap(), function);
        }
        for wrong in ["", "API", "index.handler"] {
            let said = Function::of_handler(wrong).unwrap_err().to_string();
            assert!(said.contains(wrong) && said.contains("api, develop, step, announce, migrate"), "{said}");
        }
    }
}
