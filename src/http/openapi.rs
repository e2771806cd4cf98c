//! The OpenAPI document and the page that shows it.

use axum::{
    Router,
    http::{HeaderValue, header},
    response::Response,
};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::{
    OpenApi as _,
    openapi::{
        OpenApi,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::error::Problem;
use crate::app::AppState;

/// The document without routes.
pub fn base() -> OpenApi {
    #[derive(utoipa::OpenApi)]
    #[openapi(
        info(
            title = "Darkroom",
            description = "Photo sharing for events: a host creates an album, guests add photos through an invite link."
        ),
        components(schemas(Problem))
    )]
    struct Document;

    let mut api = Document::openapi();
    let bearer = || HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("jwt", SecurityScheme::Http(bearer().bearer_format("JWT").build()));
    let invite = bearer().description(Some("An invite token, `dki_...`")).build();
    components.add_security_scheme("invite", SecurityScheme::Http(invite));
    api
}

/// Adds the version, and makes operation ids unique: a handler's name is unique in its own file only.
pub fn complete(mut api: OpenApi) -> OpenApi {
    for item in api.paths.paths.values_mut() {
        let methods = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in methods.into_iter().flatten() {
            if let (Some([tag, ..]), Some(id)) = (operation.tags.as_deref(), &mut operation.operation_id) {
                *id = format!("{tag}_{id}");
            }
        }
    }
    env!("CARGO_PKG_VERSION").clone_into(&mut api.info.version);
    api
}

/// `/openapi.json` and `/docs`. Without the setting Swagger UI would send the document to validator.swagger.io.
pub fn docs(api: OpenApi) -> Router<AppState> {
    let page = SwaggerUi::new("/docs").url("/openapi.json", api).config(Config::default().validator_url("none"));
    let cache =
        |response: &Response| response.status().is_success().then_some(HeaderValue::from_static("public, max-age=300"));
    Router::from(page).layer(SetResponseHeaderLayer::overriding(header::CACHE_CONTROL, cache))
}
